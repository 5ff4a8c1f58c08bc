package epmd

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a connected TCP socket: non-blocking and with no other option set, so
// that a node can adopt it as if the BEAM had accepted it. It is added to the runtime's
// poller (startPolling) only when a read or write has to wait: most lookups never do.
//
// One goroutine reads a socket at a time. Once it is polled, others may write, and call
// hangUp and interrupt.
type socket struct {
	fd   int
	file *os.File        // nil until startPolling; then owns fd
	raw  syscall.RawConn // file's
	peer netip.AddrPort
}

func (s *socket) isPolled() bool { return s.file != nil }

// startPolling gives the socket to the runtime's poller.
func (s *socket) startPolling(deadline time.Time) error {
	file := os.NewFile(uintptr(s.fd), "connection")
	raw, err := file.SyscallConn()
	if err == nil {
		err = file.SetDeadline(deadline)
	}
	s.file, s.raw = file, raw
	if err != nil {
		return fmt.Errorf("epmd: adding the connection to the poller: %w", err)
	}
	return nil
}

// hangUp closes a polled socket, which ends the reads and writes of the goroutine
// that uses it. That goroutine must still close it.
func (s *socket) hangUp() { _ = s.file.Close() }

// interrupt makes all reads of a polled socket return os.ErrDeadlineExceeded, until
// the next read deadline is set.
func (s *socket) interrupt() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) }

func (s *socket) closeFD() {
	if s.file == nil {
		closeFD(s.fd)
		return
	}
	_ = s.file.Close()
}

// control calls f with the descriptor, which stays open during the call.
func (s *socket) control(f func(fd int) error) error {
	if s.file == nil {
		return f(s.fd)
	}
	var err error
	if rawErr := s.raw.Control(func(fd uintptr) { err = f(int(fd)) }); rawErr != nil {
		return rawErr
	}
	return err
}

// duplicate returns another descriptor of the socket, which the caller must close.
func (s *socket) duplicate() (fd int, err error) {
	err = s.control(func(old int) error {
		fd, err = dupCloexec(old)
		return err
	})
	return fd, err
}

// localAddr returns the address that the peer connected to.
func (s *socket) localAddr() (addr netip.AddrPort, err error) {
	err = s.control(func(fd int) error {
		addr, err = localAddr(fd)
		return os.NewSyscallError("getsockname", err)
	})
	return addr, err
}

// isLocal reports whether the peer is on this host: it comes from 127.0.0.0/8 or
// ::1, or from the very address that it connected to.
func (s *socket) isLocal() bool {
	if s.peer.Addr().Unmap().IsLoopback() {
		return true
	}
	local, err := s.localAddr()
	return err == nil && s.peer.Addr().IsValid() && local.Addr() == s.peer.Addr()
}

// discardNow reads and discards up to 64 bytes. It reports whether there were any.
func (s *socket) discardNow() bool {
	var b [64]byte
	err := s.control(func(fd int) error {
		n, err := retryEINTR(readNow, fd, b[:])
		if err == nil && n == 0 {
			return io.EOF
		}
		return err
	})
	return err == nil
}

// isHungUp reports whether the peer has closed and nothing is left to read, or the
// connection is broken or closed here.
func (s *socket) isHungUp() bool {
	var b [1]byte
	n := 0
	err := s.control(func(fd int) (err error) {
		n, _, err = unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err
	})
	return err == nil && n == 0 || err != nil && err != unix.EAGAIN && err != unix.EINTR
}

func retryEINTR(call func(int, []byte) (int, error), fd int, b []byte) (n int, err error) {
	for {
		if n, err = call(fd, b); err != unix.EINTR {
			return n, err
		}
	}
}

func dupCloexec(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) }

func closeFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
