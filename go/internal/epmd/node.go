package epmd

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/registry"
)

// node is a registered node and what is known of the way to it.
type node struct {
	s         *Server
	entry     *registry.Node
	heartbeat *conn
	port2     []byte // the answer to PORT_PLEASE2
	gone      chan struct{}

	writing sync.Mutex // held to write on the heartbeat

	mu      sync.Mutex   // guards what follows
	left    error        // why gone is closed, or nil
	asked   bool         // an 'h' is unanswered: there is never more than one
	said    bytes.Buffer // what has come of the answer to 'h'; listen's alone
	answers chan socketAnswer
	channel *channel  // the open one, or nil
	opening *opening  // the attempt under way, or nil
	logged  time.Time // that there is no way to it

	line      // the gate's, with the node's user
	files int // that it counts for; guarded by owners.mu
}

// socketAnswer is what a node said to 'h'. err wraps epmdproto.ErrSocketName.
type socketAnswer struct {
	name string
	err  error
}

// register makes c the heartbeat of a node, and stays with it to its end. Where
// the name is refused the connection stays open until the peer closes it, as in
// the stock EPMD, but not for ever.
func (s *Server) register(c *conn, req epmdproto.Alive2Req) {
	// From now on others write on c and hang it up.
	if c.file == nil {
		if err := c.park(); err != nil {
			return
		}
	}
	uid, later := s.uidOf(c)
	o, room := s.owners.enter(uid, filesOf(req))
	n := newNode(s, c, req, o)
	// Nobody may ask on the heartbeat before the answer is written there.
	n.writing.Lock()
	err := req.CanRegister()
	if !room {
		err = errNames
		s.stats.refusals[refusedNames].Add(1)
	}
	if err == nil {
		err = s.names.Register(n.entry)
	}
	if errors.Is(err, registry.ErrTaken) && s.freed(req.Name) {
		err = s.names.Register(n.entry)
	}
	resp := epmdproto.Alive2Resp{Result: 1, Creation: epmdproto.NoCreation}
	if err == nil {
		resp = epmdproto.Alive2Resp{Creation: n.entry.Creation()}
	}
	sent := s.send(c, resp.Append(nil, req.Highest), c.write)
	n.writing.Unlock()
	switch {
	case err != nil:
		s.owners.leave(n)
		s.stats.request(kindRegister, outcomeRefused)
		n.user().log.Warn().Err(err).Stringer("peer", c.peer).Stringer("uid", n.user()).Msg("registration refused")
		s.waiting.add(c)
		_, _ = c.read(make([]byte, 1))
	case !sent:
		n.leave(errGone, "the answer to ALIVE2_REQ could not be sent")
	default:
		s.stats.request(kindRegister, outcomeOK)
		if later {
			s.wg.Go(n.findUser)
		}
		n.live()
	}
}

// freed takes a name from a node that has hung up, which the node's goroutine has
// not come to see yet: a node that is started again at once must not find its own
// name taken.
func (s *Server) freed(name string) bool {
	entry := s.names.Lookup([]byte(name))
	if entry == nil {
		return true // meanwhile
	}
	n := nodeOf(entry)
	if !n.heartbeat.hungUp() {
		return false
	}
	n.leave(errGone, "hung up, and the name is wanted again")
	return true
}

// newNode takes over what owners.enter has counted, which the node's leave gives back.
func newNode(s *Server, c *conn, req epmdproto.Alive2Req, o *owner) *node {
	n := &node{
		s: s, heartbeat: c, gone: make(chan struct{}),
		port2:   epmdproto.AppendPort2Resp(nil, req),
		answers: make(chan socketAnswer, 1),
		files:   filesOf(req),
	}
	n.owner.Store(o)
	n.entry = &registry.Node{Alive2Req: req, FD: c.fd, Data: n}
	return n
}

// live listens to the heartbeat until it ends.
func (n *node) live() {
	c := n.heartbeat
	c.uncount()
	n.s.o.Log.Info().Str("node", n.entry.Name).Uint16("port", n.entry.Port).Uint32("creation", n.entry.Creation()).
		Bool("handover", n.entry.TakesHandovers()).Msg("registered")
	err := c.setDeadline(time.Time{})
	for err == nil {
		err = n.listen()
	}
	switch {
	case errors.Is(err, errFrozen):
		n.setAside()
	case ended(err):
		n.leave(errGone, err.Error())
	default:
		n.user().log.Warn().Str("node", n.entry.Name).Stringer("uid", n.user()).Err(err).Msg("heartbeat broken, unregistering the node")
		n.leave(err, err.Error())
	}
}

// ended says whether a heartbeat came to an end as heartbeats do.
func ended(err error) bool {
	return isAny(err, io.EOF, io.ErrUnexpectedEOF, unix.ECONNRESET, os.ErrClosed)
}

// errUnasked: bytes on a heartbeat that EPMD did not ask for.
var errUnasked = errors.New("epmd: the node sent what it was not asked for")

// listen waits for the node to say something. The heartbeat can be listened to
// on as long as it returns nil.
func (n *node) listen() error {
	if n.said.Len() == 0 {
		var first [1]byte
		if _, err := n.heartbeat.read(first[:]); err != nil {
			return err
		}
		n.said.Write(first[:])
	}
	n.mu.Lock()
	asked := n.asked
	n.mu.Unlock()
	if !asked {
		return errUnasked
	}
	// Once begun, an answer has to come to its end.
	if err := n.heartbeat.setReadDeadline(time.Now().Add(n.s.o.HandoverTimeout)); err != nil {
		return err
	}
	before := bytes.NewReader(bytes.Clone(n.said.Bytes()))
	name, err := epmdproto.ReadHandoverSocket(io.MultiReader(before, io.TeeReader(n.heartbeat, &n.said)))
	if err != nil && !errors.Is(err, epmdproto.ErrSocketName) {
		return err
	}
	n.said.Reset()
	n.mu.Lock()
	n.asked = false
	n.answers <- socketAnswer{name, err} // has room: one question, one answer
	n.mu.Unlock()
	return n.heartbeat.setReadDeadline(time.Time{})
}

// leave takes the node's name away and ends all that is under way to it, with err
// for those who wait. It may be called more than once and by anybody.
func (n *node) leave(err error, why string) {
	n.s.names.Unregister(n.entry)
	n.mu.Lock()
	first := n.left == nil
	if first {
		n.left = err
	}
	open := n.channel
	n.channel = nil
	n.mu.Unlock()
	if !first {
		return
	}
	close(n.gone)
	if open != nil {
		open.breakOff(err)
	}
	n.s.owners.leave(n)
	n.heartbeat.hangUp()
	n.s.o.Log.Info().Str("node", n.entry.Name).Str("why", why).Msg("unregistered")
}
