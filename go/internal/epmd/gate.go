package epmd

import (
	"errors"
	"sync"
	"time"
)

// errFull: more handovers wait for the node than may.
var errFull = errors.New("epmd: too many handovers at once")

// gate bounds how many connections are on their way to nodes: passed, and not
// acknowledged. A node may have maxNode of them, but no more than are still free
// for all, so that nodes which answer nothing can't take the last place.
type gate struct {
	mu       sync.Mutex
	max      int // Options.MaxPasses
	maxNode  int
	maxQueue int
	taken    int     // places
	queues   []*line // of nodes that somebody waits for, longest waiting first
}

// line is one node's share of the gate.
type line struct {
	unread int // connections that the node may not have read yet
	queue  []chan struct{}
}

func newGate(o Options) *gate {
	return &gate{max: o.MaxPasses, maxNode: o.MaxNodePasses, maxQueue: o.MaxNodeQueue}
}

// enter waits for a place for one more connection to n, until the deadline. Each
// success is followed by done, or by late and then, perhaps never, settled.
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
		err = errNoAnswer
	}
	if !g.leave(&n.line, turn) { // the turn came this very moment
		g.done(n)
	}
	return err
}

// tryEnter is enter for who can't wait.
func (g *gate) tryEnter(n *node) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(n.queue) > 0 || !g.room(&n.line) {
		return false
	}
	g.take(&n.line)
	return true
}

// queue takes a place at once (nil, nil), or a turn to wait for.
func (g *gate) queue(l *line) (chan struct{}, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case len(l.queue) == 0 && g.room(l):
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
	return turn, nil
}

// leave gives up a turn that has not come yet.
func (g *gate) leave(l *line, turn chan struct{}) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, t := range l.queue {
		if t == turn {
			l.queue = append(l.queue[:i], l.queue[i+1:]...)
			if len(l.queue) == 0 {
				g.drop(l)
			}
			return true
		}
	}
	return false
}

// done: the node has the connection, or will never have it.
func (g *gate) done(n *node) { g.free(&n.line, 1, 1) }

// late: the node has not said a word in time. The place is another node's, but
// the connection still counts as unread by this one.
func (g *gate) late(n *node) { g.free(&n.line, 1, 0) }

// settled: what was late is known to be read, or its channel is gone.
func (g *gate) settled(n *node) { g.free(&n.line, 0, 1) }

func (g *gate) free(l *line, places, unread int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.taken -= places
	l.unread -= unread
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

func (g *gate) room(l *line) bool { return l.unread < min(g.maxNode, g.max-g.taken) }

func (g *gate) take(l *line) {
	g.taken++
	l.unread++
}

func (g *gate) drop(l *line) {
	for i, other := range g.queues {
		if other == l {
			g.queues = append(g.queues[:i], g.queues[i+1:]...)
			return
		}
	}
}
