//go:build !linux

package epmd

import (
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The same as in sys_linux.go, where the kernel has less to offer.

func accept(listener int) (fd int, peer netip.AddrPort, err error) {
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
	return fd, addrPort(sa), nil
}

func readNow(fd int, b []byte) (int, error) { return unix.Read(fd, b) }

func sendLast(fd int, b []byte) (int, error) { return unix.Write(fd, b) }

func newAlarm() (in, out *os.File, err error) { return os.Pipe() }

func closeNow(fd int) { _ = unix.Close(fd) }

func deferAccept(int) {}

func messageSize() int { return 0 }

func unreadMessages(*net.UnixConn) int { return 0 }
