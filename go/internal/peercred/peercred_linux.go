package peercred

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Unix returns the process that connected c or, on the connecting side, the process that
// listens. The error wraps [ErrUnmapped] if its user is not mapped here.
func Unix(c *net.UnixConn) (Cred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Cred{}, fmt.Errorf("peercred: %w", err)
	}
	var u *unix.Ucred
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		u, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, os.NewSyscallError("getsockopt SO_PEERCRED", sockErr)); err != nil {
		return Cred{}, fmt.Errorf("peercred: %w", err)
	}
	if err := vetMapped(u.Uid); err != nil {
		return Cred{}, err
	}
	return Cred{PID: u.Pid, UID: u.Uid, GID: u.Gid}, nil
}

// Sizes and offsets of struct inet_diag_req_v2 and struct inet_diag_msg
// (linux/inet_diag.h). Ports and addresses are big-endian, all else has the host's byte
// order.
const (
	diagReqLen = 56
	diagMsgLen = 72
	offID      = 4 // in the message; 8 in the request, after the states
	offUID     = 64
	offInode   = 68

	tcpEstablished = 1
	tcpCloseWait   = 8

	diagTimeout = time.Second
)

// TCPOwner returns the uid that owns the TCP socket on this host whose own address is local
// and whose peer is remote. It asks sock_diag, or searches /proc/self/net/tcp if there is no
// sock_diag. The error is a *[NotFoundError] if there is no such socket that is connected and
// held by a process. It wraps [ErrUnavailable] if the kernel's table cannot be read, and
// [ErrUnmapped] if the owner is not mapped here.
func TCPOwner(local, remote netip.AddrPort) (uid uint32, err error) {
	asking <- struct{}{}
	defer func() { <-asking }()
	if uid, err = tcpOwner(local, remote); err == nil {
		err = vetMapped(uid)
	}
	return uid, err
}

// asking bounds the number of calls at once: each has up to 3 files open, and blocks a thread
// while it waits for the kernel.
var asking = make(chan struct{}, 4)

func tcpOwner(local, remote netip.AddrPort) (uid uint32, err error) {
	local, remote = unmap(local), unmap(remote)
	if local.Addr().Is4() != remote.Addr().Is4() {
		return 0, fmt.Errorf("peercred: %v and %v are of two address families", local, remote)
	}
	uid, err = diagOwner(local, remote)
	switch {
	case err == nil || !errors.Is(err, errNoDiag):
		return uid, err
	case errors.Is(err, unix.ENOENT) && diagAnswers(): // sock_diag knows TCP, but not this socket
		return 0, &NotFoundError{local, remote}
	}
	uid, procErr := procOwner(local, remote)
	if procErr == nil || errors.Is(procErr, ErrNotFound) || IsTransient(procErr) {
		return uid, procErr
	}
	return 0, fmt.Errorf("peercred: %w (%w; %w)", ErrUnavailable, err, procErr)
}

// Available returns nil if [TCPOwner] can find the owner of a connection on this host, or an
// error that wraps [ErrUnavailable] if it cannot. It tries with a connection of its own. Any
// other error means that the attempt failed for another reason.
func Available() error {
	local, remote, end, err := ownPair()
	if err != nil {
		return err
	}
	defer end()
	_, err = TCPOwner(local, remote)
	return err
}

// errNoDiag: sock_diag did not report the socket. If the error also wraps ENOENT, there is
// either no such socket or no module tcp_diag; diagAnswers tells which. Otherwise sock_diag
// cannot be used at all.
var errNoDiag = errors.New("no sock_diag")

// diagWorks is set after sock_diag has answered for a TCP socket.
var diagWorks atomic.Bool

// diagOwner does TCPOwner with sock_diag.
func diagOwner(local, remote netip.AddrPort) (uid uint32, err error) {
	req, err := diagRequest(local, remote)
	if err != nil {
		return 0, fmt.Errorf("peercred: %w", err)
	}
	answer, err := exchangeDiag(req)
	switch {
	case IsTransient(err): // not errNoDiag: /proc would be slow, and the next attempt may succeed
		return 0, fmt.Errorf("peercred: sock_diag: %w", err)
	case err != nil:
		return 0, fmt.Errorf("%w: %w", errNoDiag, err)
	}
	diagWorks.Store(true)
	if isHeldMatch(answer, req) {
		return binary.NativeEndian.Uint32(answer[offUID:]), nil
	}
	return 0, &NotFoundError{local, remote}
}

// diagAnswers reports whether sock_diag knows TCP sockets. Without the module tcp_diag it
// answers ENOENT, as it does for a socket that does not exist.
func diagAnswers() bool {
	if diagWorks.Load() {
		return true
	}
	local, remote, end, err := ownPair()
	if err != nil {
		return false
	}
	defer end()
	_, err = diagOwner(local, remote)
	return err == nil
}

// ownPair makes a connection that TCPOwner must find. The caller must call end.
func ownPair() (local, remote netip.AddrPort, end func(), err error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return local, remote, nil, fmt.Errorf("peercred: %w", err)
	}
	c, err := net.DialTimeout("tcp4", l.Addr().String(), diagTimeout)
	if err != nil {
		_ = l.Close()
		return local, remote, nil, fmt.Errorf("peercred: %w", err)
	}
	local, remote = c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	return local, remote, func() { _, _ = c.Close(), l.Close() }, nil
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// isHeldMatch reports whether msg describes the connection that req asked for, and a process
// holds it. If no connection matches, the kernel may answer with a listener; and it reports
// uid 0 for a connection that no process holds (in TIME_WAIT, or not yet accepted), which
// must not be taken for root's.
func isHeldMatch(msg, req []byte) bool {
	if len(msg) < diagMsgLen {
		return false
	}
	state := msg[1]
	n := 4 + 32 // both ports, both addresses
	return (state == tcpEstablished || state == tcpCloseWait) &&
		string(msg[offID:offID+n]) == string(req[8:8+n]) &&
		binary.NativeEndian.Uint32(msg[offInode:]) != 0
}

// exchangeDiag sends one request to sock_diag and returns the body of the one answer. It is a
// variable for tests. It uses no netlink package, because one such call of a package takes more
// memory than a registered node takes in all.
var exchangeDiag = func(req []byte) (answer []byte, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(diagTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	// struct nlmsghdr: Length:32 Type:16 Flags:16 Seq:32 PID:32.
	var b [diagAnswerMax]byte
	length := unix.SizeofNlMsghdr + copy(b[unix.SizeofNlMsghdr:], req)
	binary.NativeEndian.PutUint32(b[0:], uint32(length))
	binary.NativeEndian.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(fd, b[:length], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	n, err := receiveFromKernel(fd, b[:])
	switch {
	case err == unix.EAGAIN:
		return nil, os.ErrDeadlineExceeded
	case err != nil:
		return nil, os.NewSyscallError("recvfrom", err)
	case n < unix.SizeofNlMsghdr+4:
		return nil, fmt.Errorf("an answer of %d bytes", n)
	}
	body := b[unix.SizeofNlMsghdr:n]
	if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
		return nil, syscall.Errno(-int32(binary.NativeEndian.Uint32(body)))
	}
	return body, nil
}

// diagAnswerMax has room for an answer about one TCP socket; attributes that follow may be cut
// off. It is small because the buffer is on the stack of a goroutine that lives long.
const diagAnswerMax = 512

// receiveFromKernel reads the next message from the kernel. It skips messages that other
// processes have sent to the same socket.
func receiveFromKernel(fd int, b []byte) (n int, err error) {
	for {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err == unix.EINTR {
			continue
		}
		if sender, ok := from.(*unix.SockaddrNetlink); err == nil && (!ok || sender.Pid != 0) {
			continue
		}
		return n, err
	}
}

// diagRequest returns "Family Protocol Ext Pad States:32" and the ID: both ports, both
// addresses of 16 bytes, Interface:32, Cookie:64 (all ones for any).
func diagRequest(local, remote netip.AddrPort) ([]byte, error) {
	family := byte(unix.AF_INET6)
	if local.Addr().Is4() {
		family = unix.AF_INET
	}
	index, err := interfaceIndex(cmp.Or(local.Addr().Zone(), remote.Addr().Zone()))
	if err != nil {
		return nil, err
	}
	b := make([]byte, diagReqLen)
	b[0], b[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 1<<tcpEstablished|1<<tcpCloseWait)
	binary.BigEndian.PutUint16(b[8:], local.Port())
	binary.BigEndian.PutUint16(b[10:], remote.Port())
	copy(b[12:28], local.Addr().AsSlice())
	copy(b[28:44], remote.Addr().AsSlice())
	binary.NativeEndian.PutUint32(b[44:], index)
	binary.NativeEndian.PutUint64(b[48:], ^uint64(0))
	return b, nil
}

// interfaceIndex returns the index of a zone, by name or number, or 0 for no zone.
func interfaceIndex(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index), nil
	}
	n, err := strconv.ParseUint(zone, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("zone %q: no such interface", zone)
	}
	return uint32(n), nil
}
