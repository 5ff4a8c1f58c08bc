package epmd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errAgain: there is nothing to read yet, or no room to write, and the caller may
// not wait.
var errAgain = errors.New("epmd: would block")

// conn is one accepted connection: a plain non-blocking socket with no option
// set, so that it can be handed over as the BEAM would have made it. It joins the
// runtime's poller only when somebody has to wait for it: most lookups never do.
//
// One goroutine uses it at a time; but file may be closed by the server, to wake
// that goroutine up.
type conn struct {
	s        *Server
	fd       int
	file     *os.File        // nil until the first wait; then owns fd
	raw      syscall.RawConn // file's
	peer     netip.AddrPort
	deadline time.Time
	nowait   bool // errAgain instead of waiting
	counted  bool // in Server.clients
	passed   bool // a pass owns it, which closes it

	header [3]byte // Length:16 and the opcode, as far as got tells
	got    int
	body   []byte // what was read behind the header before errAgain
	split  bool   // the bytes behind the length came later than it

	answer  []byte       // while its peer has not taken it; untaken's
	writing atomic.Int64 // when a write that may have to wait began, in Unix nanoseconds, or 0
}

// read is io.Reader's, but reads what is there without a goroutine switch, and
// returns no byte and no error where it is the first that has to wait.
func (c *conn) read(b []byte) (int, error) {
	if c.file != nil {
		return c.await(b)
	}
	n, err := retry(readNow, c.fd, b)
	switch {
	case err == unix.EAGAIN:
		c.split = c.split || c.got >= 2
		if c.nowait {
			return 0, errAgain
		}
		if err := c.park(); err != nil {
			return 0, err
		}
		c.s.waiting.add(c)
		return 0, nil // how much to read may depend on split
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// await waits for bytes until the deadline, and no longer than for PacketTimeout:
// with the stock EPMD's grain of a second. A heartbeat has no deadline.
func (c *conn) await(b []byte) (int, error) {
	if !c.deadline.IsZero() {
		until := time.Now().Add(c.s.o.PacketTimeout + time.Second)
		if until.After(c.deadline) {
			until = c.deadline
		}
		if err := c.setReadDeadline(until); err != nil {
			return 0, err
		}
	}
	n, err := c.file.Read(b)
	if err != nil && c.s.leaving.frozen.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		err = errFrozen
	}
	return n, err
}

// Read makes a conn an io.Reader.
func (c *conn) Read(b []byte) (int, error) { return c.read(b) }

// writeLast sends all of b, or returns an error by the deadline. Where it did not
// have to wait the end of b leaves with the FIN, so that a close or a shutdown
// must follow at once.
func (c *conn) writeLast(b []byte) error {
	answer := b
	if c.file == nil {
		n, err := retry(sendLast, c.fd, b)
		if err == nil && n == len(b) {
			return nil
		}
		if err == unix.EAGAIN && c.nowait {
			return errAgain
		}
		if err != nil && err != unix.EAGAIN {
			return os.NewSyscallError("write", err)
		}
		if c.nowait {
			return io.ErrShortWrite
		}
		b = b[max(n, 0):]
		if err := c.park(); err != nil {
			return err
		}
	}
	c.answer = answer
	c.s.untaken.add(c)
	err := c.write(b)
	if !c.s.untaken.remove(c) {
		err = errUntaken
	}
	c.answer = nil
	return err
}

// write sends all of b on a parked connection, or returns an error by the
// deadline.
func (c *conn) write(b []byte) error {
	c.writing.Store(time.Now().UnixNano())
	defer c.writing.Store(0)
	_, err := c.file.Write(b)
	return err
}

// park gives the connection to the runtime's poller and to the server's set of
// connections to close at its end.
func (c *conn) park() error {
	file := os.NewFile(uintptr(c.fd), "connection")
	raw, err := file.SyscallConn()
	if err == nil {
		err = file.SetDeadline(c.deadline)
	}
	c.file, c.raw = file, raw
	if err != nil {
		return fmt.Errorf("epmd: poller: %w", err)
	}
	if !c.s.track(c) {
		return net.ErrClosed
	}
	c.ifFrozen()
	return nil
}

// setDeadline bounds all reads and writes from now on; zero is none.
func (c *conn) setDeadline(t time.Time) error {
	c.deadline = t
	if c.file == nil {
		return nil
	}
	defer c.ifFrozen()
	return c.file.SetDeadline(t)
}

// setReadDeadline bounds the reads of a parked connection.
func (c *conn) setReadDeadline(t time.Time) error {
	defer c.ifFrozen()
	return c.file.SetReadDeadline(t)
}

// hangUp ends a parked connection from outside the goroutine that serves it,
// which closes it.
func (c *conn) hangUp() { _ = c.file.Close() }

// control calls f with the fd, which stays open meanwhile.
func (c *conn) control(f func(fd int) error) error {
	if c.file == nil {
		return f(c.fd)
	}
	var err error
	if rawErr := c.raw.Control(func(fd uintptr) { err = f(int(fd)) }); rawErr != nil {
		return rawErr
	}
	return err
}

// uncount takes c out of the number of clients.
func (c *conn) uncount() {
	if c.counted {
		c.counted = false
		c.s.clients.Add(-1)
	}
}

func (c *conn) close() {
	c.uncount()
	if c.file == nil {
		closeNow(c.fd)
		return
	}
	c.s.waiting.remove(c)
	c.s.untrack(c)
	_ = c.file.Close()
}

// local is the address the peer connected to.
func (c *conn) local() (addr netip.AddrPort, err error) {
	err = c.control(func(fd int) error {
		sa, err := syscall.Getsockname(fd)
		addr = addrPort(sa)
		return os.NewSyscallError("getsockname", err)
	})
	return addr, err
}

// isLocal says whether the peer may do what is for this host alone: it comes from
// 127.0.0.0/8 or ::1, or from the very address that it connected to.
func (c *conn) isLocal() bool {
	if c.peer.Addr().Unmap().IsLoopback() {
		return true
	}
	local, err := c.local()
	return err == nil && c.peer.Addr().IsValid() && local.Addr() == c.peer.Addr()
}

// pending says whether bytes are there that nobody asked for, and eats them.
func (c *conn) pending() bool {
	var b [64]byte
	err := c.control(func(fd int) error {
		n, err := retry(readNow, fd, b[:])
		if err == nil && n == 0 {
			return io.EOF
		}
		return err
	})
	return err == nil
}

// hungUp says whether the peer has closed and nothing is left to read, or the
// connection is broken or closed here.
func (c *conn) hungUp() bool {
	var b [1]byte
	n := 0
	err := c.control(func(fd int) (err error) {
		n, _, err = unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err
	})
	return err == nil && n == 0 || err != nil && err != unix.EAGAIN && err != unix.EINTR
}

func retry(call func(int, []byte) (int, error), fd int, b []byte) (n int, err error) {
	for {
		if n, err = call(fd, b); err != unix.EINTR {
			return n, err
		}
	}
}

func addrPort(sa syscall.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *syscall.SockaddrInet6:
		addr := netip.AddrFrom16(sa.Addr)
		if sa.ZoneId != 0 {
			addr = addr.WithZone(fmt.Sprint(sa.ZoneId))
		}
		return netip.AddrPortFrom(addr, uint16(sa.Port))
	}
	return netip.AddrPort{}
}
