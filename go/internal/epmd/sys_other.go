//go:build !linux

package epmd

import (
	"net"
	"net/netip"
	"os"
	"syscall"

	"handover/go/internal/fdpass"

	"golang.org/x/sys/unix"
)

// These functions do the same as those in sys_linux.go, as far as the kernel can.

func acceptNow(listener int) (fd int, peer netip.AddrPort, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, sa, err := syscall.Accept(listener)
	if err != nil {
		return -1, netip.AddrPort{}, err
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return -1, netip.AddrPort{}, err
	}
	return fd, fdpass.AddrPort(sa), nil
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := syscall.Getsockname(fd)
	return fdpass.AddrPort(sa), err
}

func readNow(fd int, b []byte) (int, error) { return unix.Read(fd, b) }

func sendLastNow(fd int, b []byte) (int, error) { return unix.Write(fd, b) }

func newWakeup() (in, out *os.File, err error) { return os.Pipe() }

func closeFD(fd int) { _ = unix.Close(fd) }

func deferAccept(int) {}

func messageSize() int { return 0 }

func unreadMessages(*net.UnixConn) int { return 0 }
