package epmd

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/policy"
	"handover/go/internal/registry"
	"handover/go/internal/status"
)

// errNotOwner: a peer that can make EPMD run a program can do anything as EPMD's user.
var errNotOwner = errors.New("epmd: only EPMD's own user and root may upgrade it (or send it SIGUSR2)")

// admit answers a connection in the accept loop if it can do so without waiting, else
// in a goroutine.
func (s *Server) admit(fd int, peer netip.AddrPort) {
	s.stats.accepted.Add(1)
	c := s.spare
	*c = conn{shared: s.conns, socket: socket{fd: fd, peer: peer}, noWait: true}
	done := s.o.DelayWrite == 0 && s.serveNow(c)
	if !done || c.passed {
		s.spare = new(conn)
	}
	if done { // c is closed, or a pass owns it
		return
	}
	c.noWait = false
	c.deadline = time.Now().Add(s.o.RequestTimeout)
	s.startServing(c)
}

// startServing serves c in a goroutine, or closes it if there are too many.
func (s *Server) startServing(c *conn) {
	clients := c.countClient()
	if clients > int64(s.o.MaxClients) || clients > int64(s.o.MaxClients-s.o.LocalReserve) && !c.isLocal() {
		s.stats.refusals[refusedClients].Add(1)
		s.o.Log.Debug().Stringer("peer", c.peer).Msg("too many connections, closing this one")
		c.close()
		return
	}
	s.tasks.Go(func() { s.serve(c) })
}

// serve answers the one request of a connection and closes it. After an ALIVE2_REQ
// that may be years later: the connection is a heartbeat then.
func (s *Server) serve(c *conn) {
	defer func() {
		if !c.passed {
			c.close()
		}
	}()
	b := buffers.Get().(*requestBuffer)
	request, err := c.readRequest(b)
	request = slices.Clone(request) // a heartbeat must not keep a buffer for life
	buffers.Put(b)
	if c.isPolled() && !s.conns.waiting.remove(&c.socket) {
		err = errDropped
	}
	switch {
	case errors.Is(err, errFrozen):
		s.upgrade.keepClient(c, c.body, nil)
	case err != nil:
		s.recordUnanswered(c, err)
	default:
		s.dispatch(c, request)
	}
}

// serveNow is like serve, but never waits, and answers only lookups and handovers. If the
// request is another one, or serveNow would have to wait, it returns false and leaves what
// it has read in c, for serve.
func (s *Server) serveNow(c *conn) bool {
	_, opcode, err := c.readHeader()
	if err == errWouldBlock || err == nil && opcode != epmdproto.OpPort2 && opcode != epmdproto.OpHandover {
		return false
	}
	if err == nil {
		err = s.answerNow(c, opcode)
	}
	if err == errWouldBlock {
		return false
	}
	if err != nil {
		s.recordUnanswered(c, err)
	}
	if !c.passed {
		c.close()
	}
	return true
}

// answerNow leaves the request in c if it returns errWouldBlock.
func (s *Server) answerNow(c *conn, opcode byte) error {
	b := buffers.Get().(*requestBuffer)
	defer buffers.Put(b)
	request, err := c.readRequest(b)
	if err != nil {
		return err
	}
	if opcode == epmdproto.OpHandover {
		if s.handoverNow(c, request[1:]) {
			return nil
		}
		err = errWouldBlock
	} else if answer := s.lookup(c, request[1:]); answer != nil {
		err = c.writeLast(answer)
	}
	if err == errWouldBlock {
		c.saveBody(request[1:])
	}
	return err
}

// recordUnanswered counts and logs a connection that ends before its request is complete,
// or whose request has an invalid length. Most of these clients were silent, hence the
// name of the metric, epmd_connections_silent_total.
func (s *Server) recordUnanswered(c *conn, err error) {
	s.stats.silent.Add(1)
	s.o.Log.Debug().Err(err).Stringer("peer", c.peer).Msg("closed without an answer")
}

// dispatch does what the request asks for. The caller must close c, unless it is passed.
func (s *Server) dispatch(c *conn, request []byte) {
	opcode, body := request[0], request[1:]
	switch opcode {
	case epmdproto.OpPort2:
		if answer := s.lookup(c, body); answer != nil {
			s.reply(c, answer)
		}
	case epmdproto.OpHandover:
		s.handover(c, string(body))
	case epmdproto.OpAlive2:
		if s.checkLocal(c, kindRegister) {
			s.handleAlive2(c, request)
		}
	case epmdproto.OpNames:
		s.handleNames(c)
	case epmdproto.OpDump:
		if s.checkLocal(c, kindDump) {
			s.stats.countRequest(kindDump, outcomeOK)
			s.reply(c, s.lists.dumpAnswer())
		}
	case epmdproto.OpStatus:
		if s.checkLocal(c, kindStatus) {
			s.handleStatus(c)
		}
	case epmdproto.OpKill:
		if s.checkLocal(c, kindKill) {
			s.handleKill(c)
		}
	case epmdproto.OpUpgrade:
		if s.checkLocal(c, kindUpgrade) {
			s.handleUpgrade(c)
		}
	case epmdproto.OpStop:
		if s.checkLocal(c, kindStop) {
			s.handleStop(c, body)
		}
	default:
		s.stats.countRequest(kindUnknown, outcomeBad)
		s.o.Log.Debug().Stringer("peer", c.peer).Uint8("opcode", opcode).Msg("unknown request")
	}
}

// reply sends an answer. The caller must close c at once.
func (s *Server) reply(c *conn, answer []byte) { s.sendAnswer(c, answer, c.writeLast) }

// sendAnswer sends an answer by means of write, and logs an error. It reports whether
// the answer was sent.
func (s *Server) sendAnswer(c *conn, answer []byte, write func([]byte) error) bool {
	if s.o.DelayWrite > 0 && !s.tasks.sleep(s.o.DelayWrite) {
		return false
	}
	if err := write(answer); err != nil {
		s.o.Log.Debug().Err(err).Stringer("peer", c.peer).Msg("cannot send the answer")
		return false
	}
	return true
}

// checkLocal reports whether the peer is on this host, and counts and logs a refusal if
// not.
func (s *Server) checkLocal(c *conn, what kind) bool {
	if c.isLocal() {
		return true
	}
	s.stats.countRequest(what, outcomeRefused)
	s.stats.refusals[refusedRemote].Add(1)
	s.stats.refusalLog.Warn().Stringer("peer", c.peer).Str("request", requestNames[what]).Msg("refused: the peer is not on this host")
	return false
}

var policyRequestNames = map[policy.Request]string{policy.Lookup: "lookup", policy.Handover: "handover", policy.Names: "names"}

// checkPolicy returns why the policy refuses c's request, or policy.Allowed, and counts
// and logs a refusal. Policy does not apply to local peers: under any policy, the nodes of
// the host reach each other, and its operator sees everything.
func (s *Server) checkPolicy(c *conn, what policy.Request, name []byte) policy.Reason {
	p := s.policy.Load()
	if p == nil || c.isLocal() {
		return policy.Allowed
	}
	reason := p.Check(what, c.peer.Addr(), sourceOf(c.peer), string(name))
	if reason != policy.Allowed {
		s.stats.refusals[refusalOf(reason)].Add(1)
		s.stats.refusalLog.Warn().Stringer("peer", c.peer).Str("request", policyRequestNames[what]).Bytes("node", name).
			Stringer("reason", reason).Msg("refused by policy")
	}
	return reason
}

// lookup returns the answer to PORT_PLEASE2, or nil if the name is malformed. A NUL
// at the end of the name is ignored.
func (s *Server) lookup(c *conn, name []byte) []byte {
	if len(name) > 0 && name[len(name)-1] == 0 {
		name = name[:len(name)-1]
	}
	if s.checkPolicy(c, policy.Lookup, name) != policy.Allowed {
		s.stats.countRequest(kindLookup, outcomeRefused)
		return epmdproto.AppendPort2Unknown(nil)
	}
	// Most names that peers ask for exist. Their form was checked at the registration, so
	// only the length, for which a lookup has a lower limit (see validLookup), is checked.
	n := s.names.Lookup(name)
	if n != nil && len(name) > 0 && len(name) < epmdproto.MaxNameChars {
		s.stats.countRequest(kindLookup, outcomeOK)
		return nodeOf(n).port2Resp
	}
	if err := validLookup(string(name)); err != nil {
		s.stats.countRequest(kindLookup, outcomeBad)
		s.o.Log.Debug().Err(err).Stringer("peer", c.peer).Msg("malformed PORT_PLEASE2, closed without an answer")
		return nil
	}
	if n == nil {
		s.stats.countRequest(kindLookup, outcomeNotFound)
		return epmdproto.AppendPort2Unknown(nil)
	}
	s.stats.countRequest(kindLookup, outcomeOK)
	return nodeOf(n).port2Resp
}

// validLookup is like epmdproto.ValidName, but a name may have one character less than at
// a registration: the stock EPMD counts the NUL that it appends to the request. Hence the
// second check, of a name that is one character longer.
func validLookup(name string) error {
	if err := epmdproto.ValidName(name); err != nil {
		return err
	}
	return epmdproto.ValidName(name + ".")
}

func (s *Server) handleAlive2(c *conn, request []byte) {
	req, err := epmdproto.ParseAlive2(request)
	if err != nil {
		s.stats.countRequest(kindRegister, outcomeBad)
		s.stats.faultLog.Warn().Err(err).Stringer("peer", c.peer).Msg("malformed ALIVE2_REQ, closed without an answer")
		return
	}
	s.register(c, req)
}

// register makes c the heartbeat of a node and reads it to its end. If the name is
// refused the connection stays open until the peer closes it, as in the stock EPMD,
// but no longer than the request's deadline.
func (s *Server) register(c *conn, req epmdproto.Alive2Req) {
	// From now on other goroutines write on c and hang it up, which needs the poller.
	if !c.isPolled() {
		if err := c.startPolling(); err != nil {
			return
		}
	}
	uid, retry := s.users.uidOf(&c.socket)
	u, hasRoom := s.users.addUsage(uid, filesOf(req))
	n := newNode(s.nodes, c, req, u)
	// The answer must be written before any HANDOVER_ASK. A handover can ask as soon as the
	// name is registered.
	n.writeMu.Lock()
	err := req.CanRegister()
	if !hasRoom {
		err = errNames
		s.stats.refusals[refusedNames].Add(1)
	}
	if err == nil {
		err = s.names.Register(n.entry)
	}
	if errors.Is(err, registry.ErrTaken) && s.freeName(req.Name) {
		err = s.names.Register(n.entry)
	}
	resp := epmdproto.Alive2Resp{Result: 1, Creation: epmdproto.NoCreation}
	if err == nil {
		resp = epmdproto.Alive2Resp{Creation: n.entry.Creation()}
	}
	sent := s.sendAnswer(c, resp.Append(nil, req.Highest), c.writePolled)
	n.writeMu.Unlock()
	switch {
	case err != nil:
		s.users.removeUsage(u)
		s.stats.countRequest(kindRegister, outcomeRefused)
		n.user().log.Warn().Err(err).Stringer("peer", c.peer).Stringer("uid", n.user()).Msg("registration refused")
		s.conns.waiting.add(&c.socket, nil)
		_, _ = c.Read(make([]byte, 1))
	case !sent:
		n.unregister(errGone, "the answer to ALIVE2_REQ could not be sent")
	default:
		s.stats.countRequest(kindRegister, outcomeOK)
		if retry {
			s.tasks.Go(n.findUser)
		}
		n.serveHeartbeat()
	}
}

// freeName unregisters a node that has hung up, before the node's goroutine notices: a
// node that restarts at once must not find its own name taken. It reports whether the
// name is free.
func (s *Server) freeName(name string) bool {
	entry := s.names.Lookup([]byte(name))
	if entry == nil {
		return true // the node's goroutine has unregistered it by now
	}
	n := nodeOf(entry)
	if !n.heartbeat.isHungUp() {
		return false
	}
	n.unregister(errGone, "connection closed by the node; the same name is registering again")
	return true
}

func (s *Server) handleNames(c *conn) {
	if s.checkPolicy(c, policy.Names, nil) != policy.Allowed {
		s.stats.countRequest(kindNames, outcomeRefused)
		s.reply(c, s.lists.header())
		return
	}
	p := s.policy.Load()
	if p != nil && c.isLocal() {
		p = nil
	}
	s.stats.countRequest(kindNames, outcomeOK)
	s.reply(c, s.lists.namesAnswer(p))
}

// handleStatus answers STATUS_REQ with the JSON of a status.Status.
func (s *Server) handleStatus(c *conn) {
	s.stats.countRequest(kindStatus, outcomeOK)
	answer, err := s.statusAnswer.since(time.Now(), s.Status)
	if err != nil {
		s.o.Log.Error().Err(err).Msg("cannot encode the answer to STATUS_REQ")
		return
	}
	s.reply(c, answer)
}

// Status returns the server's state and counters.
func (s *Server) Status() status.Status {
	st := status.Status{
		PID: os.Getpid(), Port: s.o.Port, Seconds: time.Since(s.stats.start).Seconds(),
		Policy: s.policy.Load() != nil, OldNames: len(s.names.Old()), Nodes: []status.Node{},
		Connections: status.Connections{
			Open: s.conns.clients.Load(), Waiting: s.conns.waiting.count(),
			Accepted: s.stats.accepted.Load(), Silent: s.stats.silent.Load(),
		},
	}
	for _, entry := range s.names.Live() {
		n := nodeOf(entry).status()
		st.Nodes = append(st.Nodes, n)
		st.Channels.Queued += n.Queued
		switch {
		case !n.Handover:
		case n.Channel == channelOpen:
			st.Channels.Open++
		case n.Channel == channelOpening:
			st.Channels.Opening++
		default:
			st.Channels.None++
		}
	}
	st.Channels.Passing = s.slots.unackedCount()
	s.stats.copyTo(&st)
	return st
}

// handleKill ends the server, if no node is registered or RelaxedCommandCheck is set.
func (s *Server) handleKill(c *conn) {
	if !s.o.RelaxedCommandCheck && s.names.Len() > 0 {
		s.stats.faultLog.Warn().Stringer("peer", c.peer).Msg("KILL_REQ refused: nodes are registered")
		s.stats.countRequest(kindKill, outcomeRefused)
		s.reply(c, []byte("NO"))
		return
	}
	s.stats.countRequest(kindKill, outcomeOK)
	s.reply(c, []byte("OK"))
	s.o.Log.Info().Stringer("peer", c.peer).Msg("shutting down on KILL_REQ")
	s.Close()
}

// handleStop unregisters a name and closes the node's heartbeat. For an unknown name
// the stock EPMD sends both words.
func (s *Server) handleStop(c *conn, name []byte) {
	if !s.o.RelaxedCommandCheck {
		s.stats.faultLog.Warn().Stringer("peer", c.peer).Msg("STOP_REQ refused: it needs -relaxed_command_check")
		s.stats.countRequest(kindStop, outcomeRefused)
		return
	}
	if len(name) == 0 {
		s.stats.countRequest(kindStop, outcomeBad)
		return
	}
	upToNUL, _, _ := strings.Cut(string(name), "\x00")
	n := s.names.UnregisterName(upToNUL)
	if n == nil {
		s.stats.countRequest(kindStop, outcomeNotFound)
		s.reply(c, []byte("NOEXISTSTOPPED"))
		return
	}
	s.stats.countRequest(kindStop, outcomeOK)
	nodeOf(n).unregister(errGone, "STOP_REQ")
	s.reply(c, []byte("STOPPED"))
}

// handleUpgrade answers UPGRADE_REQ if the upgrade is refused or fails. If it succeeds, the
// successor sends the answer.
func (s *Server) handleUpgrade(c *conn) {
	err := s.mayUpgrade(c)
	if err == nil {
		err = s.Upgrade()
	}
	if err != nil {
		s.stats.countRequest(kindUpgrade, outcomeRefused)
		s.reply(c, []byte(epmdproto.UpgradeNo+err.Error()))
		return
	}
	s.stats.countRequest(kindUpgrade, outcomeOK)
	s.upgrade.keepClient(c, nil, []byte(epmdproto.UpgradeOK))
}

// mayUpgrade returns an error unless the peer is EPMD's own user or root.
func (s *Server) mayUpgrade(c *conn) error {
	uid, err := s.users.peerUID(&c.socket)
	if err != nil {
		return err
	}
	if uid != 0 && int(uid) != os.Geteuid() {
		return errNotOwner
	}
	return nil
}
