package fdpass

import (
	"fmt"
	"net"
)

// Listen opens a Unix socket of type SOCK_SEQPACKET in the abstract namespace (unix(7)).
// Such a socket needs no file and no directory, and ends with its last descriptor. Any user
// in the network namespace can connect to it, so the caller must check each peer. name does
// not contain the leading NUL.
func Listen(name string) (*net.UnixListener, error) {
	return listenAbstract("unixpacket", name)
}

// ListenStream is like Listen for a socket of type SOCK_STREAM. The two types have separate
// names.
func ListenStream(name string) (*net.UnixListener, error) {
	return listenAbstract("unix", name)
}

func listenAbstract(network, name string) (*net.UnixListener, error) {
	l, err := net.ListenUnix(network, abstractAddr(network, name))
	if err != nil {
		return nil, fmt.Errorf("fdpass: listen: %w", err)
	}
	return l, nil
}

// Dial connects to a socket that [Listen] opened. Any user can have opened it, so the caller
// must check who listens. The error wraps EAGAIN if the backlog is full.
func Dial(name string) (*net.UnixConn, error) {
	c, err := net.DialUnix("unixpacket", nil, abstractAddr("unixpacket", name))
	if err != nil {
		return nil, fmt.Errorf("fdpass: %w", err)
	}
	return c, nil
}

// abstractAddr returns the name as package net writes it: with "@" for the NUL.
func abstractAddr(network, name string) *net.UnixAddr {
	return &net.UnixAddr{Net: network, Name: "@" + name}
}
