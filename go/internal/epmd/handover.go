package epmd

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/policy"
)

// handover brings c to the node of that name, or tells the initiator why not.
// What the initiator sent behind its request stays unread.
func (s *Server) handover(c *conn, name string) {
	if !s.beginHandover() {
		s.setAside(c, []byte(name), nil)
		return
	}
	start := time.Now()
	if err := s.bringTo(c, name, start); err != nil {
		s.record(c, name, start, false, err)
		c.refuse(resultOf(err))
		s.endHandover()
	}
}

// record counts and logs a handover that has come to its end.
func (s *Server) record(c *conn, name string, start time.Time, passed bool, err error) {
	result := resultOf(err)
	s.stats.handover(result, start)
	if event := s.o.Log.Debug(); event.Enabled() {
		event.Stringer("peer", c.peer).Str("node", name).Bool("passed", passed).
			Stringer("result", result).AnErr("error", err).Msg("HANDOVER_REQ")
	}
}

// ended: p was passed, and nobody waits for the node's word on it any more.
func (n *node) ended(p *pass, err error) {
	n.s.record(p.conn, n.entry.Name, p.start, true, err)
	p.conn.close()
	n.s.endHandover()
}

// Why a name has no node to bring connections to.
var (
	errNoSuchNode = errors.New("epmd: no such node")
	errNoExtra    = errors.New("epmd: the node registered without " + epmdproto.Extra)
)

// bringTo returns nil when c was passed: whatever becomes of it, it may be the
// node's now, and nobody else may write to it. The pass closes it.
func (s *Server) bringTo(c *conn, name string, start time.Time) error {
	if err := epmdproto.ValidName(name); err != nil {
		return err
	}
	if reason := s.check(c, policy.Handover, []byte(name)); reason != policy.Allowed {
		return policyError{reason}
	}
	entry := s.names.Lookup([]byte(name))
	if entry == nil {
		return errNoSuchNode
	}
	if !entry.TakesHandovers() {
		return errNoExtra
	}
	n := nodeOf(entry)
	p := &pass{conn: c, start: start, deadline: start.Add(s.o.HandoverTimeout)}
	timer := time.NewTimer(time.Until(p.deadline))
	defer timer.Stop()
	if err := s.gate.enter(n, timer.C); err != nil {
		if errors.Is(err, errHeld) {
			s.stats.refusals[refusedHeld].Add(1)
			n.user().crowded.Warn().Str("node", name).Stringer("uid", n.user()).
				Msg("too many handovers are under way to this node, or to nodes of its user; refusing more of them until some end (do its nodes answer?)")
		}
		return err
	}
	c.passed = true
	if err := n.pass(p, timer.C); err != nil {
		c.passed = false
		s.gate.done(n)
		return err
	}
	return nil
}

// passNow is handover for the accept loop: it returns false, and has done
// nothing, where there is anything to wait for or to refuse.
func (s *Server) passNow(c *conn, name []byte) bool {
	entry := s.names.Lookup(name)
	if len(name) == 0 || entry == nil || !entry.TakesHandovers() || s.policy.Load() != nil || !s.beginHandover() {
		return false
	}
	n, start := nodeOf(entry), time.Now()
	if ch := n.openNow(); ch != nil && s.gate.tryEnter(n) {
		c.passed = true
		p := &pass{conn: c, start: start, deadline: start.Add(s.o.HandoverTimeout)}
		if ch.send(p, fdpass.SendNow) == nil {
			return true
		}
		c.passed = false
		s.gate.done(n)
	}
	s.endHandover()
	return false
}

// pass sends p over the node's channel; over a new one, once, where the old one
// turns out to be broken.
func (n *node) pass(p *pass, timer <-chan time.Time) error {
	patiently := func(c *net.UnixConn, msg []byte, fd int) error { return fdpass.Send(c, msg, fd, p.deadline) }
	var err error
	for range 2 {
		var ch *channel
		if ch, err = n.openChannel(timer); err != nil {
			return err
		}
		if err = ch.send(p, patiently); err == nil || !channelBroken(err) {
			return err
		}
		ch.breakOff(err)
	}
	return err
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
	case errors.Is(err, errNoExtra):
		return epmdproto.NoHandover
	case isAny(err, errFull, errShare, errHeld, errFrozen, unix.ETOOMANYREFS, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM):
		return epmdproto.Overloaded
	case isAny(err, errNoAnswer, errLate, os.ErrDeadlineExceeded):
		return epmdproto.NoAnswer
	}
	return epmdproto.CannotPass
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
	if c.file != nil { // else read does this
		c.s.waiting.add(c)
	}
	buf := buffers.Get().(*requestBuffer)
	defer buffers.Put(buf)
	for left := drainBytes; err == nil && left > 0; {
		var n int
		n, err = c.read(buf[:])
		left -= n
	}
}
