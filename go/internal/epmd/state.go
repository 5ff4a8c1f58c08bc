package epmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/registry"
)

// stateVersion changes when a State cannot be read as the previous version's.
const stateVersion = 1

// ErrState: the predecessor's state cannot be used.
var ErrState = errors.New("epmd: cannot use the predecessor's state")

// State is what an EPMD leaves to its successor, as JSON with open files by their
// number: the listeners, the nodes with their heartbeats, the old names, and the
// connections whose request has no answer yet.
type State struct {
	Version   int
	Listeners []int
	Nodes     []NodeState // the oldest registration first
	Old       []OldState  // the oldest first
	Clients   []ClientState
}

// NodeState is a registered node. The field names are part of the state's format.
type NodeState struct {
	registry.Record
	FD    int
	Peer  netip.AddrPort
	UID   *int64 `json:",omitempty"` // the node's user, if it is known
	Asked bool   // an 'h' is unanswered
	Said  []byte // node.partial: the part of the answer to 'h' that was read already
}

// OldState is a name that was unregistered. FD is only a number that DUMP shows.
type OldState struct {
	registry.Record
	FD int
}

// ClientState is a connection without an answer. If Answer is not empty, the
// connection only waits for that. The field names are part of the state's format.
type ClientState struct {
	FD       int
	Peer     netip.AddrPort
	Patience time.Duration // the time left until conn.deadline
	Header   []byte        // the part of Length and the opcode that was read
	Body     []byte        // conn.body: what was read after it
	Split    bool          // conn.split
	Answer   []byte
}

// ReadState reads what [State.Write] has written. The error wraps ErrState.
func ReadState(r io.Reader) (*State, error) {
	var st State
	if err := json.NewDecoder(r).Decode(&st); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	if st.Version != stateVersion {
		return nil, fmt.Errorf("%w: it is of version %d, this epmd reads %d (restart it instead)", ErrState, st.Version, stateVersion)
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

// FDs returns all open files that st names. The caller who has st must close them.
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

// SetFailed changes the answer to UPGRADE_REQ, if the upgrade failed after all and a
// server of the same program resumes from st.
func (st *State) SetFailed(err error) {
	for i, c := range st.Clients {
		if len(c.Answer) > 0 {
			st.Clients[i].Answer = []byte(epmdproto.UpgradeNo + err.Error())
		}
	}
}
