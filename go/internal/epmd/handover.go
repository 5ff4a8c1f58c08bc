package epmd

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/policy"
)

// handover brings c to the node of that name, or tells the initiator why not.
// What the initiator sent behind its request stays unread.
func (s *Server) handover(c *conn, name string) {
	if !s.beginHandover() {
		s.setAside(c, []byte(name), nil)
		return
	}
	defer s.endHandover()
	start := time.Now()
	passed, err := s.bringTo(c, name)
	result := resultOf(err)
	s.stats.handover(result, start)
	if event := s.o.Log.Debug(); event.Enabled() {
		event.Stringer("peer", c.peer).Str("node", name).Bool("passed", passed).
			Stringer("result", result).AnErr("error", err).Msg("HANDOVER_REQ")
	}
	if !passed {
		c.refuse(result)
	}
}

// Why a name has no node to bring connections to.
var (
	errNoSuchNode = errors.New("epmd: no such node")
	errNoExtra    = errors.New("epmd: the node registered without " + epmdproto.Extra)
)

// bringTo returns true when c was passed: whatever became of it, it may be the
// node's now, and nobody else may write to it.
func (s *Server) bringTo(c *conn, name string) (passed bool, err error) {
	if err := epmdproto.ValidName(name); err != nil {
		return false, err
	}
	if reason := s.check(c, policy.Handover, []byte(name)); reason != policy.Allowed {
		return false, policyError{reason}
	}
	entry := s.names.Lookup([]byte(name))
	if entry == nil {
		return false, errNoSuchNode
	}
	if !entry.TakesHandovers() {
		return false, errNoExtra
	}
	deadline := time.Now().Add(s.o.HandoverTimeout)
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	n := nodeOf(entry)
	if err := s.gate.enter(n, timer.C); err != nil {
		return false, err
	}
	ch, id, p, err := n.pass(c, deadline, timer.C)
	if err != nil {
		s.gate.done(n)
		return false, err
	}
	return true, ch.await(id, p, timer.C)
}

// pass sends c over the node's channel; over a new one, once, where the old one
// turns out to be broken.
func (n *node) pass(c *conn, deadline time.Time, timer <-chan time.Time) (ch *channel, id uint64, p *pass, err error) {
	for range 2 {
		if ch, err = n.openChannel(timer); err != nil {
			return nil, 0, nil, err
		}
		if id, p, err = ch.send(c, deadline); err == nil {
			return ch, id, p, nil
		}
		if !channelBroken(err) {
			break
		}
		ch.breakOff(err)
	}
	return nil, 0, nil, err
}

func channelBroken(err error) bool {
	return isAny(err, errBroken, net.ErrClosed, unix.EPIPE, unix.ECONNRESET, unix.ENOTCONN)
}

// resultOf gives the result to tell the initiator, or to log.
func resultOf(err error) epmdproto.Result {
	var refused resultError
	var byPolicy policyError
	switch {
	case err == nil:
		return epmdproto.OK
	case errors.As(err, &byPolicy):
		return byPolicy.result()
	case errors.As(err, &refused):
		return refused.result
	case isAny(err, epmdproto.ErrName, errNoSuchNode, errGone):
		return epmdproto.NoSuchNode
	case isAny(err, errFull, errFrozen, unix.ETOOMANYREFS, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM):
		return epmdproto.Overloaded
	case isAny(err, errNoAnswer, errLate, os.ErrDeadlineExceeded):
		return epmdproto.NoAnswer
	}
	return epmdproto.NoHandover
}

func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// refuse tells the initiator why, and throws away what it sent meanwhile.
func (c *conn) refuse(result epmdproto.Result) {
	if err := c.setDeadline(time.Now().Add(drainTimeout)); err != nil {
		return
	}
	if err := c.writeLast(epmdproto.AppendHandoverResult(nil, result)); err != nil {
		return
	}
	err := c.control(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
	buf := buffers.Get().(*requestBuffer)
	defer buffers.Put(buf)
	for left := drainBytes; err == nil && left > 0; {
		var n int
		n, err = c.read(buf[:])
		left -= n
	}
}
