package carrier

import (
	"context"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"handover/go/internal/fdpass"
)

// lifeline is a connection from the BEAM, which holds its end in a port of its own. A BEAM
// that halts closes all its ports at once, long before the kernel shows that the process
// is ending.
type lifeline struct {
	mu   sync.Mutex
	conn *net.UnixConn // the latest one, or nil
}

// listenLifeline accepts the BEAM's connections to the lifeline until the carrier ends.
func (c *carrier) listenLifeline(name string) error {
	l, err := fdpass.ListenStream(name)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(c.ctx, func() { _ = l.Close() })
	c.wg.Go(func() {
		defer stop()
		defer l.Close()
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			if err := c.vetBEAM(conn); err != nil {
				c.log.Warn().Err(err).Msg("refused a connection to the lifeline that is not from the BEAM")
				_ = conn.Close()
				continue
			}
			c.lifeline.setConn(conn)
		}
	})
	return nil
}

// setConn closes the connection before this one. conn may be nil.
func (l *lifeline) setConn(conn *net.UnixConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		_ = l.conn.Close()
	}
	l.conn = conn
}

// isCut reports whether the BEAM has closed its end.
func (l *lifeline) isCut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		return false
	}
	cut := false
	if raw, err := l.conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { cut = hasEvent(fd, unix.POLLHUP) })
	}
	return cut
}
