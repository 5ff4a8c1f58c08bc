package epmdproto

import (
	"fmt"
	"io"
	"strconv"
)

// Result is the outcome of a handover, as HANDOVER_RESP and ACK carry it.
type Result byte

// The results; docs/PROTOCOL.md has the table.
const (
	OK         Result = iota // the connection is the node's now
	NoSuchNode               // nobody of that name is registered
	NoHandover               // the node is registered without Extra: it takes no handovers
	NoAnswer                 // the node did not answer in time
	Refused                  // by policy, or the connection failed the node's checks
	Overloaded               // too many at once; try again
	CannotPass               // EPMD can't bring the connection to the node; its log says why
)

var resultNames = [...]string{"ok", "no_such_node", "no_handover", "no_answer", "refused", "overloaded", "cannot_pass"}

// String gives the name of the table, or the number of an unknown result.
func (r Result) String() string {
	if int(r) < len(resultNames) {
		return resultNames[r]
	}
	return "result_" + strconv.Itoa(int(r))
}

// AppendHandoverOK adds the node's HANDOVER_RESP: 'i' 0 Version:16, where version
// is the highest distribution version that the node speaks.
func AppendHandoverOK(b []byte, version uint16) []byte {
	return be.AppendUint16(append(b, opHandover, byte(OK)), version)
}

// AppendHandoverResult adds HANDOVER_RESP where there is no handover: 'i' Result.
func AppendHandoverResult(b []byte, r Result) []byte {
	return append(b, opHandover, byte(r))
}

// HandoverAsk is EPMD's question on the heartbeat: 1:16 'h'. Not to be changed.
var HandoverAsk = []byte{0, 1, OpHandover}

// AppendHandoverSocket adds the node's answer to HandoverAsk, Length:16 Name. An
// empty name says that the node can open no socket now. The error is
// ValidSocketName's.
func AppendHandoverSocket(b []byte, name string) ([]byte, error) {
	if name != "" {
		if err := ValidSocketName(name); err != nil {
			return b, err
		}
	}
	return append(be.AppendUint16(b, uint16(len(name))), name...), nil
}

// ReadHandoverSocket reads the node's answer and not a byte more. "" without an
// error says that the node can open no socket now. An error that wraps
// ErrSocketName leaves the stream between two messages. After any other error
// (r's own, ErrFrame for a Length that no name has) the stream can't be used.
func ReadHandoverSocket(r io.Reader) (string, error) {
	var b [SocketNameSize]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return "", err
	}
	length := int(be.Uint16(b[:]))
	if length > SocketNameSize {
		return "", fmt.Errorf("%w: %d", ErrFrame, length)
	}
	if _, err := io.ReadFull(r, b[:length]); err != nil {
		return "", noEOF(err)
	}
	if length == 0 {
		return "", nil
	}
	name := string(b[:length])
	if err := ValidSocketName(name); err != nil {
		return "", err
	}
	return name, nil
}
