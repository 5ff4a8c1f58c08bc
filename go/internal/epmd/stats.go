package epmd

import (
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"handover/go/internal/epmdproto"
	"handover/go/internal/policy"
	"handover/go/internal/status"
)

// kind is the type of a request, as it is counted.
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

var requestNames = [kinds]string{"lookup", "handover", "register", "names", "dump", "kill", "stop", "status", "upgrade", "unknown"}

// outcome is the result of a request.
type outcome uint8

const (
	outcomeOK       outcome = iota
	outcomeNotFound         // there is no such name
	outcomeRefused          // by policy, by a rule for remote peers, or in the present state
	outcomeBad              // closed without an answer, as the stock EPMD does
	outcomeFailed           // a handover that failed
	outcomes
)

var outcomeNames = [outcomes]string{"ok", "not_found", "refused", "bad", "failed"}

// refusal is the reason why a request was refused, or a connection closed.
type refusal uint8

const (
	refusedSource refusal = iota // this and the next three are in policy.Reason's order, see refusalOf
	refusedRate
	refusedHidden
	refusedNode
	refusedRemote     // only local peers may ask
	refusedClients    // Options.MaxClients
	refusedWaiting    // Options.MaxWaiting
	refusedUntaken    // Options.MaxUntaken
	refusedNames      // Options.MaxNodeFiles
	refusedInProgress // Options.MaxInProgress
	refusals
)

var refusalNames = [refusals]string{"source", "rate", "hidden", "node", "remote", "clients", "waiting", "untaken", "names", "handovers"}

// refusalOf returns how a refusal by policy is counted. reason must not be policy.Allowed.
func refusalOf(reason policy.Reason) refusal { return refusedSource + refusal(reason-policy.Source) }

// handoverBounds are in seconds. A local handover takes a tenth of a millisecond.
var handoverBounds = [...]float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}

// stats are the counters of a server. An atomic addition costs a lookup nothing.
type stats struct {
	start     time.Time
	accepted  atomic.Uint64
	silent    atomic.Uint64 // connections that ended before their request was complete, or with one of invalid length
	requests  [kinds][outcomes]atomic.Uint64
	handovers [epmdproto.CannotPass + 1]atomic.Uint64
	refusals  [refusals]atomic.Uint64
	took      [len(handoverBounds) + 1]atomic.Uint64
	tookNanos atomic.Int64
	// refusalLog and faultLog take refusalLines a minute: refusals, and faults of
	// local peers. The counters have them all.
	refusalLog, faultLog zerolog.Logger
}

// refusalLines is how many refusals, and how many faults, are logged a minute.
const refusalLines = 10

func newStats(o Options) *stats {
	sampled := func() zerolog.Logger {
		return o.Log.Sample(&zerolog.BurstSampler{Burst: refusalLines, Period: time.Minute})
	}
	return &stats{start: time.Now(), refusalLog: sampled(), faultLog: sampled()}
}

func (st *stats) countRequest(k kind, o outcome) { st.requests[k][o].Add(1) }

// countHandover counts a handover that began at start and ended now.
func (st *stats) countHandover(result epmdproto.Result, start time.Time) {
	if int(result) >= len(st.handovers) {
		result = epmdproto.Refused // a carrier's own number
	}
	st.handovers[result].Add(1)
	o := outcomeFailed
	switch result {
	case epmdproto.OK:
		o = outcomeOK
		took := time.Since(start)
		st.tookNanos.Add(int64(took))
		st.took[bucketOf(took)].Add(1)
	case epmdproto.NoSuchNode:
		o = outcomeNotFound
	case epmdproto.Refused:
		o = outcomeRefused
	}
	st.countRequest(kindHandover, o)
}

func bucketOf(d time.Duration) int {
	for i, bound := range handoverBounds {
		if d.Seconds() <= bound {
			return i
		}
	}
	return len(handoverBounds)
}

// copyTo copies the counters, with their names.
func (st *stats) copyTo(to *status.Status) {
	to.Requests = make(map[string]map[string]uint64, kinds)
	for k := range kinds {
		results := make(map[string]uint64)
		for o := range outcomes {
			if n := st.requests[k][o].Load(); n > 0 || o == outcomeOK {
				results[outcomeNames[o]] = n
			}
		}
		to.Requests[requestNames[k]] = results
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
