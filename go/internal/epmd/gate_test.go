package epmd

import (
	"errors"
	"testing"
	"time"
)

func gateNode() *node { return &node{gone: make(chan struct{})} }

func enterNow(g *gate, n *node) error {
	past := make(chan time.Time, 1)
	past <- time.Time{}
	return g.enter(n, past)
}

// fill enters until there is no room, and returns how many went in.
func fill(t *testing.T, g *gate, n *node) (in int) {
	t.Helper()
	for {
		err := enterNow(g, n)
		if errors.Is(err, errNoAnswer) {
			return in
		}
		if err != nil {
			t.Fatal(err)
		}
		in++
	}
}

// TestGateShares: a node gets its own limit; where the limit for all is near, no
// more than is still free, so that there is always a place for another node.
func TestGateShares(t *testing.T) {
	g := newGate(Options{MaxPasses: 16, MaxNodePasses: 6, MaxNodeQueue: 1})
	var got []int
	for range 5 {
		got = append(got, fill(t, g, gateNode()))
	}
	for i, want := range []int{6, 5, 3, 1, 1} {
		if got[i] != want {
			t.Errorf("nodes got %v", got)
			break
		}
	}
}

func TestGateOrder(t *testing.T) {
	g := newGate(Options{MaxPasses: 8, MaxNodePasses: 1, MaxNodeQueue: 2})
	n := gateNode()
	if err := enterNow(g, n); err != nil {
		t.Fatal(err)
	}
	first, _ := g.queue(&n.line)
	second, _ := g.queue(&n.line)
	if _, err := g.queue(&n.line); !errors.Is(err, errFull) {
		t.Errorf("a third in the queue: %v", err)
	}
	g.done(n)
	<-first
	select {
	case <-second:
		t.Error("two at once")
	default:
	}
	if !g.leave(&n.line, second) || g.leave(&n.line, second) || g.leave(&n.line, first) {
		t.Error("leave is for those who wait")
	}
	g.late(n) // the place is free, the node's share is not
	if g.taken != 0 || fill(t, g, n) != 0 {
		t.Errorf("taken %d", g.taken)
	}
	g.settled(n)
	if fill(t, g, n) != 1 || len(g.queues) != 0 {
		t.Errorf("%d queues", len(g.queues))
	}
	n.left = errGone
	close(n.gone)
	if err := g.enter(n, nil); !errors.Is(err, errGone) {
		t.Errorf("a node that has left: %v", err)
	}
}
