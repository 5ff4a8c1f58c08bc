//go:build !linux

package epmd

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

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
	return fd, addrPort(sa), nil
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := syscall.Getsockname(fd)
	return addrPort(sa), err
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

func readNow(fd int, b []byte) (int, error) { return unix.Read(fd, b) }

func sendLastNow(fd int, b []byte) (int, error) { return unix.Write(fd, b) }

func newWakeup() (in, out *os.File, err error) { return os.Pipe() }

func closeFD(fd int) { _ = unix.Close(fd) }

func deferAccept(int) {}

func messageSize() int { return 0 }

func unreadMessages(*net.UnixConn) int { return 0 }
