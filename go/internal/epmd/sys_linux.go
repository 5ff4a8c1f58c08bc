package epmd

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
)

// Calls on non-blocking sockets come back at once, so they go past the scheduler
// (RawSyscall): it need not find another thread for the goroutines meanwhile.

// accept takes the next connection, non-blocking and close-on-exec, or returns
// EAGAIN. The listener must be non-blocking.
func accept(listener int) (fd int, peer netip.AddrPort, err error) {
	var sa [unix.SizeofSockaddrInet6]byte // sockaddr_in is shorter
	size := uint32(len(sa))
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&sa)),
		uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(n), rawAddrPort(&sa), nil
}

// rawAddrPort reads a sockaddr_in or sockaddr_in6: "Family Port Address" or
// "Family Port Flow Address Scope", of 2, 2, 4 and 2, 2, 4, 16, 4 bytes.
func rawAddrPort(sa *[unix.SizeofSockaddrInet6]byte) netip.AddrPort {
	port := binary.BigEndian.Uint16(sa[2:])
	if binary.NativeEndian.Uint16(sa[:]) == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(sa[4:])), port)
	}
	addr := netip.AddrFrom16([16]byte(sa[8:]))
	if scope := binary.NativeEndian.Uint32(sa[24:]); scope != 0 {
		addr = addr.WithZone(strconv.FormatUint(uint64(scope), 10))
	}
	return netip.AddrPortFrom(addr, port)
}

// readNow returns EAGAIN where there is nothing to read. b must not be empty.
func readNow(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// sendLast sends what has room and keeps its end back until more follows, or the
// close: then data and FIN are one segment, and wake the client up once.
func sendLast(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_MORE|unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// newAlarm gives two ends, which may be the same: 8 bytes written to out make in
// readable.
func newAlarm() (in, out *os.File, err error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("eventfd", err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	return f, f, nil
}

func closeNow(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// deferAccept makes the kernel keep a connection until its request is there, or a
// second has passed: most can be answered at once. Without it they wait here.
func deferAccept(listener int) {
	_ = unix.SetsockoptInt(listener, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
}

// messageSize is what one PASS with its file takes up in a Unix socket until it is
// read. It is the same for every length of a PASS.
var messageSize = sync.OnceValue(func() int {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer closeFDs(fds[:])
	if err := unix.Sendmsg(fds[0], make([]byte, epmdproto.MaxPass), unix.UnixRights(fds[1]), nil, 0); err != nil {
		return 0
	}
	n, _ := unix.IoctlGetInt(fds[0], unix.SIOCOUTQ)
	return n
})

// unreadMessages is how many PASSes the far end of c has not read, neither by
// shutting c down nor by peeking: the kernel counts the files in them for EPMD's
// user. It is 0 where the kernel does not tell.
func unreadMessages(c *net.UnixConn) int {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	size, bytes := messageSize(), 0
	_ = raw.Control(func(fd uintptr) { bytes, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	if err != nil || size == 0 {
		return 0
	}
	return (bytes + size - 1) / size
}
