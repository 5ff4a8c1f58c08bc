package epmd

import "math"

// Budget divides EPMD's open files, so that neither nodes nor clients can take a
// file that is meant for the others. It leaves out EPMD's own files: one in 16, at
// most 64, for listeners, log, poller, metrics (17), questions to the kernel (12)
// and an upgrade.
//
// Of 1,024 files 512 are for clients, 128 for passes, 64 are EPMD's own and 320 are
// for nodes. Of 65,536 files these are 8,192, 1,024, 64 and 56,256.
type Budget struct {
	// Clients is for connections that are not heartbeats: half of the files, at most 8,192.
	Clients int
	// Passes is for connections that are passed and do not count as clients, and for
	// broken channels that nodes have not read to the end: an eighth, at most 1,024.
	Passes int
	// Nodes is for one heartbeat per node, and one channel per node that takes
	// handovers: the rest, at most 65,536.
	Nodes int
}

// BudgetOf divides the given number of files, or 0 if that is not known.
func BudgetOf(files int) Budget {
	if files <= 0 {
		files = math.MaxInt32
	}
	b := Budget{Clients: min(files/2, 8192), Passes: min(files/8, 1024)}
	b.Nodes = min(files-b.Clients-b.Passes-min(files/16, 64), 65536)
	return b
}

// fairShare returns how many of most one user may have while the other users have others:
// half of what they leave. So one user gets at most half of most, the next at most half of
// what is left, and so on; k users that work together leave one part in 2 to the k.
func fairShare(most, others int) int { return (most - others + 1) / 2 }
