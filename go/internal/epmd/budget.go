package epmd

import "math"

// Budget is what EPMD's open files are for, so that neither nodes nor clients can
// take a file that is meant for the others. EPMD's own are not in it: one in 16, at
// most 64, for listeners, log, poller, metrics (17), questions to the kernel (12) and
// an upgrade.
//
// Of 1,024 files 512 are for clients, 128 for passes, 64 EPMD's own and 320 for
// nodes; of 65,536 they are 8,192, 1,024, 64 and 56,256.
type Budget struct {
	// Clients: connections that are no node's. A half, at most 8,192.
	Clients int
	// Passes: connections on their way to nodes that are not among the clients, and
	// broken channels that nodes have not read. An eighth, at most 1,024.
	Passes int
	// Nodes: a heartbeat a node, and a channel a node that takes handovers. The rest,
	// at most 65,536.
	Nodes int
}

// BudgetOf divides so many files, 0 if that is not known.
func BudgetOf(files int) Budget {
	if files <= 0 {
		files = math.MaxInt32
	}
	b := Budget{Clients: min(files/2, 8192), Passes: min(files/8, 1024)}
	b.Nodes = min(files-b.Clients-b.Passes-min(files/16, 64), 65536)
	return b
}

// share is how many of most one user may have while others have so many: as many as
// it leaves free. So one user never has more than half, and k users that work
// together leave one part in 2 to the k.
func share(most, others int) int { return (most - others + 1) / 2 }
