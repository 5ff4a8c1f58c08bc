package epmd

import (
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/policy"
)

// SetPolicy puts a policy in force, or none (nil). Requests under way are answered
// by the one that they began with.
func (s *Server) SetPolicy(p *policy.Policy) { s.policy.Store(p) }

// check says why policy keeps c's request from being answered; it counts and logs
// that. Local peers are free of policy: a host works the same under any, its nodes
// reach each other, and its operator sees all.
func (s *Server) check(c *conn, what policy.Request, name []byte) policy.Reason {
	p := s.policy.Load()
	if p == nil || c.isLocal() {
		return policy.Allowed
	}
	reason := p.Check(what, c.peer.Addr(), sourceOf(c.peer), string(name))
	if reason != policy.Allowed {
		s.stats.refusals[refusedSource+refusal(reason-policy.Source)].Add(1)
		s.stats.refused.Warn().Stringer("peer", c.peer).Str("request", requestNames[what]).Bytes("node", name).
			Stringer("reason", reason).Msg("refused by policy")
	}
	return reason
}

var requestNames = map[policy.Request]string{policy.Lookup: "lookup", policy.Handover: "handover", policy.Names: "names"}

// policyError is a handover that policy refused.
type policyError struct{ reason policy.Reason }

func (e policyError) Error() string { return "epmd: refused by policy: " + e.reason.String() }

// result: a hidden name does not exist, and who asks too often may ask again.
func (e policyError) result() epmdproto.Result {
	switch e.reason {
	case policy.Hidden:
		return epmdproto.NoSuchNode
	case policy.Rate:
		return epmdproto.Overloaded
	}
	return epmdproto.Refused
}

// sendNames answers NAMES.
func (s *Server) sendNames(c *conn) {
	if s.check(c, policy.Names, nil) != policy.Allowed {
		s.stats.request(kindNames, outcomeRefused)
		s.reply(c, s.listPort())
		return
	}
	p := s.policy.Load()
	if p != nil && c.isLocal() {
		p = nil
	}
	s.stats.request(kindNames, outcomeOK)
	s.reply(c, s.namesList(p))
}

// sendStatus answers STATUS_REQ with the JSON of a status.Status.
func (s *Server) sendStatus(c *conn) {
	s.stats.request(kindStatus, outcomeOK)
	answer, err := s.lists.status.answerSince(time.Now(), s.Status)
	if err != nil {
		s.o.Log.Error().Err(err).Msg("STATUS_REQ")
		return
	}
	s.reply(c, answer)
}
