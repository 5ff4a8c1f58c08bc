// Package epmd is the port mapper daemon: the stock EPMD's protocol, and the
// handover of a live connection to the node that it is for.
//
//	initiator                 this package                    node
//	    |--- HANDOVER_REQ --->|                                 |
//	    |                     | gate: room for one more?        |
//	    |                     |--- 'h' on the heartbeat ------->|   only when no
//	    |                     |<-- path ------------------------|   channel is open
//	    |                     | vet the path, connect, vet who answers
//	    |                     |=== PASS + the connection ======>|
//	    |                     |<== ACK =========================|
//	    |                     x closes its copy                 |
//
// One goroutine a connection; one more a node that has a channel. What is there at
// accept and takes no waiting, a lookup or a handover over an open channel, is done
// in the accept loop without one. No client and no node can hold up another: every
// wait has a deadline or belongs to the waiter alone, every queue has a bound (see
// [Options]).
//
// Ownership: a conn is closed by the goroutine that serves it, or, once passed, by
// the pass: at the ACK, the deadline, or the channel's end. After PASS the
// connection is the node's; nothing is written to it any more. The gate counts it
// until the node has read it, also where EPMD has given it up.
package epmd
