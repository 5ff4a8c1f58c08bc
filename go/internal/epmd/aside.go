package epmd

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// part ends all that is under way to the node, and leaves it its name.
func (n *node) part() {
	n.mu.Lock()
	first := n.left == nil
	if first {
		n.left = errFrozen
	}
	open := n.channel
	n.channel = nil
	n.mu.Unlock()
	if !first {
		return
	}
	close(n.gone)
	if open != nil {
		open.breakOff(errFrozen)
	}
}

// setAside keeps c for the successor, with what was read of its request or with
// the answer that it waits for. It closes c, the successor's copy stays.
func (s *Server) setAside(c *conn, body, answer []byte) {
	st := ClientState{
		Peer: c.peer, Patience: time.Until(c.deadline), Header: slices.Clone(c.header[:c.got]),
		Body: slices.Clone(body), Split: c.split, Answer: answer,
	}
	s.leaving.mu.Lock()
	defer s.leaving.mu.Unlock()
	var err error
	if st.FD, err = c.takeOut(); err != nil {
		s.o.Log.Error().Err(err).Stringer("peer", c.peer).Msg("upgrade: closed without an answer")
		return
	}
	s.leaving.clients = append(s.leaving.clients, st)
}

func (n *node) setAside() {
	l := &n.s.leaving
	l.mu.Lock()
	defer l.mu.Unlock()
	fd, err := n.heartbeat.takeOut()
	if err != nil {
		n.s.o.Log.Error().Err(err).Str("node", n.entry.Name).Msg("upgrade: heartbeat")
		return
	}
	l.nodes[n] = fd
}

// takeOut closes c and returns another descriptor of the same connection, which
// no poller knows.
func (c *conn) takeOut() (fd int, err error) {
	err = c.control(func(old int) error {
		fd, err = dupCloexec(old)
		return err
	})
	c.close()
	if c.file == nil {
		c.fd = -1 // close may be called again
	}
	return fd, err
}

// ifFrozen follows every new deadline of a read, lest it undoes interrupt.
func (c *conn) ifFrozen() {
	if c.s.leaving.frozen.Load() {
		c.interrupt()
	}
}

// interrupt makes a read that waits, and all to come, return errFrozen.
func (c *conn) interrupt() { _ = c.file.SetReadDeadline(time.Unix(1, 0)) }

func dupCloexec(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) }

func closeFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// state describes the server: for a trial while it serves, without open files; or
// frozen, with those that were set aside.
func (s *Server) state(trial bool) *State {
	st := &State{Version: stateVersion}
	l := &s.leaving
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, entry := range slices.Backward(s.names.Live()) {
		n := nodeOf(entry)
		fd, there := l.nodes[n]
		if !there && !trial {
			s.o.Log.Error().Str("node", entry.Name).Msg("upgrade: the node's heartbeat is lost")
			continue
		}
		ns := NodeState{Record: entry.Record(), FD: fd, Peer: n.heartbeat.peer}
		if uid := n.user().uid; uid != unknownUID { // else the successor asks again
			ns.UID = &uid
		}
		if !trial {
			ns.Asked, ns.Said = n.asked, n.said.Bytes()
		}
		st.Nodes = append(st.Nodes, ns)
		delete(l.nodes, n)
	}
	for _, fd := range l.nodes { // unregistered this very moment
		closeFDs([]int{fd})
	}
	for _, entry := range s.names.Old() {
		st.Old = append(st.Old, OldState{entry.Record(), entry.FD})
	}
	st.Clients = l.clients
	return st
}
