package epmd

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func gateNode() *node { return nodeOfUser(new(owner)) }

func nodeOfUser(o *owner) *node {
	n := &node{gone: make(chan struct{})}
	n.owner.Store(o)
	return n
}

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
		if errors.Is(err, errNoAnswer) || errors.Is(err, errShare) {
			return in
		}
		if err != nil {
			t.Fatal(err)
		}
		in++
	}
}

// TestGateShares: a node has at most its own limit, and what it leaves free for
// its user's other nodes; a user what it leaves free for others. So there is always
// a place for one more of each.
func TestGateShares(t *testing.T) {
	one, other := new(owner), new(owner)
	for name, c := range map[string]struct {
		maxNode int
		users   []*owner
		want    []int
	}{
		"nodes of one user":        {64, []*owner{one, one, one, one, one}, []int{4, 2, 1, 1, 0}},
		"with a limit below that":  {3, []*owner{one, one, one, one, one}, []int{3, 3, 1, 1, 0}},
		"a user after another":     {64, []*owner{one, one, one, one, other, other, other}, []int{4, 2, 1, 1, 2, 1, 1}},
		"each node another user's": {6, []*owner{{}, {}, {}, {}, {}, {}, {}, {}, {}}, []int{4, 3, 3, 2, 1, 1, 1, 1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			*one, *other = owner{}, owner{}
			g := newGate(Options{MaxPasses: 16, MaxNodePasses: c.maxNode, MaxNodeQueue: 1}.withDefaults())
			var got []int
			for _, u := range c.users {
				got = append(got, fill(t, g, nodeOfUser(u)))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("nodes got %v, want %v", got, c.want)
			}
		})
	}
}

// TestGateUser: a user has N-1 and N places and not N+1, whichever of its nodes
// asks; what is late keeps counting; another user gets places all the time, and
// waits for nobody.
func TestGateUser(t *testing.T) {
	const most = 8 // of 16
	g := newGate(Options{MaxPasses: 2 * most, MaxNodePasses: 1, MaxNodeQueue: 1}.withDefaults())
	user := new(owner)
	var nodes []*node
	for i := range most {
		n := nodeOfUser(user)
		nodes = append(nodes, n)
		if err := enterNow(g, n); err != nil {
			t.Fatalf("place %d: %v", i+1, err)
		}
		g.late(n)
	}
	if g.taken != 0 || g.unread != most || user.unread != most {
		t.Errorf("taken %d, unread %d, the user's %d", g.taken, g.unread, user.unread)
	}
	next := nodeOfUser(user)
	if err := enterNow(g, next); !errors.Is(err, errShare) {
		t.Errorf("place %d: %v", most+1, err)
	}
	if fill(t, g, gateNode()) != 1 {
		t.Error("no place for another user's node")
	}
	waiting, err := g.queue(&next.line)
	if waiting == nil || err != nil {
		t.Fatal(err)
	}
	g.settled(nodes[0], 1)
	<-waiting
	if err := enterNow(g, nodeOfUser(user)); !errors.Is(err, errShare) {
		t.Errorf("a place given twice: %v", err)
	}
}

func TestGateOrder(t *testing.T) {
	g := newGate(Options{MaxPasses: 8, MaxNodePasses: 1, MaxNodeQueue: 2}.withDefaults())
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
	g.settled(n, 1)
	if fill(t, g, n) != 1 || len(g.queues) != 0 {
		t.Errorf("%d queues", len(g.queues))
	}
	n.left = errGone
	close(n.gone)
	if err := g.enter(n, nil); !errors.Is(err, errGone) {
		t.Errorf("a node that has left: %v", err)
	}
}
