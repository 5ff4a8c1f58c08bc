package registry

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"handover/go/internal/epmdproto"
)

func newNode(name string, highest uint16) *Node {
	return &Node{Alive2Req: epmdproto.Alive2Req{Name: name, Highest: highest}}
}

func register(t *testing.T, r *Registry, name string, highest uint16) *Node {
	t.Helper()
	n := newNode(name, highest)
	if err := r.Register(n); err != nil {
		t.Fatal(err)
	}
	return n
}

func names(nodes []*Node) (names []string) {
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return names
}

func TestTakenUntilUnregistered(t *testing.T) {
	r := New(DefaultMaxOld)
	first := register(t, r, "n", 6)
	if err := r.Register(newNode("n", 6)); !errors.Is(err, ErrTaken) {
		t.Fatalf("second registration: %v", err)
	}
	if r.Lookup([]byte("n")) != first {
		t.Error("a refused registration changed the name's holder")
	}
	if !r.Unregister(first) || r.Unregister(first) || r.Lookup([]byte("n")) != nil {
		t.Error("unregistering works once")
	}
	second := register(t, r, "n", 6)
	if r.Unregister(first) || r.Lookup([]byte("n")) != second {
		t.Error("the first holder took the name away from the second")
	}
	if got := r.UnregisterName("n"); got != second {
		t.Errorf("UnregisterName = %v", got)
	}
	if r.UnregisterName("n") != nil || r.UnregisterName("never") != nil {
		t.Error("UnregisterName of a name that nobody has")
	}
}

func TestCreationGoesOn(t *testing.T) {
	r := New(DefaultMaxOld)
	last := uint32(0)
	for i := range 10 {
		n := register(t, r, "n", 6)
		if c := n.Creation(); c < 4 || i > 0 && c != nextCreation(last) {
			t.Fatalf("creation %d after %d", c, last)
		}
		last = n.Creation()
		r.Unregister(n)
	}
	old := register(t, r, "n", 5)
	if c := old.Creation(); c != nextCreation(last)%3+1 {
		t.Errorf("creation %d for an old node after %d", c, last)
	}
}

func TestCreationNeverSmall(t *testing.T) {
	for before, want := range map[uint32]uint32{0: 4, 2: 4, 3: 4, 4: 5, 1<<32 - 2: 1<<32 - 1, 1<<32 - 1: 4} {
		if got := nextCreation(before); got != want {
			t.Errorf("after %d: %d, want %d", before, got, want)
		}
		for _, highest := range []uint16{0, 5} {
			n := newNode("n", highest)
			n.creation = nextCreation(before)
			if c := n.Creation(); c < 1 || c > 3 {
				t.Errorf("version %d after %d: %d", highest, before, c)
			}
		}
	}
}

func TestOrder(t *testing.T) {
	r := New(DefaultMaxOld)
	nodes := map[string]*Node{}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		nodes[name] = register(t, r, name, 6)
	}
	for _, name := range []string{"c", "a", "e"} {
		r.Unregister(nodes[name])
	}
	if got := names(r.Live()); !slices.Equal(got, []string{"d", "b"}) {
		t.Errorf("live: %v", got)
	}
	if got := names(r.Old()); !slices.Equal(got, []string{"c", "a", "e"}) {
		t.Errorf("old: %v", got)
	}
	register(t, r, "a", 6)
	if got := names(r.Live()); !slices.Equal(got, []string{"a", "d", "b"}) {
		t.Errorf("live: %v", got)
	}
	if got := names(r.Old()); !slices.Equal(got, []string{"c", "e"}) {
		t.Errorf("old: %v", got)
	}
	if r.Len() != 3 {
		t.Errorf("%d live", r.Len())
	}
}

// TestOldIsBounded: a new name pushes out the oldest that is too many, at
// maxOld - 1, maxOld and maxOld + 1; a name that is remembered pushes out none.
func TestOldIsBounded(t *testing.T) {
	const maxOld = 5
	for olds, left := range map[int]int{maxOld - 1: maxOld - 1, maxOld: maxOld, maxOld + 1: maxOld, 3 * maxOld: maxOld} {
		r := New(maxOld)
		var nodes []*Node
		for i := range olds {
			nodes = append(nodes, register(t, r, fmt.Sprint(i), 6))
		}
		for _, n := range nodes {
			r.Unregister(n)
		}
		again := register(t, r, "0", 6)
		r.Unregister(again)
		if got := len(r.Old()); got != olds {
			t.Errorf("%d old names became %d", olds, got)
		}
		register(t, r, "new", 6)
		got := names(r.Old())
		if len(got) != left || got[left-1] != "0" || len(r.byName) != left+1 {
			t.Errorf("of %d old names %v are left, %d in the map", olds, got, len(r.byName))
		}
	}
}

func TestConcurrently(t *testing.T) {
	r := New(5)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				n := newNode(fmt.Sprint("n", (i+j)%10), 6)
				if r.Register(n) != nil {
					continue
				}
				if got := r.Lookup([]byte(n.Name)); got != n {
					t.Errorf("%s: got another node", n.Name)
				}
				_, _ = r.Live(), r.Old()
				r.Unregister(n)
			}
		})
	}
	wg.Wait()
	if r.Len() != 0 || len(r.Live()) != 0 {
		t.Errorf("%d left", r.Len())
	}
}

// BenchmarkLookup should tell the same for few names and many.
func BenchmarkLookup(b *testing.B) {
	for _, count := range []int{10, 10_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			r := New(DefaultMaxOld)
			for i := range count {
				if err := r.Register(newNode(fmt.Sprintf("node%05d", i), 6)); err != nil {
					b.Fatal(err)
				}
			}
			name := []byte("node00007")
			for b.Loop() {
				if r.Lookup(name) == nil {
					b.Fatal("lost")
				}
			}
		})
	}
}
