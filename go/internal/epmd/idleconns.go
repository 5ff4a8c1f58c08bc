package epmd

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// idleConns has the connections that make EPMD wait: those that have not sent their
// request yet, or those that do not read their answer. Peers that do not make EPMD
// wait are rarely in it. If there are too many, it keeps the new connection and drops
// one chosen at random, so that a flood mostly drops its own connections. It drops
// connections of other hosts before local ones, and a local one only for another local
// one.
//
// idleConns is safe for concurrent use.
type idleConns struct {
	idleLimits
	log   zerolog.Logger
	stats *stats

	mu       sync.Mutex
	local    connSet
	remote   connSet
	bySource map[netip.Prefix]*connSet // of the remote ones
	answers  map[*socket][]byte        // that the peers do not read
	readers  map[*byte]int             // of an answer, by its first byte: how many connections share it
	bytes    int                       // of all answers
	logged   time.Time
}

// idleLimits are the limits of an idleConns, and what it counts and logs when it
// drops a connection.
type idleLimits struct {
	max, maxSource int // in total, and of one source
	maxBytes       int // of answers; one that several connections share counts once
	refusal        refusal
	message        string
}

// connSet is a set of connections that allows a random choice. It is not safe for
// concurrent use.
type connSet struct {
	conns []*socket
	index map[*socket]int
}

func newIdleConns(limits idleLimits, log zerolog.Logger, st *stats) *idleConns {
	return &idleConns{
		idleLimits: limits, log: log, stats: st,
		bySource: make(map[netip.Prefix]*connSet), answers: make(map[*socket][]byte), readers: make(map[*byte]int),
	}
}

// add adds c, which must be polled: it waits for the request, or for the peer to
// read answer. From now on c may be dropped.
func (w *idleConns) add(c *socket, answer []byte) {
	local := c.isLocal()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropLocked(w.victimLocked(c, local))
	for w.isTooLargeLocked(answer) {
		if !w.dropLocked(w.anyLocked(local)) {
			break
		}
	}
	w.addAnswerLocked(c, answer)
	if local {
		w.local.add(c)
		return
	}
	w.remote.add(c)
	source := sourceOf(c.peer)
	if w.bySource[source] == nil {
		w.bySource[source] = new(connSet)
	}
	w.bySource[source].add(c)
}

// remove ends the wait of c. It returns false if c was dropped or is not in w.
func (w *idleConns) remove(c *socket) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.removeLocked(c)
}

// count returns how many connections are in w.
func (w *idleConns) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.countLocked()
}

// victimLocked returns the connection to drop for c, or nil. w.mu must be held.
func (w *idleConns) victimLocked(c *socket, local bool) *socket {
	if same := w.bySource[sourceOf(c.peer)]; !local && same != nil && len(same.conns) >= w.maxSource {
		return same.pick()
	}
	if w.countLocked() < w.max {
		return nil
	}
	return w.anyLocked(local)
}

// anyLocked returns a connection that may be dropped for another, or nil. w.mu must
// be held.
func (w *idleConns) anyLocked(local bool) *socket {
	if len(w.remote.conns) > 0 {
		return w.remote.pick()
	}
	if local {
		return w.local.pick()
	}
	return nil
}

// dropLocked drops a connection. It returns false if victim is nil. w.mu must be held.
func (w *idleConns) dropLocked(victim *socket) bool {
	if victim == nil {
		return false
	}
	w.removeLocked(victim)
	victim.hangUp()
	w.stats.refusals[w.refusal].Add(1)
	if time.Since(w.logged) >= logEvery {
		w.logged = time.Now()
		w.log.Warn().Stringer("peer", victim.peer).Int("waiting", w.countLocked()).Msg(w.message)
	}
	return true
}

// removeLocked returns false if c is not in w. w.mu must be held.
func (w *idleConns) removeLocked(c *socket) bool {
	if !w.local.remove(c) {
		if !w.remote.remove(c) {
			return false
		}
		source := sourceOf(c.peer)
		w.bySource[source].remove(c)
		if len(w.bySource[source].conns) == 0 {
			delete(w.bySource, source)
		}
	}
	w.removeAnswerLocked(c)
	return true
}

// isTooLargeLocked reports whether one more connection that reads answer takes more
// memory than is allowed. w.mu must be held.
func (w *idleConns) isTooLargeLocked(answer []byte) bool {
	return len(answer) > 0 && w.readers[&answer[0]] == 0 && w.bytes > 0 && w.bytes+len(answer) > w.maxBytes
}

// addAnswerLocked must be called with w.mu held.
func (w *idleConns) addAnswerLocked(c *socket, answer []byte) {
	if len(answer) == 0 {
		return
	}
	w.answers[c] = answer
	if w.readers[&answer[0]]++; w.readers[&answer[0]] == 1 {
		w.bytes += len(answer)
	}
}

// removeAnswerLocked is a no-op if c reads no answer. w.mu must be held.
func (w *idleConns) removeAnswerLocked(c *socket) {
	answer := w.answers[c]
	if answer == nil {
		return
	}
	delete(w.answers, c)
	if w.readers[&answer[0]]--; w.readers[&answer[0]] == 0 {
		delete(w.readers, &answer[0])
		w.bytes -= len(answer)
	}
}

// countLocked must be called with w.mu held.
func (w *idleConns) countLocked() int { return len(w.local.conns) + len(w.remote.conns) }

// sourceOf returns what counts as one source: an IPv4 address, or an IPv6 /64.
func sourceOf(peer netip.AddrPort) netip.Prefix {
	addr, bits := peer.Addr().Unmap().WithZone(""), 64
	if addr.Is4() {
		bits = 32
	}
	prefix, _ := addr.Prefix(bits)
	return prefix
}

func (g *connSet) add(c *socket) {
	if g.index == nil {
		g.index = make(map[*socket]int)
	}
	g.index[c] = len(g.conns)
	g.conns = append(g.conns, c)
}

// remove returns false if c is not in the set.
func (g *connSet) remove(c *socket) bool {
	i, ok := g.index[c]
	if !ok {
		return false
	}
	last := len(g.conns) - 1
	g.conns[i] = g.conns[last]
	g.index[g.conns[i]] = i
	g.conns[last] = nil
	g.conns = g.conns[:last]
	delete(g.index, c)
	return true
}

// pick returns one of the connections, chosen at random. The set must not be empty.
func (g *connSet) pick() *socket { return g.conns[rand.IntN(len(g.conns))] }
