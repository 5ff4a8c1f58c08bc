package epmd

import (
	"time"

	"github.com/rs/zerolog"

	"handover/go/internal/registry"
)

// Options of a [Server]. The zero value of a limit stands for its default.
type Options struct {
	// Port is what NAMES and DUMP tell, and what -names prints.
	Port int
	// RelaxedCommandCheck allows KILL with registered nodes, and STOP.
	RelaxedCommandCheck bool
	// PacketTimeout is how long a client may be silent before its request is
	// whole, give or take a second. Default 60 s.
	PacketTimeout time.Duration
	// RequestTimeout is the time from accept for a whole request, however it drips
	// in, and for the client to read the answer. Default 60 s, or PacketTimeout
	// where that is more.
	RequestTimeout time.Duration
	// DelayAccept and DelayWrite simulate a busy server, as the stock EPMD does.
	DelayAccept, DelayWrite time.Duration
	// MaxOld is how many names are remembered after they were given up. Default
	// registry.DefaultMaxOld (1,000).
	MaxOld int
	// Files is how many files EPMD may have open, 0 if that is not known. The defaults
	// of MaxClients, MaxPasses and MaxNodeFiles are its [Budget].
	Files int
	// MaxClients is how many connections may be open that are no node's; more
	// are closed at once. Default at most 8,192.
	MaxClients int
	// LocalReserve is how many of MaxClients are for local peers only.
	// Default 256, or an eighth of MaxClients where that is less: one local user can
	// take three quarters, and peers of other hosts must find room too.
	LocalReserve int
	// MaxWaiting is how many of MaxClients may be open without having asked;
	// beyond that each new one ends one that was there, chosen at random.
	// Default a quarter of MaxClients.
	MaxWaiting int
	// MaxWaitingSource is the same for those of one IPv4 address or IPv6 /64 that
	// is not this host's. Default a quarter of MaxWaiting.
	MaxWaitingSource int
	// MaxUntaken and MaxUntakenSource are the same for connections whose peer has
	// not read the answer. Default as MaxWaiting and MaxWaitingSource.
	MaxUntaken, MaxUntakenSource int
	// MaxUntakenBytes is how much memory these answers may take together; an answer
	// that many are to read counts once. Default 64 MiB.
	MaxUntakenBytes int
	// MaxNodeFiles is how many files registered nodes may take: one each, and two if
	// they take handovers. The nodes of one user have at most as many as they leave
	// free for others; those of root and of EPMD's own user, who could end EPMD anyway,
	// need leave none. Default at most 65,536.
	MaxNodeFiles int
	// MaxHeld is how many handovers may be under way, waiting or passed. The nodes of
	// one user have at most as many as they leave free for others, a node at most as
	// many as it leaves free for others of its user. Default half of MaxClients.
	MaxHeld int
	// HandoverTimeout is the time for one handover, from its request to the
	// node's ACK. Default 6 s: initiators give up after
	// net_setuptime, 7 s, and are to hear why.
	HandoverTimeout time.Duration
	// MaxNodePasses is how many connections one node may have been passed and
	// not read yet, as far as EPMD knows. Default 64.
	MaxNodePasses int
	// MaxPasses is the same for all nodes together: the kernel refuses to pass
	// more than that EPMD may have files open (ETOOMANYREFS). The nodes of one
	// user have at most as many as they leave free for others. Default at most 1,024.
	MaxPasses int
	// MaxNodeQueue is how many more may wait for room, a node. Default 1,024.
	MaxNodeQueue int
	// Trial says, before an upgrade, whether the successor can go on from such a
	// state, which has no open files. Without it there is no upgrade.
	Trial func(*State) error
	// Log takes warnings (a node's or a peer's fault), and requests at debug level.
	Log zerolog.Logger
}

// What a refused initiator may have sent behind its request is read and thrown
// away before the close, lest a reset overtakes the answer: up to so much.
const (
	drainTimeout = time.Second
	drainBytes   = 64 << 10
)

func (o Options) withDefaults() Options {
	setDefault(&o.PacketTimeout, 60*time.Second)
	setDefault(&o.RequestTimeout, max(60*time.Second, o.PacketTimeout))
	setDefault(&o.MaxOld, registry.DefaultMaxOld)
	files := BudgetOf(o.Files)
	setDefault(&o.MaxClients, max(1, files.Clients))
	setDefault(&o.MaxPasses, max(1, files.Passes))
	setDefault(&o.MaxNodeFiles, max(1, files.Nodes))
	setDefault(&o.LocalReserve, min(256, o.MaxClients/8))
	setDefault(&o.MaxWaiting, max(1, o.MaxClients/4))
	setDefault(&o.MaxWaitingSource, max(1, o.MaxWaiting/4))
	setDefault(&o.MaxUntaken, o.MaxWaiting)
	setDefault(&o.MaxUntakenSource, o.MaxWaitingSource)
	setDefault(&o.MaxUntakenBytes, 64<<20)
	setDefault(&o.MaxHeld, max(1, o.MaxClients/2))
	setDefault(&o.HandoverTimeout, 6*time.Second)
	setDefault(&o.MaxNodePasses, 64)
	setDefault(&o.MaxNodeQueue, 1024)
	return o
}

func setDefault[T int | time.Duration](v *T, otherwise T) {
	if *v == 0 {
		*v = otherwise
	}
}
