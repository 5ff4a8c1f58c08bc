package epmd

import (
	"os"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"handover/go/internal/epmdproto"
	"handover/go/internal/status"
)

// kind is a request's type, as it is counted.
type kind uint8

const (
	kindLookup kind = iota
	kindHandover
	kindRegister
	kindNames
	kindDump
	kindKill
	kindStop
	kindStatus
	kindUpgrade
	kindUnknown
	kinds
)

var kindTexts = [kinds]string{"lookup", "handover", "register", "names", "dump", "kill", "stop", "status", "upgrade", "unknown"}

// outcome is what became of a request.
type outcome uint8

const (
	outcomeOK       outcome = iota
	outcomeNotFound         // there is no such name
	outcomeRefused          // by policy, by a rule for remote peers, or by the state of things
	outcomeBad              // closed without an answer, as the stock EPMD does
	outcomeFailed           // a handover that did not come to be
	outcomes
)

var outcomeNames = [outcomes]string{"ok", "not_found", "refused", "bad", "failed"}

// refusal is why a request was refused, or a connection closed.
type refusal uint8

const (
	refusedSource refusal = iota // this and the next three in policy.Reason's order
	refusedRate
	refusedHidden
	refusedNode
	refusedRemote  // what is for this host alone
	refusedClients // Options.MaxClients
	refusedWaiting // Options.MaxWaiting
	refusedUntaken // Options.MaxUntaken
	refusedNames   // Options.MaxNodeFiles
	refusedHeld    // Options.MaxHeld
	refusals
)

var refusalNames = [refusals]string{"source", "rate", "hidden", "node", "remote", "clients", "waiting", "untaken", "names", "handovers"}

// handoverBounds are in seconds. Local ones take a tenth of a millisecond.
var handoverBounds = [...]float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}

// stats are counted all the time: an atomic addition costs a lookup nothing.
type stats struct {
	start     time.Time
	accepted  atomic.Uint64
	silent    atomic.Uint64
	requests  [kinds][outcomes]atomic.Uint64
	handovers [epmdproto.CannotPass + 1]atomic.Uint64
	refusals  [refusals]atomic.Uint64
	took      [len(handoverBounds) + 1]atomic.Uint64
	tookNanos atomic.Int64
	// refused logs refusals, so many a minute: each has its number here anyway.
	// faults is the same for the faults of local peers.
	refused, faults zerolog.Logger
}

// refusalLines is how many refusals, and how many faults, are logged a minute.
const refusalLines = 10

func newStats(o Options) *stats {
	fewLines := func() zerolog.Logger {
		return o.Log.Sample(&zerolog.BurstSampler{Burst: refusalLines, Period: time.Minute})
	}
	return &stats{start: time.Now(), refused: fewLines(), faults: fewLines()}
}

func (st *stats) request(k kind, o outcome) { st.requests[k][o].Add(1) }

// handover counts one that began at start and ended now.
func (st *stats) handover(result epmdproto.Result, start time.Time) {
	if int(result) >= len(st.handovers) {
		result = epmdproto.Refused // a carrier's own number
	}
	st.handovers[result].Add(1)
	became := outcomeFailed
	switch result {
	case epmdproto.OK:
		became = outcomeOK
		took := time.Since(start)
		st.tookNanos.Add(int64(took))
		st.took[bucketOf(took)].Add(1)
	case epmdproto.NoSuchNode:
		became = outcomeNotFound
	case epmdproto.Refused:
		became = outcomeRefused
	}
	st.request(kindHandover, became)
}

func bucketOf(d time.Duration) int {
	for i, bound := range handoverBounds {
		if d.Seconds() <= bound {
			return i
		}
	}
	return len(handoverBounds)
}

// Status tells what there is and what was counted.
func (s *Server) Status() status.Status {
	st := status.Status{
		PID: os.Getpid(), Port: s.o.Port, Seconds: time.Since(s.stats.start).Seconds(),
		Policy: s.policy.Load() != nil, OldNames: len(s.names.Old()), Nodes: []status.Node{},
		Connections: status.Connections{
			Open: s.clients.Load(), Waiting: s.waiting.len(), Accepted: s.stats.accepted.Load(), Silent: s.stats.silent.Load(),
		},
	}
	for _, entry := range s.names.Live() {
		n := nodeOf(entry).status()
		st.Nodes = append(st.Nodes, n)
		st.Channels.Queued += n.Queued
		switch {
		case !n.Handover:
		case n.Channel == channelOpen:
			st.Channels.Open++
		case n.Channel == channelOpening:
			st.Channels.Opening++
		default:
			st.Channels.None++
		}
	}
	st.Channels.Passing = s.gate.passing()
	s.stats.read(&st)
	return st
}

// read copies the counters, with their names.
func (st *stats) read(to *status.Status) {
	to.Requests = make(map[string]map[string]uint64, kinds)
	for k := range kinds {
		results := make(map[string]uint64)
		for o := range outcomes {
			if n := st.requests[k][o].Load(); n > 0 || o == outcomeOK {
				results[outcomeNames[o]] = n
			}
		}
		to.Requests[kindTexts[k]] = results
	}
	to.Handovers = make(map[string]uint64, len(st.handovers))
	for r := range st.handovers {
		to.Handovers[epmdproto.Result(r).String()] = st.handovers[r].Load()
	}
	to.Refusals = make(map[string]uint64, refusals)
	for r := range refusals {
		to.Refusals[refusalNames[r]] = st.refusals[r].Load()
	}
	to.HandoverSeconds = status.Histogram{Bounds: handoverBounds[:], Sum: time.Duration(st.tookNanos.Load()).Seconds()}
	for i := range st.took {
		to.HandoverSeconds.Counts = append(to.HandoverSeconds.Counts, st.took[i].Load())
	}
}

// The states of the way to a node.
const (
	channelOpen    = "open"
	channelOpening = "opening"
	channelNone    = "none"
)

func (n *node) status() status.Node {
	st := status.Node{
		Name: n.entry.Name, Port: n.entry.Port, Creation: n.entry.Creation(),
		Handover: n.entry.TakesHandovers(), Channel: channelNone,
	}
	n.mu.Lock()
	switch {
	case n.channel != nil:
		st.Channel = channelOpen
	case n.opening != nil:
		st.Channel = channelOpening
	}
	n.mu.Unlock()
	n.s.gate.mu.Lock()
	st.Unread, st.Queued = n.unread, len(n.queue)
	n.s.gate.mu.Unlock()
	return st
}

func (w *waiting) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.local.conns) + len(w.remote.conns)
}
