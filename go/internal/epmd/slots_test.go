package epmd

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func otherNode() *node { return nodeOfUser(new(user)) }

func nodeOfUser(o *user) *node {
	return &node{env: &nodeEnv{}, gone: make(chan struct{}), usage: newUsage(o)}
}

// acquireLate acquires a slot with a deadline that has passed.
func acquireLate(g *slots, n *node) error {
	n.env.slots = g
	past := make(chan time.Time, 1)
	past <- time.Time{}
	return n.acquireSlot(past)
}

// fill acquires slots until there are none, and returns how many it got.
func fill(t *testing.T, g *slots, n *node) (in int) {
	t.Helper()
	for {
		err := acquireLate(g, n)
		if errors.Is(err, errNoAnswer) || errors.Is(err, errShare) {
			return in
		}
		if err != nil {
			t.Fatal(err)
		}
		in++
	}
}

// TestSlotShares: a node has at most its own limit, and at most as many slots as it leaves
// free for its user's other nodes; a user at most as many as it leaves free for others.
// So there is always a slot for one more node or user.
func TestSlotShares(t *testing.T) {
	one, other := new(user), new(user)
	for name, c := range map[string]struct {
		maxNode int
		users   []*user
		want    []int
	}{
		"nodes of one user":        {64, []*user{one, one, one, one, one}, []int{4, 2, 1, 1, 0}},
		"with a limit below that":  {3, []*user{one, one, one, one, one}, []int{3, 3, 1, 1, 0}},
		"a user after another":     {64, []*user{one, one, one, one, other, other, other}, []int{4, 2, 1, 1, 2, 1, 1}},
		"each node another user's": {6, []*user{{}, {}, {}, {}, {}, {}, {}, {}, {}}, []int{4, 3, 3, 2, 1, 1, 1, 1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			*one, *other = user{}, user{}
			g := newSlots(Options{MaxPasses: 16, MaxNodePasses: c.maxNode, MaxNodeQueue: 1}.withDefaults())
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

// TestSlotsOfAUser: a user has N-1 and N slots and not N+1, for any of its nodes.
// Unacknowledged connections still count. Another user always gets a slot, and does not
// wait.
func TestSlotsOfAUser(t *testing.T) {
	const most = 8 // of 16
	g := newSlots(Options{MaxPasses: 2 * most, MaxNodePasses: 1, MaxNodeQueue: 1}.withDefaults())
	user := new(user)
	var nodes []*node
	for i := range most {
		n := nodeOfUser(user)
		nodes = append(nodes, n)
		if err := acquireLate(g, n); err != nil {
			t.Fatalf("slot %d: %v", i+1, err)
		}
		g.stopAckWait(&n.usage.queue)
	}
	if g.unacked != 0 || g.total.unread != most || user.slots.unread != most {
		t.Errorf("unacked %d, unread %d, the user's %d", g.unacked, g.total.unread, user.slots.unread)
	}
	next := nodeOfUser(user)
	if err := acquireLate(g, next); !errors.Is(err, errShare) {
		t.Errorf("slot %d: %v", most+1, err)
	}
	if fill(t, g, otherNode()) != 1 {
		t.Error("no slot for another user's node")
	}
	waiting, err := g.takeTicket(&next.usage.queue)
	if waiting == nil || err != nil {
		t.Fatal(err)
	}
	g.releaseUnread(&nodes[0].usage.queue, 1)
	<-waiting
	if err := acquireLate(g, nodeOfUser(user)); !errors.Is(err, errShare) {
		t.Errorf("a slot given twice: %v", err)
	}
}

func TestSlotOrder(t *testing.T) {
	g := newSlots(Options{MaxPasses: 8, MaxNodePasses: 1, MaxNodeQueue: 2}.withDefaults())
	n := otherNode()
	if err := acquireLate(g, n); err != nil {
		t.Fatal(err)
	}
	first, _ := g.takeTicket(&n.usage.queue)
	second, _ := g.takeTicket(&n.usage.queue)
	if _, err := g.takeTicket(&n.usage.queue); !errors.Is(err, errFull) {
		t.Errorf("a third in the queue: %v", err)
	}
	g.releaseSlot(&n.usage.queue)
	<-first
	select {
	case <-second:
		t.Error("two at once")
	default:
	}
	if !g.cancelTicket(&n.usage.queue, second) || g.cancelTicket(&n.usage.queue, second) || g.cancelTicket(&n.usage.queue, first) {
		t.Error("cancelTicket must only cancel tickets that wait")
	}
	g.stopAckWait(&n.usage.queue) // no ACK is awaited, but the connection still counts as unread
	if g.unacked != 0 || fill(t, g, n) != 0 {
		t.Errorf("unacked %d", g.unacked)
	}
	g.releaseUnread(&n.usage.queue, 1)
	if fill(t, g, n) != 1 || len(g.queues) != 0 {
		t.Errorf("%d queues", len(g.queues))
	}
	n.goneErr = errGone
	close(n.gone)
	if err := n.acquireSlot(nil); !errors.Is(err, errGone) {
		t.Errorf("a node that has unregistered: %v", err)
	}
}
