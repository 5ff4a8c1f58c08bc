package carrier

import (
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
)

// beginDial gives a non-blocking socket, with no option set, that is connected or
// about to be; from bind, if that is valid. fd is -1 with an error.
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

// isOwnAddress: where nobody listens on a port that the kernel also gives to
// clients, a dial may meet itself.
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
	n, _ := strconv.ParseUint(zone, 10, 32) // an unknown one: connect will say so
	return uint32(n)
}

// writeNow writes without waiting: a connection that has sent nothing yet has
// room. It must not block, whatever the fd's mode is, nor change that mode. The
// error wraps EAGAIN where fd is not connected yet.
func writeNow(fd int, b []byte) error {
	if err := unix.Sendto(fd, b, unix.MSG_DONTWAIT, nil); err != nil {
		return os.NewSyscallError("send", err)
	}
	return nil
}

// drainLimit bounds what turnAway throws away, in bytes.
const drainLimit = 64 << 10

// refuseInitiator tells the initiator that there is no handover. What it has sent
// meanwhile is read away: else the close makes a reset that overtakes the answer.
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

// hasEvent reports whether poll(2) says one of events of fd, or fails.
func hasEvent(fd uintptr, events int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := unix.Poll(p, 0)
	if err != nil {
		return err != unix.EINTR
	}
	return n > 0 && p[0].Revents&events != 0
}
