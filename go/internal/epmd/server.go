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
	users        *users
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
	s.users = newUsers(o, s.slots)
	s.nodes = &nodeEnv{
		timeout: o.HandoverTimeout, log: o.Log, names: s.names, slots: s.slots, users: s.users, upgrade: s.upgrade,
		tasks: s.tasks, passDone: s.passDone,
	}
	messageSize() // it opens two sockets at its first call, so call it while files are free
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
	for _, c := range s.conns.polledConns() {
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
	if s.conns.beginEnd(frozen) {
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
	go s.drainAndFreeze()
	return nil
}

// drainAndFreeze waits for the handovers in progress, and then makes Serve freeze the
// server and return. drain gets the full HandoverTimeout: each of these handovers began
// earlier, so its own deadline comes first.
func (s *Server) drainAndFreeze() {
	if s.upgrade.drain(s.o.HandoverTimeout, s.tasks.end) {
		s.shutDown(true)
	}
}

// TakeState returns what Serve left to a successor, or nil if it did not return for an
// upgrade. The caller must close the open files in it. A second call returns nil.
func (s *Server) TakeState() *State { return s.upgrade.takeState() }

// freeze ends every goroutine that serves a connection, which keeps the connection for the
// successor, and publishes the state with these connections and the listeners.
func (s *Server) freeze(a *acceptor) {
	for _, entry := range s.names.Live() {
		nodeOf(entry).markGone(errFrozen)
	}
	for _, c := range s.conns.polledConns() {
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

// awaitAnswers returns when done is closed: when all other goroutines have ended. Until
// then it closes connections whose peer has not read its answer for freezeTimeout. Only
// these have a time limit. The other goroutines wait for no peer, only for a processor,
// which may take long on a busy host.
func (s *Server) awaitAnswers(done <-chan struct{}) {
	tick := time.NewTicker(freezeTimeout / 4)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		for _, c := range s.conns.polledConns() {
			if began := c.writeStart.Load(); began != 0 && time.Since(time.Unix(0, began)) > freezeTimeout {
				s.o.Log.Warn().Stringer("peer", c.peer).Msg("upgrade: the peer does not read its answer, closing the connection")
				c.hangUp()
			}
		}
	}
}

// state describes the server for a successor. With trial, the server still serves, and the
// state has no open files. Without trial, the server is frozen, and the state has the
// heartbeats that were kept; upgrade.publish adds the clients.
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

// Resume is like [Server.Serve], with what a predecessor left. It takes over the open files
// of st, even if it fails.
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
	if err := c.startPolling(); err != nil {
		c.close()
		return err
	}
	var uid int64
	retry := false
	if st.UID != nil && *st.UID != unknownUID {
		uid = *st.UID
	} else {
		uid, retry = s.users.uidOf(&c.socket)
	}
	u, _ := s.users.addUsage(uid, filesOf(st.Alive2Req))
	n := newNode(s.nodes, c, st.Alive2Req, u)
	n.asked = st.Asked
	n.partial.Write(st.Said)
	if err := s.names.Restore(n.entry, st.Count); err != nil {
		s.users.removeUsage(u)
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
