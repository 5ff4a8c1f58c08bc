package epmd

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"handover/go/internal/registry"
)

// upgrade is what a server knows of its own upgrade. The server ends and leaves its
// open files to another server, which may be another program in the same process.
//
//	serving --Upgrade--> trial --> draining --> frozen --> Serve returns; TakeState
//	   ^                   |
//	   '----- it failed ---'
//
// draining: the handovers that are under way end; new ones are kept for the successor
// and all other requests are answered. frozen: no goroutine reads any more, and what was
// read already is kept with its connection. Peers that connect from now on wait in
// the listener's queue.
//
// upgrade is safe for concurrent use.
type upgrade struct {
	log       zerolog.Logger
	busy      atomic.Bool // from the trial on
	draining  atomic.Bool
	handovers atomic.Int64  // under way
	idle      chan struct{} // signalled when handovers may have dropped to zero; capacity 1

	mu         sync.Mutex
	killed     bool // the server was closed
	clients    []ClientState
	heartbeats map[*registry.Node]int // descriptors
	inherited  *State                 // for the successor, until takeState
}

func newUpgrade(log zerolog.Logger) *upgrade {
	return &upgrade{log: log, idle: make(chan struct{}, 1), heartbeats: make(map[*registry.Node]int)}
}

// beginHandover reports whether a handover may begin in this server. If so, the
// caller must call endHandover once it has ended.
func (u *upgrade) beginHandover() bool {
	u.handovers.Add(1)
	if !u.draining.Load() {
		return true
	}
	u.endHandover()
	return false
}

func (u *upgrade) endHandover() {
	if u.handovers.Add(-1) > 0 || !u.draining.Load() {
		return
	}
	select {
	case u.idle <- struct{}{}:
	default:
	}
}

// drain refuses new handovers and waits until the others have ended, or for the
// timeout. It returns false if the server ended before that.
func (u *upgrade) drain(timeout time.Duration, end <-chan struct{}) bool {
	u.draining.Store(true)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for u.handovers.Load() > 0 {
		select {
		case <-u.idle:
		case <-timer.C:
			return true
		case <-end:
			return false
		}
	}
	return true
}

// keepClient closes c and keeps a copy for the successor, with what was read of its
// request or with the answer that it waits for.
func (u *upgrade) keepClient(c *conn, body, answer []byte) {
	st := ClientState{
		Peer: c.peer, Patience: time.Until(c.deadline), Header: slices.Clone(c.header[:c.got]),
		Body: slices.Clone(body), Split: c.split, Answer: answer,
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	var err error
	if st.FD, err = c.detach(); err != nil {
		u.log.Error().Err(err).Stringer("peer", c.peer).Msg("upgrade: cannot keep the connection, closed without an answer")
		return
	}
	u.clients = append(u.clients, st)
}

// keepHeartbeat closes a node's heartbeat and keeps a copy for the successor.
func (u *upgrade) keepHeartbeat(entry *registry.Node, c *conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	fd, err := c.detach()
	if err != nil {
		u.log.Error().Err(err).Str("node", entry.Name).Msg("upgrade: cannot keep the node's heartbeat; the node will register again")
		return
	}
	u.heartbeats[entry] = fd
}

// takeHeartbeat returns the descriptor of a kept heartbeat. The caller must close it.
func (u *upgrade) takeHeartbeat(entry *registry.Node) (fd int, kept bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	fd, kept = u.heartbeats[entry]
	delete(u.heartbeats, entry)
	return fd, kept
}

// publish completes st with the kept clients and makes it available to takeState. It
// closes the heartbeats of nodes that have unregistered since, or all files of st
// if the server was closed.
func (u *upgrade) publish(st *State) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, fd := range u.heartbeats {
		closeFDs([]int{fd})
	}
	clear(u.heartbeats)
	st.Clients = u.clients
	u.inherited = st
	if u.killed {
		u.closeStateLocked()
	}
}

// takeState returns what was published, or nil. The caller must close its files.
func (u *upgrade) takeState() *State {
	u.mu.Lock()
	defer u.mu.Unlock()
	st := u.inherited
	u.inherited = nil
	return st
}

// discard closes what was published, or will be: the server was told to end.
func (u *upgrade) discard() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.killed = true
	u.closeStateLocked()
}

// closeStateLocked is a no-op if nothing was published. u.mu must be held.
func (u *upgrade) closeStateLocked() {
	if u.inherited != nil {
		closeFDs(u.inherited.FDs())
		u.inherited = nil
	}
}
