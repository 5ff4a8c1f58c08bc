// Package portproto converts the messages between the carrier and the BEAM to structs and
// back: parts 3 and 4 of docs/PROTOCOL.md. It does no input or output except on the readers
// that it is given.
//
//	BEAM                                  carrier
//	  |-- hello ------------------------->|   control: {packet, 4} frames on
//	  |<------------------ hello/refused -|   stdin and stdout, a term each
//	  |-- register, connect, cancel, ... >|
//	  |<-- registered, error, epmd, log --|
//	  |<=============== CONNECTION + fd ==|   fd socket: SOCK_SEQPACKET
//
// A [Command] goes from the BEAM to the carrier, an [Event] the other way. The carrier parses
// commands and writes events; the opposite directions are for tests and benchmarks that play
// the BEAM.
package portproto

import "handover/go/internal/etf"

const (
	// Version of both parts.
	Version = 1
	// MaxFrame is the largest Length of a frame, in bytes.
	MaxFrame = etf.MaxSize
)

// Command is a message of the BEAM.
type Command interface {
	message
	isCommand()
}

// Event is a message of the carrier.
type Event interface {
	message
	isEvent()
}

type message interface {
	// Term returns the message as a term.
	Term() any
}

// Kind of an EPMD.
type Kind string

// The kinds: handover's EPMD, and a stock one.
const (
	KindHandover Kind = "handover"
	KindStock    Kind = "stock"
)

// Reason of an [Error] or a [Refused]; docs/PROTOCOL.md has the table.
type Reason string

// The reasons of [Error].
const (
	DuplicateName   Reason = "duplicate_name"
	EPMDUnreachable Reason = "epmd_unreachable"
	EPMDClosed      Reason = "epmd_closed"
	EPMDBadAnswer   Reason = "epmd_bad_answer"
	EPMDNotStarted  Reason = "epmd_not_started"
	Timeout         Reason = "timeout"
	Cancelled       Reason = "cancelled"
	Overloaded      Reason = "overloaded"
	BadRequest      Reason = "bad_request"
)

// The reasons of [Refused].
const (
	UnknownVersion Reason = "unknown_version"
	BadHello       Reason = "bad_hello"
)
