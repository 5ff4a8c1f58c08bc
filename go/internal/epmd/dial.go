package epmd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/peercred"
)

// errUntrusted: what is at the path is not the node's.
var errUntrusted = errors.New("epmd: not a socket of the node")

const (
	minRetry = time.Millisecond
	maxRetry = 50 * time.Millisecond
)

// dialPath connects to a node's socket. It makes sure that the path itself is a
// socket (no symbolic link) that the node's uid or root owns, connects to that
// very inode, and makes sure that the listener is that uid or root as well. A
// full backlog is tried again until the deadline.
func dialPath(path string, uid uint32, deadline time.Time, n *node) (*net.UnixConn, error) {
	fd, err := openPath(path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := vetSocket(fd, path, uid); err != nil {
		return nil, err
	}
	conn, err := dialFD(fd, path, deadline, n)
	if err != nil {
		return nil, err
	}
	cred, err := peercred.Unix(conn)
	if err == nil && cred.UID != uid && cred.UID != 0 {
		err = fmt.Errorf("%w: uid %d listens at %q, the node is uid %d", errUntrusted, cred.UID, path, uid)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func vetSocket(fd int, path string, uid uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
	case unix.S_IFLNK:
		return fmt.Errorf("%w: %q is a symbolic link", errUntrusted, path)
	default:
		return fmt.Errorf("%w: %q is no socket", errUntrusted, path)
	}
	if st.Uid != uid && st.Uid != 0 {
		return fmt.Errorf("%w: uid %d owns %q, the node is uid %d", errUntrusted, st.Uid, path, uid)
	}
	return nil
}

func dialFD(fd int, path string, deadline time.Time, n *node) (*net.UnixConn, error) {
	addr := &net.UnixAddr{Net: "unixpacket", Name: "/proc/self/fd/" + strconv.Itoa(fd)}
	for pause := minRetry; ; pause = min(2*pause, maxRetry) {
		conn, err := net.DialUnix("unixpacket", nil, addr)
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			return nil, fmt.Errorf("epmd: connect to %q: %w", path, err)
		}
		if time.Until(deadline) < pause {
			return nil, fmt.Errorf("%w: the backlog of %q stays full", errNoAnswer, path)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-n.gone:
			return nil, n.left
		}
	}
}
