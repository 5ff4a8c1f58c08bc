package epmd

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Why a connection makes way for another.
var (
	// errDropped: it had not asked yet.
	errDropped = errors.New("epmd: dropped, too many connections wait without asking")
	// errUntaken: it did not read its answer.
	errUntaken = errors.New("epmd: dropped, too many connections do not read their answer")
)

// waiting holds connections that keep EPMD waiting, and ends one for each that is
// too many: those that have not asked yet, or those that do not read their answer.
// Peers that do either at once are rarely among them. The new one stays, and one
// that was there is chosen at random, so that a flood mostly ends its own. Peers of
// this host make way for each other only.
type waiting struct {
	max, share int // in all, and of one source
	maxBytes   int // of answers; one that many wait to read counts once
	why        refusal
	text       string // for the log
	log        zerolog.Logger

	mu      sync.Mutex
	local   crowd
	remote  crowd
	source  map[netip.Prefix]*crowd // of the remote ones
	answers map[*byte]int           // by their first byte: how many wait to read it
	bytes   int                     // of all of answers
	logged  time.Time
}

// crowd is a set of connections that one can be drawn from.
type crowd struct {
	conns []*conn
	index map[*conn]int
}

func newWaiting(o Options) *waiting {
	return &waiting{
		max: o.MaxWaiting, share: o.MaxWaitingSource, why: refusedWaiting, log: o.Log, source: make(map[netip.Prefix]*crowd),
		text: "too many connections that ask nothing; dropping some",
	}
}

func newUntaken(o Options) *waiting {
	return &waiting{
		max: o.MaxUntaken, share: o.MaxUntakenSource, maxBytes: o.MaxUntakenBytes, why: refusedUntaken, log: o.Log,
		source: make(map[netip.Prefix]*crowd), answers: make(map[*byte]int),
		text: "too many connections that do not read their answer; dropping some",
	}
}

// add lets c, which is parked, wait: to ask, or for its peer to read c.answer. It
// may be ended from now on.
func (w *waiting) add(c *conn) {
	local := c.isLocal()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end(w.makeWay(c, local))
	for w.tooLarge(c.answer) {
		if !w.end(w.anyFor(local)) {
			break
		}
	}
	w.hold(c.answer)
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

// end reports whether there was one to end. w.mu is held.
func (w *waiting) end(victim *conn) bool {
	if victim == nil {
		return false
	}
	w.take(victim)
	victim.hangUp()
	victim.s.stats.refusals[w.why].Add(1)
	w.say(victim)
	return true
}

// tooLarge reports whether one more that reads this answer needs more memory than
// there may be.
func (w *waiting) tooLarge(answer []byte) bool {
	return w.answers != nil && len(answer) > 0 && w.answers[&answer[0]] == 0 && w.bytes > 0 && w.bytes+len(answer) > w.maxBytes
}

func (w *waiting) hold(answer []byte) {
	if w.answers == nil || len(answer) == 0 {
		return
	}
	if w.answers[&answer[0]]++; w.answers[&answer[0]] == 1 {
		w.bytes += len(answer)
	}
}

func (w *waiting) letGo(answer []byte) {
	if w.answers == nil || len(answer) == 0 {
		return
	}
	if w.answers[&answer[0]]--; w.answers[&answer[0]] == 0 {
		delete(w.answers, &answer[0])
		w.bytes -= len(answer)
	}
}

// makeWay returns the connection that has to go for c, or nil.
func (w *waiting) makeWay(c *conn, local bool) *conn {
	if from := w.source[sourceOf(c.peer)]; !local && from != nil && len(from.conns) >= w.share {
		return from.any()
	}
	if len(w.local.conns)+len(w.remote.conns) < w.max {
		return nil
	}
	return w.anyFor(local)
}

// anyFor returns one that may be ended for another, or nil.
func (w *waiting) anyFor(local bool) *conn {
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
		w.letGo(c.answer)
		return true
	}
	if !w.remote.remove(c) {
		return false
	}
	w.letGo(c.answer)
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
		Msg(w.text)
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
