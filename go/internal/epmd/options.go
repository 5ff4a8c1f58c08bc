package epmd

import (
	"cmp"
	"time"

	"github.com/rs/zerolog"

	"handover/go/internal/registry"
)

// Options of a [Server]. A limit that is zero has its default.
type Options struct {
	// Port is the port that the answers to NAMES and DUMP begin with, and that
	// -names prints.
	Port int
	// RelaxedCommandCheck allows KILL while nodes are registered, and STOP.
	RelaxedCommandCheck bool
	// PacketTimeout is how long a client may be silent before its request is
	// complete, to within a second. Default 60 s.
	PacketTimeout time.Duration
	// RequestTimeout is the time from accept until the request is complete, however
	// slowly it arrives, and until the client has read the answer. Default 60 s, or
	// PacketTimeout if that is more.
	RequestTimeout time.Duration
	// DelayAccept and DelayWrite simulate a busy server, as the stock EPMD does.
	DelayAccept, DelayWrite time.Duration
	// MaxOld is how many unregistered names are remembered. Default
	// registry.DefaultMaxOld (1,000).
	MaxOld int
	// Files is how many files EPMD may have open, or 0 if that is not known. The
	// defaults of MaxClients, MaxPasses and MaxNodeFiles are its [Budget].
	Files int
	// MaxClients is how many connections may be open, not counting heartbeats. More
	// are closed at once. Default at most 8,192.
	MaxClients int
	// LocalReserve is how many of MaxClients are reserved for local peers.
	// Default 256, or an eighth of MaxClients if that is less: one local user can
	// take three quarters, and peers of other hosts must find room too.
	LocalReserve int
	// MaxWaiting is how many of MaxClients may be open without having sent their
	// request. Beyond that each new one drops an older one, chosen at random.
	// Default a quarter of MaxClients.
	MaxWaiting int
	// MaxWaitingSource is the same limit for the connections of one IPv4 address or
	// IPv6 /64 of another host. Default a quarter of MaxWaiting.
	MaxWaitingSource int
	// MaxUntaken and MaxUntakenSource are the same limits for connections whose peer
	// has not read the answer. Default as MaxWaiting and MaxWaitingSource.
	MaxUntaken, MaxUntakenSource int
	// MaxUntakenBytes is how much memory these answers may take together. An answer
	// that several connections share counts once. Default 64 MiB.
	MaxUntakenBytes int
	// MaxNodeFiles is how many files registered nodes may take: one each, and two if
	// they take handovers. It is shared by users as MaxInProgress is, but the nodes of
	// root and of EPMD's own user may have more than their share, since these users could
	// end EPMD anyway. Default at most 65,536.
	MaxNodeFiles int
	// MaxInProgress is how many handovers may be in progress: those that wait, and those
	// that were passed and are not acknowledged. One user's nodes may have at most half of
	// it, and the next user's at most half of what is left; a user's nodes share in the
	// same way what the user may have. Default half of MaxClients.
	MaxInProgress int
	// HandoverTimeout is the time for one handover, from its request to the
	// node's ACK. Default 6 s: initiators wait for net_setuptime, 7 s, and must
	// receive the reason of a failure before that.
	HandoverTimeout time.Duration
	// MaxNodePasses is how many connections that were passed to one node may be
	// possibly unread. Default 64.
	MaxNodePasses int
	// MaxPasses is the same limit for all nodes together: the kernel refuses to pass
	// more than EPMD may have files open (ETOOMANYREFS). It is shared as MaxInProgress is.
	// Default at most 1,024.
	MaxPasses int
	// MaxNodeQueue is how many more handovers to one node may wait for a slot.
	// Default 1,024.
	MaxNodeQueue int
	// Trial is called before an upgrade. It reports whether the successor can resume
	// from such a state, which has no open files. If it is nil, upgrades are refused.
	Trial func(*State) error
	// Log takes warnings (a node's or a peer's fault), and requests at debug level.
	Log zerolog.Logger
}

const (
	// logEvery is the least time between two log lines about a lasting problem.
	logEvery = time.Minute
	// minBackoff and maxBackoff bound the pause after a call that failed for lack of
	// files or memory.
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
)

func (o Options) withDefaults() Options {
	o.PacketTimeout = cmp.Or(o.PacketTimeout, 60*time.Second)
	o.RequestTimeout = cmp.Or(o.RequestTimeout, max(60*time.Second, o.PacketTimeout))
	o.MaxOld = cmp.Or(o.MaxOld, registry.DefaultMaxOld)
	files := BudgetOf(o.Files)
	o.MaxClients = cmp.Or(o.MaxClients, max(1, files.Clients))
	o.MaxPasses = cmp.Or(o.MaxPasses, max(1, files.Passes))
	o.MaxNodeFiles = cmp.Or(o.MaxNodeFiles, max(1, files.Nodes))
	o.LocalReserve = cmp.Or(o.LocalReserve, min(256, o.MaxClients/8))
	o.MaxWaiting = cmp.Or(o.MaxWaiting, max(1, o.MaxClients/4))
	o.MaxWaitingSource = cmp.Or(o.MaxWaitingSource, max(1, o.MaxWaiting/4))
	o.MaxUntaken = cmp.Or(o.MaxUntaken, o.MaxWaiting)
	o.MaxUntakenSource = cmp.Or(o.MaxUntakenSource, o.MaxWaitingSource)
	o.MaxUntakenBytes = cmp.Or(o.MaxUntakenBytes, 64<<20)
	o.MaxInProgress = cmp.Or(o.MaxInProgress, max(1, o.MaxClients/2))
	o.HandoverTimeout = cmp.Or(o.HandoverTimeout, 6*time.Second)
	o.MaxNodePasses = cmp.Or(o.MaxNodePasses, 64)
	o.MaxNodeQueue = cmp.Or(o.MaxNodeQueue, 1024)
	return o
}
