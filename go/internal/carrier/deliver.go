package carrier

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"handover/go/internal/portproto"
)

// deliverAccepted delivers a handed-over connection to the BEAM, at once if no other one
// waits, or else through the queue. It owns fd. The caller must have called reserveQueue.
func (c *carrier) deliverAccepted(m portproto.Connection, fd int) {
	if c.fds.undelivered.Load() > 1 || !c.deliverNow(m, fd) {
		c.fds.queue <- queuedConn{m, fd}
		return
	}
	c.fds.releaseQueue()
}

// deliverNow delivers a connection to the BEAM without waiting, and owns fd then. If it
// returns false it has done nothing.
func (c *carrier) deliverNow(m portproto.Connection, fd int) bool {
	added := c.links.addCopy(link{m.Kind, m.ID}, fd)
	if !c.fds.sendConnectionNow(m, fd) {
		if added {
			c.links.removeCopy(link{m.Kind, m.ID})
		}
		return false
	}
	if !added {
		_ = unix.Close(fd)
	}
	return true
}

// deliverCopy delivers a connection to the BEAM; the caller keeps fd. The error wraps
// errBusy if the BEAM does not take it in time.
func (c *carrier) deliverCopy(m portproto.Connection, fd int) error {
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	added := c.links.addCopy(link{m.Kind, m.ID}, copied)
	err = c.fds.sendConnection(m, fd)
	if err != nil && added {
		c.links.removeCopy(link{m.Kind, m.ID})
	}
	if err != nil || !added {
		_ = unix.Close(copied)
	}
	return err
}

// deliverQueued delivers the queued connections until the carrier ends. It waits without
// a limit while the BEAM is stopped.
func (c *carrier) deliverQueued(s *fdSocket) {
	for {
		var q queuedConn
		select {
		case q = <-s.queue:
		case <-c.ctx.Done():
			closeQueue(s.queue)
			return
		}
		added := c.links.addCopy(link{q.m.Kind, q.m.ID}, q.fd)
		err := s.sendConnection(q.m, q.fd)
		for errors.Is(err, errBusy) && c.ctx.Err() == nil {
			err = s.sendConnection(q.m, q.fd)
		}
		switch {
		case !added:
			_ = unix.Close(q.fd)
		case err != nil: // the BEAM will not report it as closed
			c.links.closeCopy(link{q.m.Kind, q.m.ID})
		}
		s.releaseQueue()
		if err != nil && c.ctx.Err() == nil {
			c.log.Error().Err(err).Stringer("peer", q.m.Peer).Msg("cannot deliver a handed-over connection to the BEAM")
		}
	}
}

func closeQueue(queue chan queuedConn) {
	for {
		select {
		case q := <-queue:
			_ = unix.Close(q.fd)
		default:
			return
		}
	}
}
