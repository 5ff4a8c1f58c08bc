package epmd

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Why an initiator gets no place for its connection.
var (
	// errFull: more handovers wait for the node than may.
	errFull = errors.New("epmd: too many handovers at once")
	// errShare: the node's user, or all users together, have as many connections
	// unread as they may.
	errShare = errors.New("epmd: no place came free in time: too many connections lie unread at nodes of that user")
	// errHeld: as many handovers are under way to the node, its user's nodes, or all
	// nodes, as may.
	errHeld = errors.New("epmd: too many handovers to that node, or to nodes of its user, at once")
)

// gate bounds how many connections nodes have been passed and may not have read
// yet: the kernel counts those for EPMD's user, whether or not EPMD still waits
// for an ACK. A user has at most as many as it leaves free for all others, and a
// node has at most as many as it leaves free for other nodes of its user: users
// and nodes that read nothing can't take the last place. In the same way it bounds
// how many handovers are under way: each may hold one of MaxClients.
type gate struct {
	mu       sync.Mutex
	max      int // Options.MaxPasses
	maxNode  int
	maxQueue int
	maxHeld  int     // Options.MaxHeld
	held     int     // under way: in a queue, or taken
	taken    int     // passed, and EPMD waits for the ACK
	unread   int     // passed, and perhaps not read: taken, and those that are late
	queues   []*line // of nodes that somebody waits for, longest waiting first
}

// line is one node's share of the gate.
type line struct {
	owner  atomic.Pointer[owner] // changes at most once, with gate.mu held
	unread int                   // connections that the node may not have read yet
	held   int                   // handovers to the node that are under way
	queue  []chan struct{}
}

func newGate(o Options) *gate {
	return &gate{max: o.MaxPasses, maxNode: o.MaxNodePasses, maxQueue: o.MaxNodeQueue, maxHeld: o.MaxHeld}
}

// user is whose node it is.
func (l *line) user() *owner { return l.owner.Load() }

// enter waits for a place for one more connection to n, until the deadline. After
// a nil error the caller must call done exactly once, or late. After late, settled
// follows once the node is known to have read the connection, or to have lost it.
func (g *gate) enter(n *node, deadline <-chan time.Time) error {
	turn, err := g.queue(&n.line)
	if turn == nil {
		return err
	}
	select {
	case <-turn:
		return nil
	case <-n.gone:
		err = n.left
	case <-deadline:
		err = g.whyFull(&n.line)
	}
	if !g.leave(&n.line, turn) { // the turn came this very moment
		g.done(n)
	}
	return err
}

// whyFull is why no place came: the node reads nothing, or there are too few for
// all of its user's nodes.
func (g *gate) whyFull(l *line) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.unread < g.maxNode {
		return errShare
	}
	return errNoAnswer
}

// tryEnter is like enter but never waits. It reports whether it got a place.
func (g *gate) tryEnter(n *node) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(n.queue) > 0 || !g.mayHold(&n.line) || !g.room(&n.line) {
		return false
	}
	g.hold(&n.line, 1)
	g.take(&n.line)
	return true
}

// queue takes a place at once (nil, nil), or a turn to wait for.
func (g *gate) queue(l *line) (chan struct{}, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.mayHold(l):
		return nil, errHeld
	case len(l.queue) == 0 && g.room(l):
		g.hold(l, 1)
		g.take(l)
		return nil, nil
	case len(l.queue) >= g.maxQueue:
		return nil, errFull
	}
	turn := make(chan struct{})
	if len(l.queue) == 0 {
		g.queues = append(g.queues, l)
	}
	l.queue = append(l.queue, turn)
	g.hold(l, 1)
	return turn, nil
}

// leave gives up a turn that has not come yet.
func (g *gate) leave(l *line, turn chan struct{}) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, t := range l.queue {
		if t == turn {
			g.hold(l, -1)
			l.queue = append(l.queue[:i], l.queue[i+1:]...)
			if len(l.queue) == 0 {
				g.drop(l)
			}
			return true
		}
	}
	return false
}

// done: the node has read the connection, or will never get it.
func (g *gate) done(n *node) { g.free(&n.line, 1, 1) }

// late: EPMD waits for the ACK no longer. The connection counts as unread until
// settled.
func (g *gate) late(n *node) { g.free(&n.line, 1, 0) }

// settled: so many late ones are known to be read, or gone with their channel.
func (g *gate) settled(n *node, count int) { g.free(&n.line, 0, count) }

func (g *gate) free(l *line, taken, unread int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.taken -= taken
	g.hold(l, -taken)
	if unread == 0 {
		return
	}
	g.unread -= unread
	l.unread -= unread
	l.user().unread -= unread
	g.letIn()
}

// letIn gives free places to those who wait for them. It must be called with mu held.
func (g *gate) letIn() {
	for i := 0; i < len(g.queues); {
		next := g.queues[i]
		if !g.room(next) {
			i++
			continue
		}
		g.take(next)
		close(next.queue[0])
		if next.queue = next.queue[1:]; len(next.queue) == 0 {
			g.drop(next)
		}
	}
}

// room reports whether the node may have one more, see gate.
func (g *gate) room(l *line) bool {
	ofUser := l.user().unread
	return l.unread < min(g.maxNode, share(g.max, g.unread-ofUser)-ofUser)
}

// mayHold reports whether one more handover to the node may be under way.
func (g *gate) mayHold(l *line) bool {
	ofUser := l.user().held
	return l.held < share(g.maxHeld, g.held-ofUser)-ofUser
}

func (g *gate) hold(l *line, more int) {
	g.held += more
	l.held += more
	l.user().held += more
}

// move makes the node another user's, with all that counts.
func (g *gate) move(l *line, to *owner) {
	g.mu.Lock()
	defer g.mu.Unlock()
	from := l.user()
	from.unread -= l.unread
	from.held -= l.held
	to.unread += l.unread
	to.held += l.held
	l.owner.Store(to)
	g.letIn()
}

func (g *gate) take(l *line) {
	g.taken++
	g.unread++
	l.unread++
	l.user().unread++
}

func (g *gate) drop(l *line) {
	for i, other := range g.queues {
		if other == l {
			g.queues = append(g.queues[:i], g.queues[i+1:]...)
			return
		}
	}
}

// unreadOf is how many connections the node and its user may not have read.
func (g *gate) unreadOf(l *line) (node, owner int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return l.unread, l.user().unread
}

func (g *gate) passing() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.taken
}
