// Package epmdproto converts the messages of docs/PROTOCOL.md, parts 1 and 2, to structs and
// back. It does no input or output except on the readers that it is given.
//
//	initiator            EPMD                      node (its carrier)
//	    |                 |<------ ALIVE2_REQ 'x' ------|  heartbeat
//	    |                 |-- ALIVE2_RESP 'y' or 'v' -->|  (stays open)
//	    |- HANDOVER_REQ ->|                             |
//	    |   Len:16 'h'    |-- HANDOVER_ASK 1:16 'h' --->|
//	    |                 |<- HANDOVER_PATH Len:16 -----|
//	    |                 |== PASS + one fd ===========>|  channel
//	    |                 |<========== ACK =============|  (SOCK_SEQPACKET)
//	    |<-------- HANDOVER_RESP 'i' 0 Version:16 ------|
//
// Integers are big-endian. Requests are Length:16 and Length bytes.
package epmdproto
