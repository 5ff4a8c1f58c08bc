package epmd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
)

// Why a connection ends without an answer.
var (
	// errDropped: the request did not come and there are too many such connections.
	errDropped = errors.New("epmd: dropped, too many connections without a request")
	// errUntaken: the peer did not read its answer and there are too many such peers.
	errUntaken = errors.New("epmd: dropped, too many connections do not read their answer")
	// errLength and errTrailing: the stock EPMD closes without an answer too.
	errLength   = errors.New("epmd: invalid request length")
	errTrailing = errors.New("epmd: more bytes than the request length")
)

// An initiator that is refused may have sent more than its request. EPMD reads and
// discards up to discardBytes of that before the close, because a reset could overtake
// the answer.
const (
	discardTimeout = time.Second
	discardBytes   = 64 << 10
)

// connections has what the connections of a server share. It is safe for concurrent
// use. These words say what EPMD waits for:
//
//   - A connection is waiting if the client has not sent its whole request.
//   - It is untaken if the client has not read its whole answer.
//   - It is unread, or possibly unread, if EPMD has passed it to a node and does not know
//     that the node has received it from the channel. The slots count these, not
//     connections.
type connections struct {
	packetTimeout time.Duration
	waiting       *idleConns
	untaken       *idleConns
	clients       atomic.Int64 // open connections, not counting heartbeats

	mu     sync.Mutex
	polled map[*conn]struct{} // those that the runtime's poller has
	ending bool
	frozen atomic.Bool // ending for an upgrade
}

func newConnections(o Options, st *stats) *connections {
	return &connections{
		packetTimeout: o.PacketTimeout,
		waiting: newIdleConns(idleLimits{
			max: o.MaxWaiting, maxSource: o.MaxWaitingSource, refusal: refusedWaiting,
			message: "too many connections without a request; dropping some",
		}, o.Log, st),
		untaken: newIdleConns(idleLimits{
			max: o.MaxUntaken, maxSource: o.MaxUntakenSource, maxBytes: o.MaxUntakenBytes, refusal: refusedUntaken,
			message: "too many connections that do not read their answer; dropping some",
		}, o.Log, st),
		polled: make(map[*conn]struct{}),
	}
}

// beginEnd makes the server end. From now on startPolling fails or, if frozen, all reads
// return errFrozen. It returns false if it was called before.
func (s *connections) beginEnd(frozen bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return false
	}
	s.frozen.Store(frozen)
	s.ending = true
	return true
}

// track adds c to the polled connections. It returns false if the server is ending and will
// not close c any more; if it ends for an upgrade, c is interrupted instead.
func (s *connections) track(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending && !s.frozen.Load() {
		return false
	}
	s.polled[c] = struct{}{}
	return true
}

func (s *connections) untrack(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.polled, c)
}

// polledConns returns the polled connections.
func (s *connections) polledConns() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*conn, 0, len(s.polled))
	for c := range s.polled {
		conns = append(conns, c)
	}
	return conns
}

// conn is one accepted connection. One goroutine reads it at a time. Once it is polled,
// other goroutines may write, interrupt it and hang it up.
type conn struct {
	socket
	shared   *connections
	deadline time.Time
	noWait   bool // errWouldBlock instead of waiting
	counted  bool // in connections.clients
	passed   bool // a pass owns it and closes it

	header [3]byte // Length:16 and the opcode; got bytes of them have been read
	got    int
	body   []byte // what was read after the header before errWouldBlock or errFrozen
	split  bool   // the bytes after the length arrived later than the length

	writeStart atomic.Int64 // when the write that is under way began, in Unix nanoseconds, or 0
}

// Read reads without a goroutine switch if bytes have arrived. The first call that has
// to wait calls startPolling and returns no byte and no error. The caller then decides
// again how much to read, which may depend on c.split, and calls again.
func (c *conn) Read(b []byte) (int, error) {
	if c.isPolled() {
		return c.readPolled(b)
	}
	n, err := retryEINTR(readNow, c.fd, b)
	switch {
	case err == unix.EAGAIN:
		c.split = c.split || c.got >= 2
		if c.noWait {
			return 0, errWouldBlock
		}
		if err := c.startPolling(); err != nil {
			return 0, err
		}
		c.shared.waiting.add(&c.socket, nil)
		return 0, nil
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// readPolled waits for bytes until the deadline, or for the packet timeout and a second if
// that is sooner. The second is there because the stock EPMD counts in whole seconds, so
// its clients may be silent for up to a second more. A heartbeat has no deadline and waits
// without a limit.
func (c *conn) readPolled(b []byte) (int, error) {
	if !c.deadline.IsZero() {
		until := time.Now().Add(c.shared.packetTimeout + time.Second)
		if until.After(c.deadline) {
			until = c.deadline
		}
		if err := c.setReadDeadline(until); err != nil {
			return 0, err
		}
	}
	n, err := c.file.Read(b)
	if err != nil && c.shared.frozen.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		err = errFrozen
	}
	return n, err
}

// readHeader reads the length and the opcode, 3 bytes and never one more: what follows
// a HANDOVER_REQ is for the node. After errWouldBlock and errFrozen it may be called
// again.
func (c *conn) readHeader() (length int, opcode byte, err error) {
	for c.got < len(c.header) {
		n, err := c.Read(c.header[c.got:])
		if err != nil {
			return 0, 0, err
		}
		c.got += n
		c.split = c.split || c.got == 2 // no more had arrived
		if c.got >= 2 {
			length = int(binary.BigEndian.Uint16(c.header[:]))
		}
		if c.got >= 2 && (length < 1 || length > epmdproto.MaxStockRequest) {
			return 0, 0, fmt.Errorf("%w: %d", errLength, length)
		}
	}
	return int(binary.BigEndian.Uint16(c.header[:])), c.header[2], nil
}

// requestBuffer has room for the largest request and one byte that is too many.
type requestBuffer [epmdproto.MaxStockRequest + 1]byte

var buffers = sync.Pool{New: func() any { return new(requestBuffer) }}

// readRequest reads a request, opcode first, into b. The stock EPMD reads everything
// that has arrived together with the length, and closes if that is too much. So does
// this, except for HANDOVER_REQ, of which it never reads a byte too many. After
// errWouldBlock and errFrozen it may be called again.
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
		n, err := c.Read(b[got:limit])
		if err == errWouldBlock || err == errFrozen {
			c.saveBody(b[1:got])
		}
		if err != nil {
			return nil, err
		}
		got += n
	}
	// A request of 1 byte is complete with its header, so the loop did not read beyond it.
	if got > length || length == 1 && opcode != epmdproto.OpHandover && !c.split && c.discardNow() {
		return nil, errTrailing
	}
	return b[:length], nil
}

// saveBody makes the next readRequest begin with the header and body.
func (c *conn) saveBody(body []byte) { c.body = slices.Clone(body) }

// writeLast sends all of b, or returns an error by the deadline. If it did not have
// to wait, the end of b leaves with the FIN, so the caller must close c or shut it
// down at once.
func (c *conn) writeLast(b []byte) error {
	answer := b
	if !c.isPolled() {
		n, err := retryEINTR(sendLastNow, c.fd, b)
		if err == nil && n == len(b) {
			return nil
		}
		if err == unix.EAGAIN && c.noWait {
			return errWouldBlock
		}
		if err != nil && err != unix.EAGAIN {
			return os.NewSyscallError("write", err)
		}
		if c.noWait {
			return io.ErrShortWrite
		}
		b = b[max(n, 0):]
		if err := c.startPolling(); err != nil {
			return err
		}
	}
	c.shared.untaken.add(&c.socket, answer)
	err := c.writePolled(b)
	if !c.shared.untaken.remove(&c.socket) {
		err = errUntaken
	}
	return err
}

// writePolled sends all of b on a polled connection, or returns an error by the
// deadline.
func (c *conn) writePolled(b []byte) error {
	c.writeStart.Store(time.Now().UnixNano())
	defer c.writeStart.Store(0)
	_, err := c.file.Write(b)
	return err
}

// refuseHandover sends the initiator the result, and discards what else it has sent.
func (c *conn) refuseHandover(result epmdproto.Result) {
	if err := c.setDeadline(time.Now().Add(discardTimeout)); err != nil {
		return
	}
	if err := c.writeLast(epmdproto.AppendHandoverResult(nil, result)); err != nil {
		return
	}
	err := c.control(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
	if c.isPolled() { // else Read adds it
		c.shared.waiting.add(&c.socket, nil)
	}
	buf := buffers.Get().(*requestBuffer)
	defer buffers.Put(buf)
	for remaining := discardBytes; err == nil && remaining > 0; {
		var n int
		n, err = c.Read(buf[:])
		remaining -= n
	}
}

// startPolling gives the connection to the runtime's poller, and adds it to those that
// the server closes when it ends.
func (c *conn) startPolling() error {
	if err := c.socket.startPolling(c.deadline); err != nil {
		return err
	}
	if !c.shared.track(c) {
		return net.ErrClosed
	}
	c.interruptIfFrozen()
	return nil
}

// setDeadline bounds all reads and writes from now on. The zero time means none.
func (c *conn) setDeadline(t time.Time) error {
	c.deadline = t
	if !c.isPolled() {
		return nil
	}
	defer c.interruptIfFrozen()
	return c.file.SetDeadline(t)
}

// setReadDeadline bounds the reads of a polled connection.
func (c *conn) setReadDeadline(t time.Time) error {
	defer c.interruptIfFrozen()
	return c.file.SetReadDeadline(t)
}

// interruptIfFrozen must be called after a read deadline is set, because that cancels
// a pending interrupt.
func (c *conn) interruptIfFrozen() {
	if c.shared.frozen.Load() {
		c.interrupt()
	}
}

// countClient counts c among the clients and returns how many there are.
func (c *conn) countClient() int64 {
	c.counted = true
	return c.shared.clients.Add(1)
}

// uncountClient is a no-op if c is not counted.
func (c *conn) uncountClient() {
	if c.counted {
		c.counted = false
		c.shared.clients.Add(-1)
	}
}

// close may be called again if c is polled.
func (c *conn) close() {
	c.uncountClient()
	if c.isPolled() {
		c.shared.waiting.remove(&c.socket)
		c.shared.untrack(c)
	}
	c.closeFD()
}

// detach closes c and returns another descriptor of the same connection, which no
// poller knows. The caller must close it.
func (c *conn) detach() (fd int, err error) {
	fd, err = c.duplicate()
	c.close()
	if !c.isPolled() {
		c.fd = -1 // close may be called again
	}
	return fd, err
}
