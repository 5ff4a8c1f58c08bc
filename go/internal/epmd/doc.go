// Package epmd is the port mapper daemon: the stock EPMD's protocol, and the
// handover of a live connection to the node that the initiator names.
//
//	initiator                 this package                    node
//	    |--- HANDOVER_REQ --->|                                 |
//	    |                     | slots: is one free?             |
//	    |                     |--- 'h' on the heartbeat ------->|   only if no
//	    |                     |<-- socket name -----------------|   channel is open
//	    |                     | check the name, connect, check the peer
//	    |                     |=== PASS + the connection ======>|
//	    |                     |<== ACK =========================|
//	    |                     x closes its copy                 |
//
// Each connection has one goroutine, and each node that has a channel has one
// more. The accept loop itself answers a request that has arrived already and
// needs no waiting: a lookup, or a handover over an open channel. No client and no
// node can delay another: every wait has a deadline or belongs to one connection
// alone, and every queue has a bound (see [Options]).
//
// Calls go down:
//
//	Server     accepts, answers requests, hands over, upgrades
//	node       a heartbeat, and the way to open a channel
//	channel    an open Unix connection to a node, and the passes on it
//	conn       one connection and the reading of its request
//	slots, users, idleConns    what is bounded, per node, user and source
//	socket     a descriptor, with or without the runtime's poller
//
// Ownership: the goroutine that serves a conn closes it. Once a conn is passed, the
// pass closes it: at the ACK, at the deadline, or when the channel ends. After PASS
// the connection belongs to the node, and this package writes nothing to it. The slots
// count the connection until the node has read it, even if EPMD no longer waits
// for the ACK.
package epmd
