package carrier

import (
	"context"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"handover/go/internal/fdpass"
)

// lifeline is a stream socket that the BEAM has a connection to, as a port that has
// nothing to do with this program's: a BEAM that halts closes all its ports at once,
// and then needs a while until the kernel says that it ends.
type lifeline struct {
	mu   sync.Mutex
	conn *net.UnixConn // the latest
}

// listenLifeline takes the BEAM's connections to the lifeline, until the carrier ends.
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
			if err := c.checkBEAM(conn); err != nil {
				c.log.Warn().Err(err).Msg("refusing who connects to the lifeline")
				_ = conn.Close()
				continue
			}
			c.lifeline.setConn(conn)
		}
	})
	return nil
}

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
