package epmd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/fdpass"
	"handover/go/internal/peercred"
)

// errUntrusted: another user than the node's listens on the socket.
var errUntrusted = errors.New("epmd: not a socket of the node")

const (
	minRetry = time.Millisecond
	maxRetry = 50 * time.Millisecond
)

// dialSocket connects to a node's abstract socket and makes sure that uid
// listens there. It retries until the deadline while the backlog is full.
func dialSocket(name string, uid uint32, deadline time.Time, n *node) (*net.UnixConn, error) {
	conn, err := dialRetrying(name, deadline, n)
	if err != nil {
		return nil, err
	}
	cred, err := peercred.Unix(conn)
	if err == nil && cred.UID != uid {
		err = fmt.Errorf("%w: uid %d listens on %s, the node is uid %d", errUntrusted, cred.UID, name, uid)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func dialRetrying(name string, deadline time.Time, n *node) (*net.UnixConn, error) {
	for pause := minRetry; ; pause = min(2*pause, maxRetry) {
		conn, err := fdpass.Dial(name)
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			return nil, fmt.Errorf("epmd: the node's socket: %w", err)
		}
		if time.Until(deadline) < pause {
			return nil, fmt.Errorf("%w: the backlog of %s stays full", errNoAnswer, name)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-n.gone:
			return nil, n.left
		}
	}
}
