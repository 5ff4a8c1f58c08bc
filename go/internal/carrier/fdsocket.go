package carrier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/peercred"
	"handover/go/internal/portproto"
)

// fdSendBuffer bounds how many descriptors the BEAM may leave unread. The kernel charges
// about 800 bytes for each message, and reports the socket as writable only while no more
// than a quarter of the buffer is in use.
const fdSendBuffer = 128 << 10

var (
	// errBusy: the BEAM does not read the fd socket, or the queue is full.
	errBusy = errors.New("carrier: the BEAM does not take connections")
	// errNoBEAM: the BEAM did not connect in time; the carrier is about to end.
	errNoBEAM = errors.New("carrier: the BEAM has not connected to the fd socket")
)

// fdSocket is the Unix socket on which the carrier delivers connections to the BEAM.
type fdSocket struct {
	name      string
	timeout   time.Duration
	ready     chan struct{} // closed when conn is set, or will stay nil
	conn      *net.UnixConn
	raw       syscall.RawConn
	sendToken chan struct{} // holds one token, which a sender must take

	// undelivered counts the handed-over connections from reserveQueue to releaseQueue,
	// queued or not. It is at most the capacity of queue, so a send on queue never blocks.
	undelivered atomic.Int64
	queue       chan queuedConn
}

// queuedConn is a connection that waits for the BEAM. The queue owns fd.
type queuedConn struct {
	m  portproto.Connection
	fd int
}

// listenFDSocket opens the fd socket for hello.OSPid, once.
func (c *carrier) listenFDSocket() (*fdSocket, error) {
	name := epmdproto.NewSocketName()
	l, err := fdpass.Listen(name)
	if err != nil {
		return nil, err
	}
	s := &fdSocket{
		name: name, timeout: c.o.SendTimeout,
		ready: make(chan struct{}), sendToken: make(chan struct{}, 1), queue: make(chan queuedConn, c.o.MaxQueued),
	}
	s.sendToken <- struct{}{}
	c.wg.Go(func() { c.deliverQueued(s) })
	c.wg.Go(func() {
		err := c.acceptBEAM(s, l)
		close(s.ready)
		if err == nil {
			err = c.receiveKept(s)
		}
		c.end(err)
	})
	return s, nil
}

// acceptBEAM waits for the BEAM to connect, and closes all other connections.
func (c *carrier) acceptBEAM(s *fdSocket, l *net.UnixListener) error {
	defer l.Close()
	defer context.AfterFunc(c.ctx, func() { _ = l.Close() })()
	if err := l.SetDeadline(time.Now().Add(c.o.FDConnectTimeout)); err != nil {
		return fmt.Errorf("carrier: fd socket: %w", err)
	}
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return fmt.Errorf("carrier: the BEAM did not connect to the fd socket: %w", err)
		}
		if err := c.vetBEAM(conn); err != nil {
			c.log.Warn().Err(err).Msg("refused a connection to the fd socket that is not from the BEAM")
			_ = conn.Close()
			continue
		}
		return s.setConn(conn)
	}
}

// vetBEAM returns an error unless the process of hello.OSPid opened conn.
func (c *carrier) vetBEAM(conn *net.UnixConn) error {
	cred, err := peercred.Unix(conn)
	if err != nil {
		return err
	}
	if cred.PID != c.hello.OSPid || cred.UID != uint32(os.Getuid()) {
		return fmt.Errorf("carrier: process %d of uid %d connected instead of %d, the BEAM", cred.PID, cred.UID, c.hello.OSPid)
	}
	return nil
}

// setConn owns conn, even if it returns an error.
func (s *fdSocket) setConn(conn *net.UnixConn) (err error) {
	if err = conn.SetWriteBuffer(fdSendBuffer / 2); err == nil { // the kernel doubles it
		s.raw, err = conn.SyscallConn()
	}
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("carrier: fd socket: %w", err)
	}
	s.conn = conn
	return nil
}

// receiveKept receives KEEP messages. With each, the BEAM passes the descriptor of a link
// that it had before this carrier started, and the carrier keeps it as its copy. receiveKept
// returns when the BEAM closes its end, which it does when it no longer needs this carrier;
// the end of stdin follows.
func (c *carrier) receiveKept(s *fdSocket) error {
	var buf [portproto.KeepSize + 1]byte
	for {
		n, fd, err := fdpass.Receive(s.conn, buf[:])
		if err != nil && n <= 0 {
			return errEOF
		}
		if errors.Is(err, fdpass.ErrFiles) {
			err = nil // this link has no copy
		}
		var id uint64
		if err == nil {
			id, err = portproto.ParseKeep(buf[:n])
		}
		if err != nil {
			_ = unix.Close(fd) // -1 after an error of Receive
			return fmt.Errorf("carrier: fd socket: %w", err)
		}
		c.links.addKept(id, fd)
	}
}

// closeWhenReady closes the socket. It must be called after the carrier's context has
// ended, which ends acceptBEAM.
func (s *fdSocket) closeWhenReady() {
	<-s.ready
	if s.conn != nil {
		_ = s.conn.Close()
	}
}

// closedByBEAM reports whether the BEAM has closed its end.
func (s *fdSocket) closedByBEAM() bool {
	select {
	case <-s.ready:
	default:
		return false
	}
	if s.conn == nil {
		return true
	}
	closed := true
	_ = s.raw.Control(func(fd uintptr) { closed = hasEvent(fd, unix.POLLHUP) })
	return closed
}

// sendConnection sends a connection to the BEAM; the caller keeps fd. The error wraps
// errBusy if there is no room in time.
func (s *fdSocket) sendConnection(m portproto.Connection, fd int) error {
	deadline := time.Now().Add(s.timeout)
	if err := s.acquireSend(deadline); err != nil {
		return err
	}
	defer func() { s.sendToken <- struct{}{} }()
	if err := s.waitWritable(deadline); err != nil {
		return err
	}
	var buf [portproto.MaxConnection]byte
	return s.sendFD(portproto.AppendConnection(buf[:0], m), fd, deadline)
}

// sendConnectionNow is like sendConnection but never waits. It reports whether it sent the
// connection.
func (s *fdSocket) sendConnectionNow(m portproto.Connection, fd int) bool {
	select {
	case <-s.ready:
	default:
		return false
	}
	select {
	case <-s.sendToken:
	default:
		return false
	}
	defer func() { s.sendToken <- struct{}{} }()
	if s.conn == nil {
		return false
	}
	var buf [portproto.MaxConnection]byte
	return fdpass.SendNow(s.conn, portproto.AppendConnection(buf[:0], m), fd) == nil
}

// acquireSend waits until this goroutine may send. After a nil error the caller must put
// the token back.
func (s *fdSocket) acquireSend(deadline time.Time) error {
	select {
	case <-s.ready:
	default:
		if !waitUntil(deadline, s.ready) {
			return errBusy
		}
	}
	if s.conn == nil {
		return errNoBEAM
	}
	select {
	case <-s.sendToken:
	default:
		if !waitUntil(deadline, s.sendToken) {
			return errBusy
		}
	}
	return nil
}

// waitUntil reports whether c delivered a value, or was closed, before the deadline.
func waitUntil(deadline time.Time, c <-chan struct{}) bool {
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
		return false
	}
}

// waitWritable waits until the socket has room for a message.
func (s *fdSocket) waitWritable(deadline time.Time) error {
	var now bool
	if err := s.raw.Control(func(fd uintptr) { now = isWritable(fd) }); err != nil {
		return fmt.Errorf("carrier: fd socket: %w", err)
	}
	if now {
		return nil
	}
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("carrier: fd socket: %w", err)
	}
	err := s.raw.Write(isWritable)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errBusy
	}
	if err != nil {
		return fmt.Errorf("carrier: fd socket: %w", err)
	}
	return nil
}

// isWritable is also true of a broken socket, on which the send fails.
func isWritable(fd uintptr) bool { return hasEvent(fd, unix.POLLOUT|unix.POLLERR|unix.POLLHUP) }

// refPause is the pause between two attempts while the user has too many descriptors in
// flight.
const refPause = 5 * time.Millisecond

func (s *fdSocket) sendFD(msg []byte, fd int, deadline time.Time) error {
	for {
		err := fdpass.Send(s.conn, msg, fd, deadline)
		switch {
		case errors.Is(err, unix.ETOOMANYREFS) && time.Until(deadline) > refPause:
			time.Sleep(refPause)
		case errors.Is(err, unix.ETOOMANYREFS), errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("%w: %w", errBusy, err)
		default:
			return err
		}
	}
}

// reserveQueue reserves room in the queue for one handed-over connection. The caller must
// call releaseQueue when the connection is delivered or closed. The error wraps errBusy.
func (s *fdSocket) reserveQueue() error {
	if s.undelivered.Add(1) > int64(cap(s.queue)) {
		s.undelivered.Add(-1)
		return fmt.Errorf("%w: %d wait already", errBusy, cap(s.queue))
	}
	return nil
}

func (s *fdSocket) releaseQueue() { s.undelivered.Add(-1) }
