package epmd

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Pauses after an accept that failed for want of files or memory.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
	// logEvery keeps a lasting failure from filling the log.
	logEvery = time.Minute
	// acceptBatch is how many connections of one listener are accepted before
	// the others' turn comes.
	acceptBatch = 64
)

// acceptor accepts on all listeners. It waits in poll(2) and not in the runtime's
// poller, which costs a lookup one wake-up of one thread and no more; and it sets
// no option on a connection, as net.Listener would.
type acceptor struct {
	s       *Server
	fds     []unix.PollFd // first the alarm, which ends the wait, then listeners
	in, out *os.File      // the alarm
	spare   *conn         // for the next connection; only a lookup leaves it free again
	backoff time.Duration
	logged  time.Time
}

// newAcceptor takes the listeners over, also when it fails.
func newAcceptor(s *Server, listeners []*net.TCPListener) (*acceptor, error) {
	a := &acceptor{s: s, spare: new(conn), backoff: minBackoff}
	in, out, err := newAlarm()
	if err == nil {
		a.in, a.out = in, out
		a.add(int(in.Fd()))
	}
	for _, l := range listeners {
		fd, dupErr := dupFD(l)
		if err = cmp.Or(err, dupErr); dupErr == nil {
			a.add(fd)
			deferAccept(fd)
		}
		_ = l.Close()
	}
	if err != nil {
		a.close()
		return nil, fmt.Errorf("epmd: taking over the listeners: %w", err)
	}
	return a, nil
}

func dupFD(l *net.TCPListener) (fd int, err error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(listener uintptr) {
		fd, err = unix.FcntlInt(listener, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, cmp.Or(controlErr, err)
}

func (a *acceptor) add(fd int) {
	a.fds = append(a.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
}

// stop makes run return.
func (a *acceptor) stop() { _, _ = a.out.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// close is for when run has returned.
func (a *acceptor) close() {
	if a.in != nil {
		_, _ = a.in.Close(), a.out.Close()
		a.fds = a.fds[1:]
	}
	for _, p := range a.fds {
		_ = unix.Close(int(p.Fd))
	}
}

// run accepts until stop.
func (a *acceptor) run() {
	for {
		_, err := unix.Poll(a.fds, -1)
		if err != nil && err != unix.EINTR {
			a.failed(err)
		}
		if a.fds[0].Revents != 0 {
			return
		}
		if a.s.o.DelayAccept > 0 {
			a.s.sleep(a.s.o.DelayAccept)
		}
		for _, p := range a.fds[1:] {
			if p.Revents == 0 {
				continue
			}
			if err := a.acceptSome(int(p.Fd)); err != nil {
				a.failed(err)
			}
		}
	}
}

// acceptSome accepts until there is nobody left, or for the length of a batch.
func (a *acceptor) acceptSome(listener int) error {
	for range acceptBatch {
		fd, peer, err := accept(listener)
		switch err {
		case nil:
			a.backoff = minBackoff
			a.admit(fd, peer)
		case unix.EAGAIN:
			return nil
		case unix.EINTR, unix.ECONNABORTED, unix.EPROTO, unix.EPERM:
			// The one connection is lost (or forbidden by a firewall), not the listener.
		default:
			return err
		}
		if a.s.o.DelayAccept > 0 {
			return nil
		}
	}
	return nil
}

// failed waits a while after an error that may pass: no files, no memory.
func (a *acceptor) failed(err error) {
	if time.Since(a.logged) > logEvery {
		a.logged = time.Now()
		a.s.o.Log.Error().Err(err).Msg("accept failed; going on as soon as it works again (raise the limit of open files?)")
	}
	a.s.sleep(a.backoff)
	a.backoff = min(2*a.backoff, maxBackoff)
}

// admit answers a connection here when it can do so without waiting, else in a
// goroutine.
func (a *acceptor) admit(fd int, peer netip.AddrPort) {
	a.s.stats.accepted.Add(1)
	c := a.spare
	*c = conn{s: a.s, fd: fd, peer: peer, nowait: true}
	done := a.s.o.DelayWrite == 0 && a.s.tryNow(c)
	if !done || c.passed {
		a.spare = new(conn)
	}
	if done {
		return
	}
	c.nowait = false
	c.deadline = time.Now().Add(a.s.o.RequestTimeout)
	a.s.enter(c)
}

// enter starts to serve c, if there is room for one more.
func (s *Server) enter(c *conn) {
	open := s.clients.Add(1)
	c.counted = true
	if open > int64(s.o.MaxClients) || open > int64(s.o.MaxClients-s.o.LocalReserve) && !c.isLocal() {
		s.stats.refusals[refusedClients].Add(1)
		s.o.Log.Debug().Stringer("peer", c.peer).Msg("too many connections, closing this one")
		c.close()
		return
	}
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
