// Package registry keeps EPMD's names: which node has a name now, which had it before,
// and the creation that distinguishes one holder of a name from the next. It does no
// network I/O and is safe for concurrent use.
//
//	Register ------> live, most recent first ---- Unregister ----> old, oldest first
//	   ^                                                             |
//	   '---- the same name: creation + 1 <----- forgotten beyond maxOld
//
// The cost of an operation on one name does not depend on the number of names.
package registry

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"handover/go/internal/epmdproto"
)

// DefaultMaxOld is how many unregistered names are remembered with their creation. It is
// the stock EPMD's number. Names are forgotten when a new one is registered, so there
// may be more of them until then.
const DefaultMaxOld = 1000

// ErrTaken is returned for a name that another node has.
var ErrTaken = errors.New("registry: name is taken")

// Node is a registered name. It does not change after Register has returned, so it can
// be read without a lock.
type Node struct {
	epmdproto.Alive2Req
	// FD is the number that DUMP shows.
	FD int
	// Data belongs to the caller, for instance the connection that holds the name.
	Data any

	creation   uint32
	live       bool
	prev, next *Node
}

// Creation returns the creation: at least 4 for a node of distribution version 6 and up,
// 1 to 3 for an older one.
func (n *Node) Creation() uint32 {
	if n.Highest >= 6 {
		return n.creation
	}
	return n.creation%3 + 1
}

// Registry holds the names. Make it with New.
type Registry struct {
	maxOld int

	mu      sync.RWMutex
	byName  map[string]*Node // live and old
	live    list
	old     list
	changes uint64 // see Changes
}

// New returns an empty registry that remembers maxOld unregistered names.
func New(maxOld int) *Registry {
	return &Registry{maxOld: maxOld, byName: make(map[string]*Node)}
}

// Register registers n under its name and sets its creation. The error wraps ErrTaken.
// n must not be registered already, and must not be registered again after Unregister.
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

// Unregister removes n's name. It reports whether n had it.
func (r *Registry) Unregister(n *Node) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unregisterLocked(n)
}

// UnregisterName removes a name and returns the node that had it, or nil.
func (r *Registry) UnregisterName(name string) *Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.byName[name]
	if n == nil || !r.unregisterLocked(n) {
		return nil
	}
	return n
}

// Lookup returns the registered node of that name, or nil.
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

// Old returns the names that were unregistered, the oldest first.
func (r *Registry) Old() []*Node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	nodes := r.old.nodes()
	slices.Reverse(nodes)
	return nodes
}

// Changes returns a number that changes whenever the result of Live or Old does.
func (r *Registry) Changes() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.changes
}

// Len returns the number of registered nodes.
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

// nextCreation increments c and skips 0 to 3, which are reserved for nodes without a
// creation or with a small one.
func nextCreation(c uint32) uint32 { return max(c+1, 4) }
