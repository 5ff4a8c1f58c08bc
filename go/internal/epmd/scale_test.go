package epmd

import (
	"fmt"
	"testing"
)

// TestLookupCost: a lookup does the same work with ten nodes and with thousands,
// counted in allocations.
func TestLookupCost(t *testing.T) {
	ts := New(Options{})
	cost := func() float64 {
		return testing.AllocsPerRun(100, func() {
			if ts.names.Lookup([]byte("node7")) == nil {
				t.Fatal("lost")
			}
		})
	}
	add := func(from, to int) {
		for i := from; i < to; i++ {
			n := newNode(ts.nodes, &conn{}, plainNode(fmt.Sprint("node", i)), firstOf(ts.users.addUsage(1, 1)))
			if err := ts.names.Register(n.entry); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(0, 10)
	few := cost()
	add(10, 10_000)
	if many := cost(); many > few {
		t.Errorf("%v allocations with 10 nodes, %v with 10,000", few, many)
	}
}
