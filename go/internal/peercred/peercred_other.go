//go:build !linux

package peercred

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Unix is for Linux; elsewhere it fails with errors.ErrUnsupported.
func Unix(*net.UnixConn) (Cred, error) {
	return Cred{}, fmt.Errorf("peercred: %w", errors.ErrUnsupported)
}

// TCPOwner is for Linux; elsewhere it fails with errors.ErrUnsupported.
func TCPOwner(_, _ netip.AddrPort) (uint32, error) {
	return 0, fmt.Errorf("peercred: %w", errors.ErrUnsupported)
}

// Available is for Linux; elsewhere it fails with errors.ErrUnsupported.
func Available() error { return fmt.Errorf("peercred: %w", errors.ErrUnsupported) }
