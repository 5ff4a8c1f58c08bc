package epmd

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"handover/go/internal/epmdproto"
)

// An upgrade: this server ends, and leaves its open files to another one, which
// may be another program in the same process.
//
//	serving --Upgrade--> trial --> draining --> frozen --> Serve returns; Left
//	   ^                   |
//	   '----- it failed ---'
//
// draining: handovers under way come to their end; new ones are set aside, all
// else is answered. frozen: nobody reads any more; what was read already goes with
// the connection. Whoever connects from now on waits in the listener's queue.

var (
	// errFrozen: the connection, or the wait, is the successor's.
	errFrozen = errors.New("epmd: making way for the successor")
	// ErrUpgrading: one upgrade at a time.
	ErrUpgrading = errors.New("epmd: an upgrade is under way")
	// ErrNoUpgrade: Options.Trial is not set.
	ErrNoUpgrade = errors.New("epmd: this EPMD can't be upgraded")
)

// freezeTimeout bounds the wait for an answer that a peer does not read.
const freezeTimeout = time.Second

// leaving is what a server knows of its own upgrade.
type leaving struct {
	busy     atomic.Bool // from the trial on
	draining atomic.Bool
	frozen   atomic.Bool
	passing  atomic.Int64  // handovers under way
	idle     chan struct{} // has room for one; there are none, perhaps

	mu      sync.Mutex
	killed  bool // Close came after frozen
	clients []ClientState
	nodes   map[*node]int // heartbeats
	left    *State
}

func (l *leaving) init() {
	l.idle = make(chan struct{}, 1)
	l.nodes = make(map[*node]int)
}

// close: the server was told to end, whatever is under way.
func (l *leaving) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.killed = true
	if l.left != nil {
		closeFDs(l.left.FDs())
		l.left = nil
	}
}

// Upgrade tries the successor out, and if that goes well makes Serve return and
// [Server.Left] tell what is there to go on with. Else the server goes on.
func (s *Server) Upgrade() error {
	if s.o.Trial == nil {
		return ErrNoUpgrade
	}
	if !s.leaving.busy.CompareAndSwap(false, true) {
		return ErrUpgrading
	}
	if err := s.o.Trial(s.state(true)); err != nil {
		s.leaving.busy.Store(false)
		s.o.Log.Error().Err(err).Msg("upgrade failed; going on as before")
		return err
	}
	go s.leave()
	return nil
}

// Left is what Serve left behind when it returned for an upgrade; else nil. The
// open files in it are the caller's, who gets it once.
func (s *Server) Left() *State {
	s.leaving.mu.Lock()
	defer s.leaving.mu.Unlock()
	st := s.leaving.left
	s.leaving.left = nil
	return st
}

// leave drains and then freezes the server.
func (s *Server) leave() {
	s.leaving.draining.Store(true)
	// Each handover has its own deadline, which is this one or an earlier one.
	patience := time.NewTimer(s.o.HandoverTimeout)
	defer patience.Stop()
	for late := false; s.leaving.passing.Load() > 0 && !late; {
		select {
		case <-s.leaving.idle:
		case <-patience.C:
			late = true
		case <-s.end:
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.leaving.frozen.Store(true)
		s.ending = true
		close(s.end)
	}
}

// beginHandover says whether one may begin here; endHandover follows a yes.
func (s *Server) beginHandover() bool {
	s.leaving.passing.Add(1)
	if !s.leaving.draining.Load() {
		return true
	}
	s.endHandover()
	return false
}

func (s *Server) endHandover() {
	if s.leaving.passing.Add(-1) > 0 || !s.leaving.draining.Load() {
		return
	}
	select {
	case s.leaving.idle <- struct{}{}:
	default:
	}
}

// freeze takes every connection out of its goroutine, and the listeners' files.
func (s *Server) freeze(a *acceptor) {
	for _, entry := range s.names.Live() {
		nodeOf(entry).part()
	}
	for _, c := range s.parked() {
		c.interrupt()
	}
	gone := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(gone)
	}()
	s.awaitAnswers(gone)
	st := s.state(false)
	for _, p := range a.fds[1:] {
		if fd, err := dupCloexec(int(p.Fd)); err == nil {
			st.Listeners = append(st.Listeners, fd)
		}
	}
	s.leaving.mu.Lock()
	defer s.leaving.mu.Unlock()
	if s.leaving.killed {
		closeFDs(st.FDs())
		return
	}
	s.leaving.left = st
}

// awaitAnswers returns when gone is closed, for which it closes connections that
// have not taken their answer for too long. All others only need a processor, for
// however long it takes to get one.
func (s *Server) awaitAnswers(gone <-chan struct{}) {
	tick := time.NewTicker(freezeTimeout / 4)
	defer tick.Stop()
	for {
		select {
		case <-gone:
			return
		case <-tick.C:
		}
		for _, c := range s.parked() {
			if began := c.writing.Load(); began != 0 && time.Since(time.Unix(0, began)) > freezeTimeout {
				s.o.Log.Warn().Stringer("peer", c.peer).Msg("upgrade: does not read its answer, closing")
				c.hangUp()
			}
		}
	}
}

// errNotOwner: whoever may tell EPMD to run a program can run one as its user.
var errNotOwner = errors.New("epmd: only EPMD's own user and root may upgrade it (or send it SIGUSR2)")

func (s *Server) mayUpgrade(c *conn) error {
	local, err := c.local()
	if err != nil {
		return err
	}
	uid, err := s.owner(c.peer, local)
	if err != nil {
		return err
	}
	if uid != 0 && int(uid) != os.Geteuid() {
		return errNotOwner
	}
	return nil
}

// upgrade answers UPGRADE_REQ: its success is told by the successor.
func (s *Server) upgrade(c *conn) {
	err := s.mayUpgrade(c)
	if err == nil {
		err = s.Upgrade()
	}
	if err != nil {
		s.stats.request(kindUpgrade, outcomeRefused)
		s.reply(c, []byte(epmdproto.UpgradeNo+err.Error()))
		return
	}
	s.stats.request(kindUpgrade, outcomeOK)
	s.setAside(c, nil, []byte(epmdproto.UpgradeOK))
}
