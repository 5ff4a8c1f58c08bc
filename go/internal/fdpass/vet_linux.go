package fdpass

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// VetTCP returns the peer of fd, or a *[VetError] if a node cannot adopt fd. It must be a
// connected stream socket of IPPROTO_TCP, AF_INET or AF_INET6. An AF_INET6 socket with an
// IPv4-mapped peer is refused, since neither inet nor inet6 can adopt it; EPMD listens on
// the two families separately for that reason.
func VetTCP(fd int) (netip.AddrPort, error) {
	typ, err1 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	proto, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err1 == nil && err2 == nil && typ == unix.SOCK_STREAM && proto == unix.IPPROTO_TCP {
		// A socket with a peer does not listen. Not unix.Getpeername, which needs one
		// more system call.
		sa, err := syscall.Getpeername(fd)
		if peer := AddrPort(sa); err == nil && peer.IsValid() && !peer.Addr().Is4In6() {
			return peer, nil
		}
	}
	return vetSlowly(fd)
}

// vetSlowly is like VetTCP, with the system calls that find out what fd is instead.
func vetSlowly(fd int) (netip.AddrPort, error) {
	none := netip.AddrPort{}
	domain, err := vetKind(fd)
	if err != nil {
		return none, err
	}
	sa, err := syscall.Getpeername(fd)
	switch {
	case errors.Is(err, unix.ENOTCONN):
		return none, &VetError{What: "a TCP socket that is not connected", Err: unix.ENOTCONN}
	case err != nil:
		return none, sysError("getpeername", err)
	}
	peer := AddrPort(sa)
	if domain == unix.AF_INET6 && peer.Addr().Is4In6() {
		return none, &VetError{What: fmt.Sprintf("an IPv6 socket with the IPv4 peer %v (accepted by a dual-stack listener)", peer), TCP: true}
	}
	return peer, nil
}

// vetKind returns the domain of fd, or a *VetError unless fd is a TCP socket that does not
// listen.
func vetKind(fd int) (domain int, err error) {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if errors.Is(err, unix.ENOTSOCK) {
		return 0, &VetError{What: fileKind(fd)}
	}
	domain, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	proto, err3 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	listens, err4 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err = errors.Join(err, err2, err3, err4); err != nil {
		return 0, sysError("getsockopt", err)
	}
	tcp := typ == unix.SOCK_STREAM && proto == unix.IPPROTO_TCP &&
		(domain == unix.AF_INET || domain == unix.AF_INET6)
	switch {
	case !tcp:
		return 0, &VetError{What: socketKind(domain, typ, proto)}
	case listens != 0:
		return 0, &VetError{What: "a listening TCP socket"}
	}
	return domain, nil
}

func sysError(call string, err error) error {
	return &VetError{What: "a descriptor of unknown kind", Err: os.NewSyscallError(call, err)}
}

func fileKind(fd int) string {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return "not an open file"
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFIFO:
		return "a pipe"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	}
	return "a file that is not a socket"
}

func socketKind(domain, typ, proto int) string {
	switch {
	case domain == unix.AF_UNIX:
		return "a Unix socket"
	case proto == unix.IPPROTO_UDP:
		return "a UDP socket"
	case proto == unix.IPPROTO_MPTCP:
		return "an MPTCP socket"
	}
	return fmt.Sprintf("a socket of domain %d, type %d, protocol %d", domain, typ, proto)
}
