// Package peercred says who is at the far end of a local connection: of a Unix
// socket by SO_PEERCRED, of a TCP connection on this host by the kernel's socket
// table (NETLINK_SOCK_DIAG, or else /proc/net/tcp). None needs a privilege.
package peercred

import (
	"errors"
	"fmt"
	"net/netip"
)

// Cred is a process as the kernel saw it when it connected or listened.
type Cred struct {
	PID      int32
	UID, GID uint32
}

// ErrNotFound: the kernel has no such live TCP socket in this network namespace.
var ErrNotFound = errors.New("no such TCP socket in this network namespace (the far end has closed, or lives in another one)")

// ErrUnavailable: neither sock_diag nor /proc tells who owns a socket. It says
// nothing of the far end.
var ErrUnavailable = errors.New("the kernel's socket table cannot be read: load the module tcp_diag, allow AF_NETLINK (RestrictAddressFamilies=), or mount /proc")

// NotFoundError wraps [ErrNotFound] with the two ends that were looked for.
type NotFoundError struct{ Local, Remote netip.AddrPort }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("peercred: %v to %v: %v", e.Local, e.Remote, ErrNotFound)
}

func (e *NotFoundError) Unwrap() error { return ErrNotFound }
