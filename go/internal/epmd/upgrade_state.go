package epmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/registry"
)

// stateVersion changes when a State can't be read as the last version's.
const stateVersion = 1

// ErrState: what a predecessor left can't be used.
var ErrState = errors.New("epmd: the predecessor's state")

// State is what an EPMD leaves to its successor, as JSON with open files by their
// number: the listeners, the nodes with their heartbeats, the names that were
// given up, and the connections whose request was not answered yet.
type State struct {
	Version   int
	Listeners []int
	Nodes     []NodeState // the oldest registration first
	Old       []OldState  // the same
	Clients   []ClientState
}

// NodeState is a registered node.
type NodeState struct {
	registry.Record
	FD    int
	Peer  netip.AddrPort
	UID   *int64 `json:",omitempty"` // the node's user, if it is known
	Asked bool   // an 'h' is unanswered
	Said  []byte // the beginning of the answer, where it was read already
}

// OldState is a name that was given up. FD is only a number that DUMP shows.
type OldState struct {
	registry.Record
	FD int
}

// ClientState is a connection without an answer. Where Answer is not empty that is
// all it waits for.
type ClientState struct {
	FD       int
	Peer     netip.AddrPort
	Patience time.Duration // until its deadline
	Header   []byte        // what was read of Length and the opcode
	Body     []byte        // what was read behind it
	Split    bool
	Answer   []byte
}

// ReadState reads what [State.Write] has written. The error wraps ErrState.
func ReadState(r io.Reader) (*State, error) {
	var st State
	if err := json.NewDecoder(r).Decode(&st); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	if st.Version != stateVersion {
		return nil, fmt.Errorf("%w is of version %d, this epmd knows %d: restart it instead", ErrState, st.Version, stateVersion)
	}
	for _, c := range st.Clients {
		if len(c.Header) > len(conn{}.header) || len(c.Body) >= len(requestBuffer{}) {
			return nil, fmt.Errorf("%w: a request of %d and %d bytes", ErrState, len(c.Header), len(c.Body))
		}
	}
	return &st, nil
}

// Write writes st for [ReadState].
func (st *State) Write(w io.Writer) error { return json.NewEncoder(w).Encode(st) }

// FDs are all open files that st names; they belong to whoever has st.
func (st *State) FDs() []int {
	fds := append([]int(nil), st.Listeners...)
	for _, n := range st.Nodes {
		fds = append(fds, n.FD)
	}
	for _, c := range st.Clients {
		fds = append(fds, c.FD)
	}
	return fds
}

// Failed turns the answer to UPGRADE_REQ, for a server that goes on itself.
func (st *State) Failed(err error) {
	for i, c := range st.Clients {
		if len(c.Answer) > 0 {
			st.Clients[i].Answer = []byte(epmdproto.UpgradeNo + err.Error())
		}
	}
}

// ServeOn is [Server.Serve] on what a predecessor left. It takes the open files of
// st over, also when it fails.
func (s *Server) ServeOn(st *State) error {
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
			s.o.Log.Error().Err(err).Msg("an old name of the predecessor's is forgotten")
		}
	}
	for _, n := range st.Nodes {
		if err := s.restoreNode(n); err != nil {
			s.o.Log.Error().Err(err).Str("node", n.Name).Msg("a node of the predecessor's is lost")
		}
	}
	for _, c := range st.Clients {
		s.restoreClient(c)
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
		return nil, fmt.Errorf("fd %d is no TCP listener", fd)
	}
	return tcp, nil
}

func (s *Server) restoreNode(st NodeState) error {
	unix.CloseOnExec(st.FD)
	c := &conn{s: s, fd: st.FD, peer: st.Peer}
	if err := c.park(); err != nil {
		c.close()
		return err
	}
	var uid int64
	later := false
	if st.UID != nil && *st.UID != unknownUID {
		uid = *st.UID
	} else {
		uid, later = s.uidOf(c)
	}
	o, _ := s.owners.enter(uid, filesOf(st.Alive2Req))
	n := newNode(s, c, st.Alive2Req, o)
	n.asked = st.Asked
	n.said.Write(st.Said)
	if err := s.names.Restore(n.entry, st.Count); err != nil {
		s.owners.leave(n)
		c.close()
		return err
	}
	if later {
		s.wg.Go(n.findUser)
	}
	s.wg.Go(func() {
		defer c.close()
		n.live()
	})
	return nil
}

func (s *Server) restoreClient(st ClientState) {
	unix.CloseOnExec(st.FD)
	c := &conn{
		s: s, fd: st.FD, peer: st.Peer, deadline: time.Now().Add(st.Patience),
		got: len(st.Header), body: st.Body, split: st.Split, counted: true,
	}
	copy(c.header[:], st.Header)
	s.clients.Add(1)
	s.wg.Go(func() {
		if len(st.Answer) == 0 {
			s.serve(c)
			return
		}
		defer c.close()
		s.reply(c, st.Answer)
	})
}
