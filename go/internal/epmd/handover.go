package epmd

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/policy"
)

// Why a connection cannot be passed to the node of a name.
var (
	errNoSuchNode = errors.New("epmd: no such node")
	errNoExtra    = errors.New("epmd: the node registered without " + epmdproto.Extra)
)

// policyError is the error of a handover that policy refused.
type policyError struct{ reason policy.Reason }

func (e policyError) Error() string { return "epmd: refused by policy: " + e.reason.String() }

// result: a hidden name does not exist, and a peer that asks too often may ask again.
func (e policyError) result() epmdproto.Result {
	switch e.reason {
	case policy.Hidden:
		return epmdproto.NoSuchNode
	case policy.Rate:
		return epmdproto.Overloaded
	}
	return epmdproto.Refused
}

// handover passes c to the node of that name, or sends the initiator the reason why
// not. What the initiator sent after its request stays unread.
func (s *Server) handover(c *conn, name string) {
	if !s.upgrade.beginHandover() {
		s.upgrade.keepClient(c, []byte(name), nil)
		return
	}
	start := time.Now()
	if err := s.passTo(c, name, start); err != nil {
		s.recordHandover(c, name, start, false, err)
		c.refuseHandover(resultOf(err))
		s.upgrade.endHandover()
	}
}

// passTo returns nil if c was passed. Then the node may have it, so the caller must not
// write to it, and the pass closes it.
func (s *Server) passTo(c *conn, name string, start time.Time) error {
	if err := epmdproto.ValidName(name); err != nil {
		return err
	}
	if reason := s.checkPolicy(c, policy.Handover, []byte(name)); reason != policy.Allowed {
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
	p := s.newPass(c, start)
	timer := time.NewTimer(time.Until(p.deadline))
	defer timer.Stop()
	if err := n.acquireSlot(timer.C); err != nil {
		if errors.Is(err, errTooMany) {
			s.stats.refusals[refusedInProgress].Add(1)
			n.user().inProgressLog.Warn().Str("node", name).Stringer("uid", n.user()).
				Msg("too many handovers are under way to this node, to nodes of its user, or to all nodes; refusing more of them until some end (do its nodes answer?)")
		}
		return err
	}
	c.passed = true
	if err := n.sendPass(p, timer.C); err != nil {
		c.passed = false
		n.releaseSlot()
		return err
	}
	return nil
}

// handoverNow is like handover but never waits and never refuses. It returns false,
// and has done nothing, if either is needed.
func (s *Server) handoverNow(c *conn, name []byte) bool {
	entry := s.names.Lookup(name)
	if len(name) == 0 || entry == nil || !entry.TakesHandovers() || s.policy.Load() != nil || !s.upgrade.beginHandover() {
		return false
	}
	n, start := nodeOf(entry), time.Now()
	if ch := n.openChannelNow(); ch != nil && n.acquireSlotNow() {
		c.passed = true
		if ch.send(s.newPass(c, start), fdpass.SendNow) == nil {
			return true
		}
		c.passed = false
		n.releaseSlot()
	}
	s.upgrade.endHandover()
	return false
}

func (s *Server) newPass(c *conn, start time.Time) *pass {
	return &pass{conn: c, start: start, deadline: start.Add(s.o.HandoverTimeout)}
}

// passDone records the result of a pass, closes its connection and ends the handover.
// It is called once for each pass.
func (s *Server) passDone(node string, p *pass, err error) {
	s.recordHandover(p.conn, node, p.start, true, err)
	p.conn.close()
	s.upgrade.endHandover()
}

// recordHandover counts and logs a handover that has ended.
func (s *Server) recordHandover(c *conn, name string, start time.Time, passed bool, err error) {
	result := resultOf(err)
	s.stats.countHandover(result, start)
	if event := s.o.Log.Debug(); event.Enabled() {
		event.Stringer("peer", c.peer).Str("node", name).Bool("passed", passed).
			Stringer("result", result).AnErr("error", err).Msg("HANDOVER_REQ")
	}
}

// resultOf returns the result to send to the initiator, or to log.
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
	case isAny(err, errFull, errShare, errTooMany, errFrozen, unix.ETOOMANYREFS, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM):
		return epmdproto.Overloaded
	case isAny(err, errNoAnswer, errLate, os.ErrDeadlineExceeded):
		return epmdproto.NoAnswer
	}
	return epmdproto.CannotPass
}
