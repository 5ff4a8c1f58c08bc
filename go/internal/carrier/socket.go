package carrier

import (
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
)

// beginDial returns a non-blocking socket, with no option set, that is connected or is
// being connected; from bind, if that is valid. fd is -1 with an error.
func beginDial(to netip.AddrPort, bind netip.Addr) (fd int, err error) {
	family, sa := sockaddrOf(to)
	if fd, err = newSocket(family); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if bind.IsValid() {
		_, own := sockaddrOf(netip.AddrPortFrom(bind, 0))
		err = os.NewSyscallError("bind", unix.Bind(fd, own))
	}
	if err == nil {
		if err = unix.Connect(fd, sa); err == unix.EINPROGRESS {
			err = nil
		}
		err = os.NewSyscallError("connect", err)
	}
	if err == nil && isOwnAddress(fd, to) {
		err = os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// isOwnAddress reports whether fd is connected to itself, which can happen if nothing
// listens on a port that the kernel also uses for outgoing connections.
func isOwnAddress(fd int, to netip.AddrPort) bool {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	switch own := sa.(type) {
	case *unix.SockaddrInet4:
		return own.Port == int(to.Port()) && netip.AddrFrom4(own.Addr) == to.Addr()
	case *unix.SockaddrInet6:
		return own.Port == int(to.Port()) && netip.AddrFrom16(own.Addr) == to.Addr().WithZone("")
	}
	return false
}

func sockaddrOf(a netip.AddrPort) (family int, sa unix.Sockaddr) {
	if addr := a.Addr(); addr.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: addr.As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zoneID(a.Addr().Zone())}
}

func zoneID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	n, _ := strconv.ParseUint(zone, 10, 32) // of an unknown zone connect returns an error
	return uint32(n)
}

// writeNow writes without waiting, whatever the mode of fd is, and does not change that
// mode. A connection that has sent nothing yet has room for b. The error wraps EAGAIN if
// fd is not connected yet.
func writeNow(fd int, b []byte) error {
	if err := unix.Sendto(fd, b, unix.MSG_DONTWAIT, nil); err != nil {
		return os.NewSyscallError("send", err)
	}
	return nil
}

// drainLimit bounds what refuseInitiator discards, in bytes.
const drainLimit = 64 << 10

// refuseInitiator sends the result to the initiator, and discards what else it has
// sent: if that stayed unread, the close would cause a reset, which can overtake the
// answer. It does not close fd.
func refuseInitiator(fd int, r epmdproto.Result) {
	if writeNow(fd, epmdproto.AppendHandoverResult(nil, r)) != nil {
		return
	}
	_ = unix.Shutdown(fd, unix.SHUT_WR)
	var buf [4096]byte
	for range drainLimit / len(buf) {
		n, _, err := unix.Recvfrom(fd, buf[:], unix.MSG_DONTWAIT)
		if n <= 0 || err != nil {
			return
		}
	}
}

// hasEvent reports whether poll(2) returns one of events for fd, or fails.
func hasEvent(fd uintptr, events int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := unix.Poll(p, 0)
	if err != nil {
		return err != unix.EINTR
	}
	return n > 0 && p[0].Revents&events != 0
}
