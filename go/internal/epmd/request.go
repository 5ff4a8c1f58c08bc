package epmd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"handover/go/internal/epmdproto"
)

// What ends a connection without an answer, as in the stock EPMD.
var (
	errLength   = errors.New("epmd: request of an impossible length")
	errTrailing = errors.New("epmd: more bytes than the request's length says")
)

// requestBuffer has room for the largest request and one byte that is too many.
type requestBuffer [epmdproto.MaxStockRequest + 1]byte

var buffers = sync.Pool{New: func() any { return new(requestBuffer) }}

// readHeader reads the length and the opcode, 3 bytes and never one more: what is
// behind a HANDOVER_REQ is the node's.
func (c *conn) readHeader() (length int, opcode byte, err error) {
	for c.got < len(c.header) {
		n, err := c.read(c.header[c.got:])
		if err != nil {
			return 0, 0, err
		}
		c.got += n
		c.split = c.split || c.got == 2 // no more was there
		if c.got >= 2 {
			length = int(binary.BigEndian.Uint16(c.header[:]))
		}
		if c.got >= 2 && (length < 1 || length > epmdproto.MaxStockRequest) {
			return 0, 0, fmt.Errorf("%w: %d", errLength, length)
		}
	}
	return int(binary.BigEndian.Uint16(c.header[:])), c.header[2], nil
}

// readRequest reads a request, opcode first, into b. The stock EPMD reads all
// that is there together with the length, and closes when that is too much; so
// does this, but for HANDOVER_REQ, which is read to the byte. On errAgain and
// errFrozen it may be called again.
func (c *conn) readRequest(b *requestBuffer) ([]byte, error) {
	length, opcode, err := c.readHeader()
	if err != nil {
		return nil, err
	}
	if opcode == epmdproto.OpHandover && length > epmdproto.MaxRequest {
		return nil, fmt.Errorf("%w: HANDOVER_REQ of %d", errLength, length)
	}
	b[0] = opcode
	got := 1 + copy(b[1:], c.body)
	for got < length {
		limit := length
		if opcode != epmdproto.OpHandover && !c.split {
			limit = len(b)
		}
		n, err := c.read(b[got:limit])
		if err == errAgain || err == errFrozen {
			c.body = append([]byte(nil), b[1:got]...)
		}
		if err != nil {
			return nil, err
		}
		got += n
	}
	if got > length || length == 1 && opcode != epmdproto.OpHandover && !c.split && c.pending() {
		return nil, errTrailing
	}
	return b[:length], nil
}
