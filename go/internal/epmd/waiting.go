package epmd

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// errDropped: the connection had not asked yet, and made way for another.
var errDropped = errors.New("epmd: dropped, too many connections wait without asking")

// waiting holds the connections that have not asked yet, and ends one for each
// that is too many: those who ask at once, as nodes do, are rarely among them. The
// new one stays, and one that was there is chosen at random, so that a flood of
// silent connections mostly ends its own. Peers of this host make way for each
// other only.
type waiting struct {
	max, share int // Options.MaxWaiting, MaxWaitingSource
	log        zerolog.Logger

	mu     sync.Mutex
	local  crowd
	remote crowd
	source map[netip.Prefix]*crowd // of the remote ones
	logged time.Time
}

// crowd is a set of connections that one can be drawn from.
type crowd struct {
	conns []*conn
	index map[*conn]int
}

func newWaiting(o Options) *waiting {
	return &waiting{max: o.MaxWaiting, share: o.MaxWaitingSource, log: o.Log, source: make(map[netip.Prefix]*crowd)}
}

// add lets c, which is parked, wait. It may be ended from now on.
func (w *waiting) add(c *conn) {
	local := c.isLocal()
	w.mu.Lock()
	defer w.mu.Unlock()
	victim := w.makeWay(c, local)
	if victim != nil {
		w.take(victim)
		victim.hangUp()
		victim.s.stats.refusals[refusedWaiting].Add(1)
		w.say(victim)
	}
	if local {
		w.local.add(c)
		return
	}
	w.remote.add(c)
	from := sourceOf(c.peer)
	if w.source[from] == nil {
		w.source[from] = new(crowd)
	}
	w.source[from].add(c)
}

// makeWay returns the connection that has to go for c, or nil.
func (w *waiting) makeWay(c *conn, local bool) *conn {
	if from := w.source[sourceOf(c.peer)]; !local && from != nil && len(from.conns) >= w.share {
		return from.any()
	}
	if len(w.local.conns)+len(w.remote.conns) < w.max {
		return nil
	}
	if len(w.remote.conns) > 0 {
		return w.remote.any()
	}
	if local {
		return w.local.any()
	}
	return nil
}

// remove: c waits no longer. It returns false where c has been ended.
func (w *waiting) remove(c *conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.take(c)
}

func (w *waiting) take(c *conn) bool {
	if w.local.remove(c) {
		return true
	}
	if !w.remote.remove(c) {
		return false
	}
	from := sourceOf(c.peer)
	w.source[from].remove(c)
	if len(w.source[from].conns) == 0 {
		delete(w.source, from)
	}
	return true
}

// say logs now and then: a flood must not become one of log lines.
func (w *waiting) say(victim *conn) {
	if time.Since(w.logged) < logEvery {
		return
	}
	w.logged = time.Now()
	w.log.Warn().Stringer("peer", victim.peer).Int("waiting", len(w.local.conns)+len(w.remote.conns)).
		Msg("too many connections that ask nothing; dropping some")
}

// sourceOf is what counts as one source: an IPv4 address, an IPv6 network.
func sourceOf(peer netip.AddrPort) netip.Prefix {
	addr, bits := peer.Addr().Unmap().WithZone(""), 64
	if addr.Is4() {
		bits = 32
	}
	prefix, _ := addr.Prefix(bits)
	return prefix
}

func (g *crowd) add(c *conn) {
	if g.index == nil {
		g.index = make(map[*conn]int)
	}
	g.index[c] = len(g.conns)
	g.conns = append(g.conns, c)
}

func (g *crowd) remove(c *conn) bool {
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

func (g *crowd) any() *conn { return g.conns[rand.IntN(len(g.conns))] }
