// Package peercred finds the user at the far end of a local connection: of a Unix socket by
// SO_PEERCRED, of a TCP connection on this host by the kernel's socket table
// (NETLINK_SOCK_DIAG, or else /proc/self/net/tcp). It needs no privileges.
package peercred

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
)

// Cred is a process as the kernel saw it when it connected or listened.
type Cred struct {
	PID      int32
	UID, GID uint32
}

// ErrNotFound: the kernel has no such live TCP socket in this network namespace.
var ErrNotFound = errors.New("no such TCP socket in this network namespace (the far end has closed, or lives in another one)")

// ErrUnavailable: neither sock_diag nor /proc tells who owns a socket. The far end is not
// the cause.
var ErrUnavailable = errors.New("the kernel's socket table cannot be read: load the module tcp_diag, allow AF_NETLINK (RestrictAddressFamilies=), or mount /proc")

// ErrUnmapped: the far end's user has no number in this process's user namespace.
// The kernel shows all such users as one, the overflow uid, so they cannot be told apart.
var ErrUnmapped = errors.New("its user is not mapped into this user namespace, where all such users look alike: run EPMD and the nodes in one user namespace")

// NotFoundError wraps [ErrNotFound] and has the two ends of the connection.
type NotFoundError struct{ Local, Remote netip.AddrPort }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("peercred: %v to %v: %v", e.Local, e.Remote, ErrNotFound)
}

func (e *NotFoundError) Unwrap() error { return ErrNotFound }

// IsTransient reports whether another attempt may succeed: the process or the kernel was short
// of resources, or the kernel did not answer in time.
func IsTransient(err error) bool {
	for _, transient := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, os.ErrDeadlineExceeded} {
		if errors.Is(err, transient) {
			return true
		}
	}
	return false
}
