package epmdproto

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

var be = binary.BigEndian

// Alive2Req describes a node that registers.
type Alive2Req struct {
	Port               uint16
	NodeType, Protocol byte
	Highest, Lowest    uint16 // distribution versions
	Name               string // alive name, the part before "@"
	Extra              []byte
}

// Append adds the request with its Length to b. The error wraps ErrName or
// ErrExtra.
func (r Alive2Req) Append(b []byte) ([]byte, error) {
	if err := ValidName(r.Name); err != nil {
		return b, err
	}
	if len(r.Extra) > MaxExtra {
		return b, fmt.Errorf("%w: %d bytes, at most %d fit", ErrExtra, len(r.Extra), MaxExtra)
	}
	b = be.AppendUint16(b, uint16(alive2Fixed+len(r.Name)+len(r.Extra)))
	b = append(b, OpAlive2)
	return r.appendBody(b), nil
}

// appendBody adds "Port:16 NodeType:8 Protocol:8 Highest:16 Lowest:16 NLen:16
// Name ELen:16 Extra", which ALIVE2_REQ and PORT2_RESP share.
func (r Alive2Req) appendBody(b []byte) []byte {
	b = be.AppendUint16(b, r.Port)
	b = append(b, r.NodeType, r.Protocol)
	b = be.AppendUint16(b, r.Highest)
	b = be.AppendUint16(b, r.Lowest)
	b = be.AppendUint16(b, uint16(len(r.Name)))
	b = append(b, r.Name...)
	b = be.AppendUint16(b, uint16(len(r.Extra)))
	return append(b, r.Extra...)
}

// ParseAlive2 reads a request without its Length: the opcode, then the body.
// Bytes after Extra are ignored, as by the stock EPMD. It makes the checks after which the
// stock EPMD closes without an answer; CanRegister makes those after which it refuses. The
// error wraps ErrAlive2.
func ParseAlive2(req []byte) (Alive2Req, error) {
	if len(req) <= alive2Fixed || req[0] != OpAlive2 {
		return Alive2Req{}, fmt.Errorf("%w: %d bytes", ErrAlive2, len(req))
	}
	r := Alive2Req{
		Port: be.Uint16(req[1:]), NodeType: req[3], Protocol: req[4],
		Highest: be.Uint16(req[5:]), Lowest: be.Uint16(req[7:]),
	}
	nameLen := int(be.Uint16(req[9:]))
	if alive2Fixed+nameLen > len(req) {
		return Alive2Req{}, fmt.Errorf("%w: name of %d bytes in a request of %d", ErrAlive2, nameLen, len(req))
	}
	r.Name = string(req[11 : 11+nameLen])
	extraLen := int(be.Uint16(req[11+nameLen:]))
	if alive2Fixed+nameLen+extraLen > len(req) {
		return Alive2Req{}, fmt.Errorf("%w: extra of %d bytes in a request of %d", ErrAlive2, extraLen, len(req))
	}
	if strings.IndexByte(r.Name, 0) >= 0 {
		return Alive2Req{}, fmt.Errorf("%w: name has a NUL", ErrAlive2)
	}
	r.Extra = append([]byte(nil), req[alive2Fixed+nameLen:][:extraLen]...)
	return r, nil
}

// CanRegister makes the checks of the stock EPMD before it registers a node: those of
// ValidName, except that an empty name passes, and the length of Extra. The error wraps
// ErrName or ErrExtra.
func (r Alive2Req) CanRegister() error {
	if len(r.Extra) > MaxExtra {
		return fmt.Errorf("%w: %d bytes, at most %d fit", ErrExtra, len(r.Extra), MaxExtra)
	}
	if r.Name == "" {
		return nil
	}
	return ValidName(r.Name)
}

// TakesHandovers reports whether the node registered with [Extra].
func (r Alive2Req) TakesHandovers() bool { return string(r.Extra) == Extra }

// AppendRequest adds "Length:16 op arg" to b: every request but ALIVE2_REQ and
// HANDOVER_REQ. arg is a name or empty; the caller must bound its length.
func AppendRequest(b []byte, op byte, arg string) []byte {
	b = be.AppendUint16(b, uint16(1+len(arg)))
	return append(append(b, op), arg...)
}

// AppendHandoverReq adds HANDOVER_REQ for an alive name to b. The error wraps
// ErrName.
func AppendHandoverReq(b []byte, name string) ([]byte, error) {
	if err := ValidName(name); err != nil {
		return b, err
	}
	return AppendRequest(b, OpHandover, name), nil
}

// Alive2Resp is the answer to ALIVE2_REQ. Result 0 is success; with any other result Creation
// has no meaning.
type Alive2Resp struct {
	Result   byte
	Creation uint32
}

// Append adds ALIVE2_X_RESP for a node of distribution version 6 or higher, else ALIVE2_RESP
// with the low 16 bits of Creation.
func (r Alive2Resp) Append(b []byte, highest uint16) []byte {
	if highest >= wideCreation {
		return be.AppendUint32(append(b, opAlive2X, r.Result), r.Creation)
	}
	return be.AppendUint16(append(b, opAlive2Resp, r.Result), uint16(r.Creation))
}

// ReadAlive2Resp reads either form, and no byte after it. The error is r's, io.EOF if there was
// no byte, or wraps ErrAnswer.
func ReadAlive2Resp(r io.Reader) (Alive2Resp, error) {
	var b [6]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return Alive2Resp{}, err
	}
	size := 4
	switch b[0] {
	case opAlive2Resp:
	case opAlive2X:
		size = 6
	default:
		return Alive2Resp{}, fmt.Errorf("%w: opcode %d to ALIVE2_REQ", ErrAnswer, b[0])
	}
	if _, err := io.ReadFull(r, b[1:size]); err != nil {
		return Alive2Resp{}, noEOF(err)
	}
	if size == 4 {
		return Alive2Resp{Result: b[1], Creation: uint32(be.Uint16(b[2:]))}, nil
	}
	return Alive2Resp{Result: b[1], Creation: be.Uint32(b[2:])}, nil
}

// AppendPort2Resp adds the answer to a lookup of a registered name.
func AppendPort2Resp(b []byte, r Alive2Req) []byte {
	return r.appendBody(append(b, opPort2Resp, 0))
}

// AppendPort2Unknown adds the answer to a lookup of an unknown name.
func AppendPort2Unknown(b []byte) []byte { return append(b, opPort2Resp, 1) }

// noEOF is for an end in the middle of a message: io.EOF is one between two messages.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
