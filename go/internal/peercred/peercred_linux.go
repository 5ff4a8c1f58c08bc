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
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Unix returns the process that connected c, or, on the connecting side, the
// one that listens.
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
	return Cred{PID: u.Pid, UID: u.Uid, GID: u.Gid}, nil
}

// Sizes and offsets of struct inet_diag_req_v2 and struct inet_diag_msg
// (linux/inet_diag.h). Ports and addresses in them are big-endian, the rest is
// the host's.
const (
	diagReqLen = 56
	diagMsgLen = 72
	offID      = 4 // in the message; 8 in the request, behind the states
	offUID     = 64
	offInode   = 68

	tcpEstablished = 1
	tcpCloseWait   = 8

	diagTimeout = time.Second
)

// TCPOwner returns the uid that owns the TCP socket on this host whose own
// address is local and whose peer is remote: an exact look-up, not a scan. The
// error is a *[NotFoundError] where there is none that is connected and held by
// a process.
func TCPOwner(local, remote netip.AddrPort) (uid uint32, err error) {
	local, remote = unmap(local), unmap(remote)
	if local.Addr().Is4() != remote.Addr().Is4() {
		return 0, fmt.Errorf("peercred: %v and %v are of two address families", local, remote)
	}
	req, err := diagRequest(local, remote)
	if err != nil {
		return 0, fmt.Errorf("peercred: %w", err)
	}
	msgs, err := exchange(req)
	switch {
	case errors.Is(err, unix.ENOENT):
		return 0, &NotFoundError{local, remote}
	case err != nil:
		return 0, fmt.Errorf("peercred: sock_diag: %w", err)
	}
	for _, m := range msgs {
		if held(m.Data, req) {
			return binary.NativeEndian.Uint32(m.Data[offUID:]), nil
		}
	}
	return 0, &NotFoundError{local, remote}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// held: is this answer the very connection that req asked for, and is there a
// process that holds it? The kernel also answers with a listener where no
// connection matches, and gives uid 0 to what no process holds (TIME_WAIT, a
// connection not yet accepted): that must not pass for root.
func held(msg, req []byte) bool {
	if len(msg) < diagMsgLen {
		return false
	}
	state := msg[1]
	n := 4 + 32 // both ports, both addresses
	return (state == tcpEstablished || state == tcpCloseWait) &&
		string(msg[offID:offID+n]) == string(req[8:8+n]) &&
		binary.NativeEndian.Uint32(msg[offInode:]) != 0
}

func exchange(req []byte) ([]netlink.Message, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(diagTimeout)); err != nil {
		return nil, err
	}
	return c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request},
		Data:   req,
	})
}

// diagRequest: Family Protocol Ext Pad States:32, then the id: both ports, both
// addresses of 16 bytes, interface:32, cookie:64 (all ones: any).
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

// interfaceIndex of a zone, by name or number; 0 for none.
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
