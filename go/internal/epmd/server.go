package epmd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/policy"
	"handover/go/internal/registry"
)

var (
	// ErrUpgrading: one upgrade at a time.
	ErrUpgrading = errors.New("epmd: an upgrade is under way")
	// ErrNoUpgrade: Options.Trial is not set.
	ErrNoUpgrade = errors.New("epmd: this EPMD cannot be upgraded")
)

// freezeTimeout bounds the wait for a peer that does not read its answer.
const freezeTimeout = time.Second

// Server is one EPMD. Make it with [New], run it with [Server.Serve]. Its methods are
// safe for concurrent use.
type Server struct {
	o            Options
	names        *registry.Registry
	conns        *connections
	slots        *slots
	owners       *owners
	nodes        *nodeEnv
	lists        lists
	statusAnswer statusAnswer
	stats        *stats
	upgrade      *upgrade
	policy       atomic.Pointer[policy.Policy] // nil: everything is allowed
	tasks        *tasks
	spare        *conn // for the next connection; only the accept loop uses it
}

// New returns a server that does nothing until [Server.Serve] or [Server.Resume].
func New(o Options) *Server {
	o = o.withDefaults()
	s := &Server{
		o:       o,
		names:   registry.New(o.MaxOld),
		slots:   newSlots(o),
		stats:   newStats(o),
		upgrade: newUpgrade(o.Log),
		tasks:   &tasks{end: make(chan struct{})},
		spare:   new(conn),
	}
	s.lists.names, s.lists.port = s.names, uint32(o.Port)
	s.conns = newConnections(o, s.stats)
	s.owners = newOwners(o, s.slots)
	s.nodes = &nodeEnv{
		timeout: o.HandoverTimeout, log: o.Log, names: s.names, slots: s.slots, owners: s.owners, upgrade: s.upgrade,
		tasks: s.tasks, passDone: s.passDone,
	}
	messageSize() // measured while there are files for it
	return s
}

// SetPolicy sets the policy, or none (nil). Requests under way are answered by the
// previous one.
func (s *Server) SetPolicy(p *policy.Policy) { s.policy.Store(p) }

// Serve answers on the listeners until [Server.Close] or an allowed KILL. It closes
// the listeners and every connection, and returns when the last goroutine has ended.
// After an upgrade it leaves them to the successor, see [Server.TakeState]. Each
// listener must be of one address family (IPV6_V6ONLY): a node cannot adopt a
// connection of a dual-stack one.
func (s *Server) Serve(listeners []*net.TCPListener) error {
	a, err := newAcceptor(listeners, s.o, s.tasks, s.admit)
	if err != nil {
		return err
	}
	defer a.close()
	s.tasks.Go(a.run)
	<-s.tasks.end
	a.stop()
	if s.conns.frozen.Load() {
		s.freeze(a)
		return nil
	}
	for _, c := range s.conns.openConns() {
		c.hangUp()
	}
	s.tasks.Wait()
	return nil
}

// Close makes Serve return. It may be called more than once, and before Serve.
func (s *Server) Close() {
	s.shutDown(false)
	s.upgrade.discard()
}

// shutDown makes Serve return. It is a no-op if the server is ending already.
func (s *Server) shutDown(frozen bool) {
	if s.conns.refuseMore(frozen) {
		close(s.tasks.end)
	}
}

// Upgrade calls Options.Trial. If that succeeds, Serve returns and [Server.TakeState]
// returns what the successor needs. If it fails, the server goes on.
func (s *Server) Upgrade() error {
	if s.o.Trial == nil {
		return ErrNoUpgrade
	}
	if !s.upgrade.busy.CompareAndSwap(false, true) {
		return ErrUpgrading
	}
	if err := s.o.Trial(s.state(true)); err != nil {
		s.upgrade.busy.Store(false)
		s.o.Log.Error().Err(err).Msg("upgrade failed; going on as before")
		return err
	}
	go s.startDrain()
	return nil
}

// startDrain drains and then freezes the server. Each handover under way has its own
// deadline, which is not later than this one.
func (s *Server) startDrain() {
	if s.upgrade.drain(s.o.HandoverTimeout, s.tasks.end) {
		s.shutDown(true)
	}
}

// TakeState returns what Serve left to a successor, or nil if it did not return for an
// upgrade. The caller must close the open files in it. A second call returns nil.
func (s *Server) TakeState() *State { return s.upgrade.takeState() }

// freeze takes every connection out of its goroutine, and the listeners' files.
func (s *Server) freeze(a *acceptor) {
	for _, entry := range s.names.Live() {
		nodeOf(entry).endHandovers(errFrozen)
	}
	for _, c := range s.conns.openConns() {
		c.interrupt()
	}
	done := make(chan struct{})
	go func() {
		s.tasks.Wait()
		close(done)
	}()
	s.awaitAnswers(done)
	st := s.state(false)
	st.Listeners = a.listenerCopies()
	s.upgrade.publish(st)
}

// awaitAnswers returns when done is closed. Until then it closes connections that have
// not read their answer for too long. All others only need a processor, however long it
// takes to get one.
func (s *Server) awaitAnswers(done <-chan struct{}) {
	tick := time.NewTicker(freezeTimeout / 4)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		for _, c := range s.conns.openConns() {
			if began := c.writeStart.Load(); began != 0 && time.Since(time.Unix(0, began)) > freezeTimeout {
				s.o.Log.Warn().Stringer("peer", c.peer).Msg("upgrade: the peer does not read its answer, closing the connection")
				c.hangUp()
			}
		}
	}
}

// state describes the server: with trial while it serves, without open files; else
// frozen, with the heartbeats that were kept. upgrade.publish adds the clients.
func (s *Server) state(trial bool) *State {
	st := &State{Version: stateVersion}
	for _, entry := range slices.Backward(s.names.Live()) {
		fd, kept := s.upgrade.takeHeartbeat(entry)
		if !kept && !trial {
			s.o.Log.Error().Str("node", entry.Name).Msg("upgrade: the node's heartbeat is lost; the node will register again")
			continue
		}
		st.Nodes = append(st.Nodes, nodeOf(entry).state(fd, trial))
	}
	for _, entry := range s.names.Old() {
		st.Old = append(st.Old, OldState{entry.Record(), entry.FD})
	}
	return st
}

// Resume is like [Server.Serve], with what a predecessor left. It takes the open files
// of st over, even if it fails.
func (s *Server) Resume(st *State) error {
	var listeners []*net.TCPListener
	for _, fd := range st.Listeners {
		l, err := listenerOf(fd)
		if err != nil {
			return fmt.Errorf("%w: listener: %w", ErrState, err)
		}
		listeners = append(listeners, l)
	}
	for _, old := range st.Old {
		if err := s.names.RestoreOld(old.Record, old.FD); err != nil {
			s.o.Log.Error().Err(err).Msg("cannot restore an old name")
		}
	}
	for _, n := range st.Nodes {
		if err := s.resumeNode(n); err != nil {
			s.o.Log.Error().Err(err).Str("node", n.Name).Msg("cannot restore a node; it will register again")
		}
	}
	for _, c := range st.Clients {
		s.resumeClient(c)
	}
	return s.Serve(listeners)
}

func listenerOf(fd int) (*net.TCPListener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		_ = l.Close()
		return nil, fmt.Errorf("fd %d is not a TCP listener", fd)
	}
	return tcp, nil
}

func (s *Server) resumeNode(st NodeState) error {
	unix.CloseOnExec(st.FD)
	c := &conn{shared: s.conns, socket: socket{fd: st.FD, peer: st.Peer}}
	if err := c.park(); err != nil {
		c.close()
		return err
	}
	var uid int64
	retry := false
	if st.UID != nil && *st.UID != unknownUID {
		uid = *st.UID
	} else {
		uid, retry = s.owners.uidOf(&c.socket)
	}
	a, _ := s.owners.openAccount(uid, filesOf(st.Alive2Req))
	n := newNode(s.nodes, c, st.Alive2Req, a)
	n.asked = st.Asked
	n.partial.Write(st.Said)
	if err := s.names.Restore(n.entry, st.Count); err != nil {
		s.owners.closeAccount(a)
		c.close()
		return err
	}
	if retry {
		s.tasks.Go(n.findUser)
	}
	s.tasks.Go(func() {
		defer c.close()
		n.serveHeartbeat()
	})
	return nil
}

func (s *Server) resumeClient(st ClientState) {
	unix.CloseOnExec(st.FD)
	c := &conn{
		shared: s.conns, socket: socket{fd: st.FD, peer: st.Peer}, deadline: time.Now().Add(st.Patience),
		got: len(st.Header), body: st.Body, split: st.Split,
	}
	copy(c.header[:], st.Header)
	c.countClient()
	s.tasks.Go(func() {
		if len(st.Answer) == 0 {
			s.serve(c)
			return
		}
		defer c.close()
		s.reply(c, st.Answer)
	})
}
