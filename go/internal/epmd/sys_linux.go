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

// Calls on non-blocking sockets return at once, so they bypass the scheduler
// (RawSyscall): it need not find another thread for the goroutines during the call.

// acceptNow returns the next connection, non-blocking and close-on-exec, or EAGAIN.
// The listener must be non-blocking.
func acceptNow(listener int) (fd int, peer netip.AddrPort, err error) {
	var sa [unix.SizeofSockaddrInet6]byte // sockaddr_in is shorter
	size := uint32(len(sa))
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&sa)),
		uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(n), rawAddrPort(&sa), nil
}

// localAddr returns the address of a socket, or a zero one if it is no IP socket.
func localAddr(fd int) (netip.AddrPort, error) {
	var sa [unix.SizeofSockaddrInet6]byte
	size := uint32(len(sa))
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}, errno
	}
	return rawAddrPort(&sa), nil
}

// rawAddrPort reads a sockaddr_in or sockaddr_in6: "Family Port Address" or
// "Family Port Flow Address Scope", of 2, 2, 4 and 2, 2, 4, 16, 4 bytes.
func rawAddrPort(sa *[unix.SizeofSockaddrInet6]byte) netip.AddrPort {
	port := binary.BigEndian.Uint16(sa[2:])
	switch binary.NativeEndian.Uint16(sa[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(sa[4:])), port)
	case unix.AF_INET6:
	default:
		return netip.AddrPort{}
	}
	addr := netip.AddrFrom16([16]byte(sa[8:]))
	if scope := binary.NativeEndian.Uint32(sa[24:]); scope != 0 {
		addr = addr.WithZone(strconv.FormatUint(uint64(scope), 10))
	}
	return netip.AddrPortFrom(addr, port)
}

// readNow returns EAGAIN if there is nothing to read. b must not be empty.
func readNow(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// sendLastNow sends what the socket has room for, or returns EAGAIN. The kernel keeps
// the end back until more follows, or the close: then data and FIN are one segment
// and wake the client up once.
func sendLastNow(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_MORE|unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// newWakeup returns two ends, which may be the same: 8 bytes written to out make in
// readable.
func newWakeup() (in, out *os.File, err error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("eventfd", err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	return f, f, nil
}

func closeFD(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// deferAccept makes the kernel keep a connection back until its request has arrived,
// or a second has passed: most can be answered at once. If it fails they wait here.
func deferAccept(listener int) {
	_ = unix.SetsockoptInt(listener, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
}

// messageSize returns how much of a Unix socket's buffer one PASS with its file
// takes up until it is read. It is the same for every length of a PASS.
var messageSize = sync.OnceValue(func() int {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer closeFD(fds[0])
	defer closeFD(fds[1])
	if err := unix.Sendmsg(fds[0], make([]byte, epmdproto.MaxPass), unix.UnixRights(fds[1]), nil, 0); err != nil {
		return 0
	}
	n, _ := unix.IoctlGetInt(fds[0], unix.SIOCOUTQ)
	return n
})

// unreadMessages returns how many PASSes the far end of c has not read: shutting c
// down and peeking do not count as reading. The kernel counts the files in them for
// EPMD's user. The result is 0 if the kernel does not tell.
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
