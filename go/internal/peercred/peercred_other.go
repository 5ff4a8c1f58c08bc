//go:build !linux

package peercred

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Unix works on Linux only; elsewhere the error wraps errors.ErrUnsupported.
func Unix(*net.UnixConn) (Cred, error) {
	return Cred{}, fmt.Errorf("peercred: %w", errors.ErrUnsupported)
}

// TCPOwner works on Linux only; elsewhere the error wraps errors.ErrUnsupported.
func TCPOwner(_, _ netip.AddrPort) (uint32, error) {
	return 0, fmt.Errorf("peercred: %w", errors.ErrUnsupported)
}

// Available works on Linux only; elsewhere the error wraps errors.ErrUnsupported.
func Available() error { return fmt.Errorf("peercred: %w", errors.ErrUnsupported) }
