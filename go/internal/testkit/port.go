package testkit

import (
	"errors"
	"net/netip"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// FreePort returns a port of the loopback addresses on which nothing listens. On Linux it
// is reserved until the end of the test: sockets are bound to it that do not listen and
// have SO_REUSEADDR. The kernel gives such a port to no other program that asks for any
// port, but a program of the test, which names the port and has SO_REUSEADDR too, can
// listen on it.
func FreePort(t testing.TB) uint16 {
	t.Helper()
	for {
		fd4, port, err := bindPort(unix.AF_INET, 0)
		if err != nil {
			t.Fatal(err)
		}
		fd6, _, err := bindPort(unix.AF_INET6, port)
		release := func() {
			_ = unix.Close(fd4)
			if fd6 >= 0 {
				_ = unix.Close(fd6)
			}
		}
		switch {
		case errors.Is(err, unix.EADDRINUSE):
			release()
			continue
		case runtime.GOOS == "linux":
			t.Cleanup(release)
		default: // a bound port cannot be bound a second time
			release()
		}
		return port
	}
}

// Loopback returns 127.0.0.1 with the port.
func Loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

// bindPort binds a socket to a port of the family's loopback address, any if port is 0.
// fd is -1 with an error.
func bindPort(family int, port uint16) (fd int, bound uint16, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if fd, err = unix.Socket(family, unix.SOCK_STREAM, 0); err != nil {
		return -1, 0, err
	}
	unix.CloseOnExec(fd)
	var sa unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(port)}
	if family == unix.AF_INET6 {
		sa = &unix.SockaddrInet6{Addr: [16]byte{15: 1}, Port: int(port)}
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		sa, err = unix.Getsockname(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, 0, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		bound = uint16(sa.Port)
	case *unix.SockaddrInet6:
		bound = uint16(sa.Port)
	}
	return fd, bound, nil
}
