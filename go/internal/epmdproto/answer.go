package epmdproto

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// ReadPort2Resp reads PORT2_RESP, and no byte after it. known is false if EPMD has no such
// name, or refuses the lookup. The error is r's, io.EOF if there was no byte, or wraps
// ErrAnswer.
func ReadPort2Resp(r io.Reader) (node Alive2Req, known bool, err error) {
	var b [12]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return node, false, err
	}
	if b[0] != opPort2Resp {
		return node, false, fmt.Errorf("%w: opcode %d to PORT_PLEASE2_REQ", ErrAnswer, b[0])
	}
	if b[1] != 0 {
		return node, false, nil
	}
	if _, err := io.ReadFull(r, b[2:10]); err != nil {
		return node, false, noEOF(err)
	}
	node = Alive2Req{
		Port: be.Uint16(b[2:]), NodeType: b[4], Protocol: b[5], Highest: be.Uint16(b[6:]), Lowest: be.Uint16(b[8:]),
	}
	name, err := readField(r)
	if err != nil {
		return node, false, err
	}
	node.Name = string(name)
	node.Extra, err = readField(r)
	return node, err == nil, err
}

// readField reads Length:16 and Length bytes.
func readField(r io.Reader) ([]byte, error) {
	var b [maxNameBytes]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return nil, noEOF(err)
	}
	length := int(be.Uint16(b[:]))
	if length > len(b) {
		return nil, fmt.Errorf("%w: a field of %d bytes in PORT2_RESP", ErrAnswer, length)
	}
	if _, err := io.ReadFull(r, b[:length]); err != nil {
		return nil, noEOF(err)
	}
	return append([]byte(nil), b[:length]...), nil
}

// ReadHandoverResp reads HANDOVER_RESP, and no byte after it: if the result is OK, the node
// sends what follows. The error is r's, io.EOF if there was no byte, or wraps ErrAnswer.
func ReadHandoverResp(r io.Reader) (result Result, version uint16, err error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return 0, 0, err
	}
	if b[0] != opHandover {
		return 0, 0, fmt.Errorf("%w: opcode %d to HANDOVER_REQ", ErrAnswer, b[0])
	}
	if _, err := io.ReadFull(r, b[1:2]); err != nil {
		return 0, 0, noEOF(err)
	}
	if result = Result(b[1]); result != OK {
		return result, 0, nil
	}
	if _, err := io.ReadFull(r, b[2:]); err != nil {
		return 0, 0, noEOF(err)
	}
	return OK, be.Uint16(b[2:]), nil
}

// ReadNames reads the answer to NAMES_REQ to its end and returns the names of the nodes. It
// skips lines of another form, since a name may contain a line end. The error is r's, or
// wraps ErrAnswer; the names before the error are returned with it.
func ReadNames(r io.Reader) (names []string, err error) {
	var port [4]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return nil, err
	}
	if n := be.Uint32(port[:]); n == 0 || n > 0xffff {
		return nil, fmt.Errorf("%w: port %d to NAMES_REQ", ErrAnswer, n)
	}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, isName := strings.CutPrefix(lines.Text(), "name ")
		if at := strings.LastIndex(line, " at port "); isName && at >= 0 {
			names = append(names, line[:at])
		}
	}
	return names, lines.Err()
}
