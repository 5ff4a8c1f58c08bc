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
	OK         Result = iota // the connection now belongs to the node
	NoSuchNode               // no node of that name is registered
	NoHandover               // the node is registered without Extra: it takes no handovers
	NoAnswer                 // the node did not answer in time
	Refused                  // by policy, or the connection failed the node's checks
	Overloaded               // too many at once; try again
	CannotPass               // EPMD cannot pass connections to the node; its log has the reason
)

var resultNames = [...]string{"ok", "no_such_node", "no_handover", "no_answer", "refused", "overloaded", "cannot_pass"}

// String returns the name in the table, or the number of an unknown result.
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

// AppendHandoverResult adds HANDOVER_RESP of a refused handover: 'i' Result.
func AppendHandoverResult(b []byte, r Result) []byte {
	return append(b, opHandover, byte(r))
}

// HandoverAsk is EPMD's request on the heartbeat: 1:16 'h'. It must not be modified.
var HandoverAsk = []byte{0, 1, OpHandover}

// AppendHandoverSocket adds the node's answer to HandoverAsk, Length:16 Name. An
// empty name means that the node cannot open a socket at the moment. The error is that of
// ValidSocketName.
func AppendHandoverSocket(b []byte, name string) ([]byte, error) {
	if name != "" {
		if err := ValidSocketName(name); err != nil {
			return b, err
		}
	}
	return append(be.AppendUint16(b, uint16(len(name))), name...), nil
}

// ReadHandoverSocket reads the node's answer, and no byte after it. "" without an error means
// that the node cannot open a socket at the moment. After an error that wraps ErrSocketName
// the stream is between two messages. After any other error (r's own, or one that wraps
// ErrFrame: no name has that length) the stream cannot be used any more.
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
