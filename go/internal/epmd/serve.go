package epmd

import (
	"errors"
	"strings"

	"handover/go/internal/epmdproto"
	"handover/go/internal/policy"
	"handover/go/internal/registry"
)

// serve answers one connection's one request and closes it, if need be years
// later: an ALIVE2_REQ makes it a heartbeat.
func (s *Server) serve(c *conn) {
	defer func() {
		if !c.passed {
			c.close()
		}
	}()
	b := buffers.Get().(*requestBuffer)
	request, err := c.readRequest(b)
	if c.file != nil && !s.waiting.remove(c) {
		err = errDropped
	}
	if errors.Is(err, errFrozen) {
		buffers.Put(b)
		s.setAside(c, c.body, nil)
		return
	}
	if err != nil {
		buffers.Put(b)
		s.stats.silent.Add(1)
		s.o.Log.Debug().Err(err).Stringer("peer", c.peer).Msg("closed without an answer")
		return
	}
	// Copied, so that a heartbeat keeps no buffer for life.
	then := s.answer(c, request)
	buffers.Put(b)
	if then != nil {
		then()
	}
}

// tryNow answers PORT_PLEASE2 and closes the connection, or passes it to the node
// that HANDOVER_REQ names, if that takes no waiting; else it leaves what it has
// read in c.
func (s *Server) tryNow(c *conn) bool {
	_, opcode, err := c.readHeader()
	if err == errAgain || err == nil && opcode != epmdproto.OpPort2 && opcode != epmdproto.OpHandover {
		return false
	}
	if err == nil {
		err = s.answerNow(c, opcode)
	}
	if err == errAgain {
		return false
	}
	if err != nil {
		s.stats.silent.Add(1)
		s.o.Log.Debug().Err(err).Stringer("peer", c.peer).Msg("closed without an answer")
	}
	if !c.passed {
		c.close()
	}
	return true
}

// answerNow leaves the request in c on errAgain.
func (s *Server) answerNow(c *conn, opcode byte) error {
	b := buffers.Get().(*requestBuffer)
	defer buffers.Put(b)
	request, err := c.readRequest(b)
	if err != nil {
		return err
	}
	if opcode == epmdproto.OpHandover {
		if s.passNow(c, request[1:]) {
			return nil
		}
		err = errAgain
	} else if answer := s.lookup(c, request); answer != nil {
		err = c.writeLast(answer)
	}
	if err == errAgain {
		c.body = append([]byte(nil), request[1:]...)
	}
	return err
}

// answer does what the request asks. What takes longer than the request's bytes
// are needed for is returned as a function.
func (s *Server) answer(c *conn, request []byte) (then func()) {
	switch request[0] {
	case epmdproto.OpPort2:
		if answer := s.lookup(c, request); answer != nil {
			s.reply(c, answer)
		}
	case epmdproto.OpHandover:
		name := string(request[1:])
		return func() { s.handover(c, name) }
	case epmdproto.OpAlive2:
		req, err := epmdproto.ParseAlive2(request)
		switch {
		case !s.local(c, kindRegister):
		case err != nil:
			s.stats.request(kindRegister, outcomeBad)
			s.stats.faults.Warn().Err(err).Stringer("peer", c.peer).Msg("ALIVE2_REQ closed without an answer")
		default:
			return func() { s.register(c, req) }
		}
	case epmdproto.OpNames:
		return func() { s.sendNames(c) }
	case epmdproto.OpDump:
		if s.local(c, kindDump) {
			s.stats.request(kindDump, outcomeOK)
			return func() { s.reply(c, s.dumpList()) }
		}
	case epmdproto.OpStatus:
		if s.local(c, kindStatus) {
			return func() { s.sendStatus(c) }
		}
	case epmdproto.OpKill:
		if s.local(c, kindKill) {
			s.kill(c)
		}
	case epmdproto.OpUpgrade:
		if s.local(c, kindUpgrade) {
			return func() { s.upgrade(c) }
		}
	case epmdproto.OpStop:
		if s.local(c, kindStop) {
			s.stop(c, request[1:])
		}
	default:
		s.stats.request(kindUnknown, outcomeBad)
		s.o.Log.Debug().Stringer("peer", c.peer).Uint8("opcode", request[0]).Msg("unknown request")
	}
	return nil
}

// reply writes an answer, which the caller has c closed behind.
func (s *Server) reply(c *conn, answer []byte) { s.send(c, answer, c.writeLast) }

// send writes an answer; the log has the error. It returns false on one.
func (s *Server) send(c *conn, answer []byte, write func([]byte) error) bool {
	if s.o.DelayWrite > 0 && !s.sleep(s.o.DelayWrite) {
		return false
	}
	if err := write(answer); err != nil {
		s.o.Log.Debug().Err(err).Stringer("peer", c.peer).Msg("answer not sent")
		return false
	}
	return true
}

// local says whether the peer may do this, and logs it where not.
func (s *Server) local(c *conn, what kind) bool {
	if c.isLocal() {
		return true
	}
	s.stats.request(what, outcomeRefused)
	s.stats.refusals[refusedRemote].Add(1)
	s.stats.refused.Warn().Stringer("peer", c.peer).Str("request", kindTexts[what]).Msg("refused, the peer is not on this host")
	return false
}

// lookup gives the answer to PORT_PLEASE2. A name that ends in one NUL is taken
// without it; one that can't be looked up gets none, nil. The stock EPMD counts the
// end of the request as a character, so that 254 is the most here.
func (s *Server) lookup(c *conn, request []byte) []byte {
	name := request[1:]
	if len(name) > 0 && name[len(name)-1] == 0 {
		name = name[:len(name)-1]
	}
	if s.check(c, policy.Lookup, name) != policy.Allowed {
		s.stats.request(kindLookup, outcomeRefused)
		return epmdproto.AppendPort2Unknown(nil)
	}
	// Most names that are asked for exist, and need no look at their shape.
	n := s.names.Lookup(name)
	if n != nil && len(name) > 0 && len(name) < epmdproto.MaxNameChars {
		s.stats.request(kindLookup, outcomeOK)
		return nodeOf(n).port2
	}
	if err := validLookup(string(name)); err != nil {
		s.stats.request(kindLookup, outcomeBad)
		s.o.Log.Debug().Err(err).Stringer("peer", c.peer).Msg("PORT_PLEASE2 closed without an answer")
		return nil
	}
	if n == nil {
		s.stats.request(kindLookup, outcomeNotFound)
		return epmdproto.AppendPort2Unknown(nil)
	}
	s.stats.request(kindLookup, outcomeOK)
	return nodeOf(n).port2
}

// kill ends the server, if no node is registered or RelaxedCommandCheck is set.
func (s *Server) kill(c *conn) {
	if !s.o.RelaxedCommandCheck && s.names.Len() > 0 {
		s.stats.faults.Warn().Stringer("peer", c.peer).Msg("KILL_REQ refused, there are live nodes")
		s.stats.request(kindKill, outcomeRefused)
		s.reply(c, []byte("NO"))
		return
	}
	s.stats.request(kindKill, outcomeOK)
	s.reply(c, []byte("OK"))
	s.o.Log.Info().Stringer("peer", c.peer).Msg("KILL_REQ, ending")
	s.Close()
}

// stop takes a name from the node that has it and closes its heartbeat. For an
// unknown name the stock EPMD says both words.
func (s *Server) stop(c *conn, name []byte) {
	if !s.o.RelaxedCommandCheck {
		s.stats.faults.Warn().Stringer("peer", c.peer).Msg("STOP_REQ refused, needs -relaxed_command_check")
		s.stats.request(kindStop, outcomeRefused)
		return
	}
	if len(name) == 0 {
		s.stats.request(kindStop, outcomeBad)
		return
	}
	upToNUL, _, _ := strings.Cut(string(name), "\x00")
	n := s.names.UnregisterName(upToNUL)
	if n == nil {
		s.stats.request(kindStop, outcomeNotFound)
		s.reply(c, []byte("NOEXISTSTOPPED"))
		return
	}
	s.stats.request(kindStop, outcomeOK)
	nodeOf(n).leave(errGone, "STOP_REQ")
	s.reply(c, []byte("STOPPED"))
}

// validLookup is ValidName with the stock EPMD's limit.
func validLookup(name string) error {
	if err := epmdproto.ValidName(name); err != nil {
		return err
	}
	return epmdproto.ValidName(name + ".")
}

// nodeOf is what register left in the registry.
func nodeOf(n *registry.Node) *node { return n.Data.(*node) }
