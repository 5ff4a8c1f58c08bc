//go:build !linux

package fdpass

import (
	"errors"
	"fmt"
	"net"
)

// Listen needs the abstract namespace, which only Linux has.
func Listen(string) (*net.UnixListener, error) {
	return nil, fmt.Errorf("fdpass: abstract Unix sockets: %w", errors.ErrUnsupported)
}

// ListenStream needs the abstract namespace, which only Linux has.
func ListenStream(string) (*net.UnixListener, error) { return Listen("") }

// Dial needs the abstract namespace, which only Linux has.
func Dial(string) (*net.UnixConn, error) {
	return nil, fmt.Errorf("fdpass: abstract Unix sockets: %w", errors.ErrUnsupported)
}
