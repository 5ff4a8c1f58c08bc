package fdpass

import (
	"fmt"
	"net"
)

// Listen opens a Unix socket of type SOCK_SEQPACKET in the abstract namespace
// (unix(7)). It has no file, so that it needs no directory, and it ends with its
// last descriptor. Any user of the network namespace can connect to it: the
// caller must check who does. name is without the NUL in front.
func Listen(name string) (*net.UnixListener, error) {
	return listenAbstract("unixpacket", name)
}

// ListenStream is Listen for a socket of type SOCK_STREAM, which may have the name of
// one of type SOCK_SEQPACKET.
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

// Dial connects to a socket that [Listen] opened. Any user can have opened it:
// the caller must check who did. The error wraps EAGAIN if the backlog is full.
func Dial(name string) (*net.UnixConn, error) {
	c, err := net.DialUnix("unixpacket", nil, abstractAddr("unixpacket", name))
	if err != nil {
		return nil, fmt.Errorf("fdpass: %w", err)
	}
	return c, nil
}

// abstractAddr writes the name as package net does: with "@" for the NUL.
func abstractAddr(network, name string) *net.UnixAddr {
	return &net.UnixAddr{Net: network, Name: "@" + name}
}
