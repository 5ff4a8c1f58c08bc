// Package registry keeps EPMD's names: who has one now, who had one before, and
// the creation that tells one holder of a name from the next. It knows no network
// and is safe for concurrent use.
//
//	Register ------> live, most recent first ---- Unregister ----> old, oldest first
//	   ^                                                             |
//	   '---- the name again: creation + 1 <---- forgotten beyond MaxOld
//
// Every operation on one name costs the same with ten names and with ten thousand.
package registry

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"handover/go/internal/epmdproto"
)

// DefaultMaxOld is how many names are remembered after they were given up, with
// the creation they had; the stock EPMD's number. Names are forgotten when a new
// one is registered, so that there may be more of them before that.
const DefaultMaxOld = 1000

// ErrTaken is returned for a name that somebody has.
var ErrTaken = errors.New("registry: name is taken")

// Node is a registered name. Nothing in it changes once Register has returned,
// so that it can be read without a lock.
type Node struct {
	epmdproto.Alive2Req
	// FD is the number that DUMP shows.
	FD int
	// Data is the caller's, for instance the connection that holds the name.
	Data any

	creation   uint32
	live       bool
	prev, next *Node
}

// Creation is never 0: at least 4 for a node of distribution version 6 and up, 1
// to 3 for an older one.
func (n *Node) Creation() uint32 {
	if n.Highest >= 6 {
		return n.creation
	}
	return n.creation%3 + 1
}

// Registry holds the names. The zero value is not usable; see New.
type Registry struct {
	maxOld int

	mu     sync.RWMutex
	byName map[string]*Node // live and old
	live   list
	old    list
	// changes counts what changes Live or Old.
	changes uint64
}

// New returns an empty registry that remembers maxOld names that were given up.
func New(maxOld int) *Registry {
	return &Registry{maxOld: maxOld, byName: make(map[string]*Node)}
}

// Register gives n its name and its creation, or returns an error that wraps
// ErrTaken. n must not be registered already, nor be used again after Unregister.
func (r *Registry) Register(n *Node) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.byName[n.Name]
	switch {
	case before == nil:
		r.forgetOldestLocked()
		n.creation = nextCreation(rand.Uint32())
	case before.live:
		return takenError(n.Name)
	default:
		r.old.remove(before)
		n.creation = nextCreation(before.creation)
	}
	r.addLiveLocked(n)
	return nil
}

// Unregister takes n's name away and says whether n had it.
func (r *Registry) Unregister(n *Node) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unregisterLocked(n)
}

// UnregisterName takes a name away from whoever has it, and returns that node, or
// nil.
func (r *Registry) UnregisterName(name string) *Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.byName[name]
	if n == nil || !r.unregisterLocked(n) {
		return nil
	}
	return n
}

// Lookup returns the node of that name, or nil.
func (r *Registry) Lookup(name []byte) *Node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if n := r.byName[string(name)]; n != nil && n.live {
		return n
	}
	return nil
}

// Live returns the registered nodes, the most recent first.
func (r *Registry) Live() []*Node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.live.nodes()
}

// Old returns what is remembered of nodes that gave their name up, the oldest
// first.
func (r *Registry) Old() []*Node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	nodes := r.old.nodes()
	slices.Reverse(nodes)
	return nodes
}

// Changes is a number that differs whenever Live or Old have changed.
func (r *Registry) Changes() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.changes
}

// Len is the number of registered nodes.
func (r *Registry) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.live.len
}

// addLiveLocked makes n the holder of its name. r.mu must be held.
func (r *Registry) addLiveLocked(n *Node) {
	n.live = true
	r.byName[n.Name] = n
	r.live.pushFront(n)
	r.changes++
}

// addOldLocked remembers n as the previous holder of its name. r.mu must be held.
func (r *Registry) addOldLocked(n *Node) {
	r.byName[n.Name] = n
	r.old.pushFront(n)
	r.changes++
}

// unregisterLocked reports whether n had its name. r.mu must be held.
func (r *Registry) unregisterLocked(n *Node) bool {
	if !n.live || r.byName[n.Name] != n {
		return false
	}
	r.live.remove(n)
	// A copy is remembered: readers of n see no change, and n.Data can be freed.
	old := &Node{Alive2Req: n.Alive2Req, FD: n.FD, creation: n.creation}
	old.Extra = nil
	r.addOldLocked(old)
	return true
}

func takenError(name string) error { return fmt.Errorf("%w: %q", ErrTaken, name) }

// forgetOldestLocked keeps the number of old names in bounds. r.mu must be held.
func (r *Registry) forgetOldestLocked() {
	for r.old.len > r.maxOld {
		oldest := r.old.back
		r.old.remove(oldest)
		delete(r.byName, oldest.Name)
	}
}

// nextCreation is one more, around 0 to 3, which are kept for nodes without a
// creation or with a small one.
func nextCreation(c uint32) uint32 { return max(c+1, 4) }
