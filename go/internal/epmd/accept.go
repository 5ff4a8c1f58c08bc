package epmd

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Pauses after an accept that failed for want of files or memory.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
	// logEvery keeps a lasting failure from filling the log.
	logEvery = time.Minute
)

// acceptLoop serves one listener until it is closed.
func (s *Server) acceptLoop(addr net.Addr, listener syscall.RawConn) {
	backoff, logged := minBackoff, time.Time{}
	for {
		var acceptErr error
		err := listener.Read(func(fd uintptr) bool {
			acceptErr = s.acceptAll(int(fd))
			return acceptErr != unix.EAGAIN
		})
		if err != nil { // the listener is closed
			return
		}
		if acceptErr == nil {
			backoff = minBackoff
			continue
		}
		if time.Since(logged) > logEvery {
			logged = time.Now()
			s.o.Log.Error().Err(acceptErr).Stringer("on", addr).
				Msg("accept failed; going on as soon as it works again (raise the limit of open files?)")
		}
		if !s.sleep(backoff) {
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// acceptAll accepts until there is nobody left (EAGAIN) or accept fails. It
// returns nil after a while, for the listener's close to be noticed.
func (s *Server) acceptAll(listener int) error {
	for range 1024 {
		if s.o.DelayAccept > 0 {
			s.sleep(s.o.DelayAccept)
		}
		fd, sa, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			s.admit(&conn{s: s, fd: fd, peer: addrPort(sa), deadline: time.Now().Add(s.o.PacketTimeout)})
		case unix.EINTR, unix.ECONNABORTED, unix.EPROTO, unix.EPERM:
			// The one connection is lost (or forbidden by a firewall), not the listener.
		default:
			return err
		}
	}
	return nil
}

// admit answers c here when it can do so without waiting, else in a goroutine.
func (s *Server) admit(c *conn) {
	if s.o.DelayWrite == 0 {
		c.nowait = true
		if s.tryLookup(c) {
			return
		}
		c.nowait = false
	}
	open := s.clients.Add(1)
	if open > int64(s.o.MaxClients) || open > int64(s.o.MaxClients-s.o.LocalReserve) && !c.isLocal() {
		s.clients.Add(-1)
		s.o.Log.Debug().Stringer("peer", c.peer).Msg("too many connections, closing this one")
		c.close()
		return
	}
	c.counted = true
	s.wg.Go(func() { s.serve(c) })
}

// sleep returns false when the server ended meanwhile.
func (s *Server) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.end:
		return false
	}
}
