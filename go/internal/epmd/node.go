package epmd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/peercred"
	"handover/go/internal/registry"
	"handover/go/internal/status"
)

var (
	// errNoSocket: the node answered the ask ('h', epmdproto.HandoverAsk) with an empty
	// socket name.
	errNoSocket = errors.New("epmd: the node cannot open a socket at the moment")
	// errUntrusted: another user than the node's listens on the socket.
	errUntrusted = errors.New("epmd: not a socket of the node")
	// errUnasked: bytes on a heartbeat that EPMD did not ask for.
	errUnasked = errors.New("epmd: the node sent unexpected bytes")
)

// Pauses between attempts to connect to a socket whose backlog is full.
const (
	minRetry = time.Millisecond
	maxRetry = 50 * time.Millisecond
)

// nodeEnv is what the nodes of a server share.
type nodeEnv struct {
	timeout time.Duration // Options.HandoverTimeout
	log     zerolog.Logger
	names   *registry.Registry
	slots   *slots
	users   *users
	upgrade *upgrade
	tasks   *tasks
	// passDone: see channelEnv.
	passDone func(node string, p *pass, err error)
}

// node is a registered node, its heartbeat, and the way to open a channel to it.
type node struct {
	env       *nodeEnv
	entry     *registry.Node
	heartbeat *conn
	usage     *usage
	port2Resp []byte        // PORT2_RESP, the answer to PORT_PLEASE2
	gone      chan struct{} // closed when nothing can be passed to the node any more

	writeMu sync.Mutex // held to write on the heartbeat

	// partial is the part of the answer to 'h' that was read already. Only readHeartbeat
	// uses it, and resumeNode and state while readHeartbeat does not run.
	partial bytes.Buffer
	answers chan socketAnswer // has room for one

	mu      sync.Mutex // guards what follows
	goneErr error      // the reason why gone is closed, or nil
	asked   bool       // an 'h' is unanswered: there is never more than one
	channel *channel   // the open one, or nil
	opening *opening   // the attempt under way, or nil
	logged  time.Time  // when a failed attempt was logged
}

// socketAnswer is a node's answer to 'h'. err wraps epmdproto.ErrSocketName.
type socketAnswer struct {
	name string
	err  error
}

// opening is one attempt to open a channel, for all handovers that wait for it.
// channel and err are set when done is closed.
type opening struct {
	done    chan struct{}
	channel *channel
	err     error
}

// newNode makes c the heartbeat of a node, which calls removeUsage when it unregisters.
func newNode(env *nodeEnv, c *conn, req epmdproto.Alive2Req, u *usage) *node {
	n := &node{
		env: env, heartbeat: c, usage: u, gone: make(chan struct{}),
		port2Resp: epmdproto.AppendPort2Resp(nil, req),
		answers:   make(chan socketAnswer, 1),
	}
	n.entry = &registry.Node{Alive2Req: req, FD: c.fd, Data: n}
	return n
}

// nodeOf returns the node that newNode stored in the entry.
func nodeOf(entry *registry.Node) *node { return entry.Data.(*node) }

// user returns the local user that runs the node.
func (n *node) user() *user { return n.usage.user.Load() }

// findUser asks the kernel for the node's user until it answers.
func (n *node) findUser() {
	for pause := minBackoff; ; pause = min(2*pause, maxBackoff) {
		select {
		case <-time.After(pause):
		case <-n.gone:
			return
		}
		uid, retry := n.env.users.uidOf(&n.heartbeat.socket)
		if uid != unknownUID {
			n.env.users.changeUser(n.usage, uid)
		}
		if !retry {
			return
		}
	}
}

// serveHeartbeat reads the heartbeat until it ends, and unregisters the node then.
func (n *node) serveHeartbeat() {
	c := n.heartbeat
	c.uncountClient()
	n.env.log.Info().Str("node", n.entry.Name).Uint16("port", n.entry.Port).Uint32("creation", n.entry.Creation()).
		Bool("handover", n.entry.TakesHandovers()).Msg("registered")
	err := c.setDeadline(time.Time{})
	for err == nil {
		err = n.readHeartbeat()
	}
	switch {
	case errors.Is(err, errFrozen):
		n.env.upgrade.keepHeartbeat(n.entry, c)
	case isAny(err, io.EOF, io.ErrUnexpectedEOF, unix.ECONNRESET, os.ErrClosed): // the usual end
		n.unregister(errGone, err.Error())
	default:
		n.user().log.Warn().Str("node", n.entry.Name).Stringer("uid", n.user()).Err(err).Msg("heartbeat broken, unregistering the node")
		n.unregister(err, err.Error())
	}
}

// readHeartbeat waits for the node's answer to 'h'. It may be called again after a
// nil error.
func (n *node) readHeartbeat() error {
	if n.partial.Len() == 0 {
		var first [1]byte
		if _, err := n.heartbeat.Read(first[:]); err != nil {
			return err
		}
		n.partial.Write(first[:])
	}
	n.mu.Lock()
	asked := n.asked
	n.mu.Unlock()
	if !asked {
		return errUnasked
	}
	// An answer that has begun must be complete within the timeout.
	if err := n.heartbeat.setReadDeadline(time.Now().Add(n.env.timeout)); err != nil {
		return err
	}
	before := bytes.NewReader(bytes.Clone(n.partial.Bytes()))
	name, err := epmdproto.ReadHandoverSocket(io.MultiReader(before, io.TeeReader(n.heartbeat, &n.partial)))
	if err != nil && !errors.Is(err, epmdproto.ErrSocketName) {
		return err
	}
	n.partial.Reset()
	n.mu.Lock()
	n.asked = false
	n.answers <- socketAnswer{name, err} // has room: one question, one answer
	n.mu.Unlock()
	return n.heartbeat.setReadDeadline(time.Time{})
}

// unregister removes the node's name, ends the handovers to it with err, and closes its
// heartbeat. It may be called more than once and by any goroutine.
func (n *node) unregister(err error, reason string) {
	n.env.names.Unregister(n.entry)
	if !n.markGone(err) {
		return
	}
	n.env.users.removeUsage(n.usage)
	n.heartbeat.hangUp()
	n.env.log.Info().Str("node", n.entry.Name).Str("reason", reason).Msg("unregistered")
}

// markGone closes n.gone, which ends the handovers that wait for a slot or for a channel,
// with err. It breaks the open channel, which ends those that were passed. It returns
// false if it was called before.
func (n *node) markGone(err error) bool {
	n.mu.Lock()
	first := n.goneErr == nil
	if first {
		n.goneErr = err
	}
	open := n.channel
	n.channel = nil
	n.mu.Unlock()
	if !first {
		return false
	}
	close(n.gone)
	if open != nil {
		open.breakOff(err)
	}
	return true
}

// acquireSlot waits for a slot until the deadline, see slots.acquire.
func (n *node) acquireSlot(deadline <-chan time.Time) error {
	err := n.env.slots.acquire(&n.usage.queue, n.gone, deadline)
	if err == errGone {
		return n.goneErr
	}
	return err
}

// acquireSlotNow is like acquireSlot but never waits. It reports whether it got a slot.
func (n *node) acquireSlotNow() bool { return n.env.slots.acquireNow(&n.usage.queue) }

// releaseSlot gives back the slot of a connection that was not passed.
func (n *node) releaseSlot() { n.env.slots.releaseSlot(&n.usage.queue) }

// sendPass sends p over the node's channel. If the channel turns out to be broken it
// tries once more, over a new one. See channel.send for the error.
func (n *node) sendPass(p *pass, deadline <-chan time.Time) error {
	sendFD := func(c *net.UnixConn, msg []byte, fd int) error { return fdpass.Send(c, msg, fd, p.deadline) }
	var err error
	for range 2 {
		var ch *channel
		if ch, err = n.openChannel(deadline); err != nil {
			return err
		}
		if err = ch.send(p, sendFD); err == nil || !isBrokenChannel(err) {
			return err
		}
		ch.breakOff(err)
	}
	return err
}

// openChannelNow returns the node's open channel, or nil.
func (n *node) openChannelNow() *channel {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.channel
}

// openChannel returns the node's open channel, or opens one. It waits until the
// deadline at most; the attempt goes on for handovers that have more time.
func (n *node) openChannel(deadline <-chan time.Time) (*channel, error) {
	n.mu.Lock()
	if n.channel != nil || n.goneErr != nil {
		defer n.mu.Unlock()
		return n.channel, n.goneErr
	}
	attempt := n.opening
	if attempt == nil {
		attempt = &opening{done: make(chan struct{})}
		n.opening = attempt
		n.env.tasks.Go(func() { n.runOpening(attempt) })
	}
	n.mu.Unlock()
	select {
	case <-attempt.done:
		return attempt.channel, attempt.err
	case <-n.gone:
		return nil, n.goneErr
	case <-deadline:
		return nil, errNoAnswer
	}
}

// runOpening opens a channel for all handovers that wait for it.
func (n *node) runOpening(o *opening) {
	conn, err := n.connect()
	n.mu.Lock()
	goneErr := n.goneErr
	if err == nil && goneErr != nil {
		_ = conn.Close()
		err = goneErr
	}
	if o.err = err; err == nil {
		o.channel = n.newChannel(conn)
		n.channel = o.channel
		n.env.tasks.Go(o.channel.readAcks)
	}
	n.opening = nil
	// Any peer can cause this, so it is not logged every time.
	log := err != nil && !isAny(err, errGone, goneErr) && time.Since(n.logged) > logEvery
	if log {
		n.logged = time.Now()
	}
	n.mu.Unlock()
	close(o.done)
	if log {
		n.user().log.Warn().Err(err).Str("node", n.entry.Name).Stringer("uid", n.user()).Msg("cannot open a channel to the node")
	}
}

func (n *node) newChannel(conn *net.UnixConn) *channel {
	return newChannel(channelEnv{
		nodeName: n.entry.Name, usage: n.usage, slots: n.env.slots, tasks: n.env.tasks,
		passDone: func(p *pass, err error) { n.env.passDone(n.entry.Name, p, err) },
		removed:  n.removeChannel,
	}, conn)
}

// removeChannel makes the next handover open a new channel.
func (n *node) removeChannel(ch *channel) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.channel == ch {
		n.channel = nil
	}
}

// connect asks the node for a socket and connects to it.
func (n *node) connect() (*net.UnixConn, error) {
	deadline := time.Now().Add(n.env.timeout)
	name, err := n.askSocket(time.Until(deadline))
	if err != nil {
		return nil, err
	}
	uid, err := n.env.users.peerUID(&n.heartbeat.socket)
	if err != nil {
		return nil, fmt.Errorf("epmd: finding the node's user: %w", err)
	}
	return n.dialSocket(name, uid, deadline)
}

// askSocket sends 'h' on the heartbeat and waits for the answer. If an earlier 'h'
// is unanswered, it waits for the answer to that one.
func (n *node) askSocket(timeout time.Duration) (string, error) {
	if err := n.sendAsk(timeout); err != nil {
		return "", err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case a := <-n.answers:
		if a.err == nil && a.name == "" {
			return "", errNoSocket
		}
		return a.name, a.err
	case <-n.gone:
		return "", n.goneErr
	case <-timer.C:
		return "", errNoAnswer
	}
}

// sendAsk sends 'h' on the heartbeat. It is a no-op if an earlier 'h' is unanswered. It
// discards the answer to an 'h' whose attempt no longer waited when the answer came.
func (n *node) sendAsk(timeout time.Duration) error {
	n.mu.Lock()
	before := n.asked
	n.asked = true
	if !before {
		select {
		case <-n.answers:
		default:
		}
	}
	n.mu.Unlock()
	if before {
		return nil
	}
	n.writeMu.Lock()
	defer n.writeMu.Unlock()
	err := n.heartbeat.file.SetWriteDeadline(time.Now().Add(timeout))
	if err == nil {
		err = n.heartbeat.writePolled(epmdproto.HandoverAsk)
	}
	if err != nil {
		return fmt.Errorf("epmd: asking the node for its socket: %w", err)
	}
	return nil
}

// dialSocket connects to the node's abstract socket and checks that uid listens
// there. It retries until the deadline while the backlog is full.
func (n *node) dialSocket(name string, uid uint32, deadline time.Time) (*net.UnixConn, error) {
	conn, err := n.dialRetrying(name, deadline)
	if err != nil {
		return nil, err
	}
	cred, err := peercred.Unix(conn)
	if err == nil && cred.UID != uid {
		err = fmt.Errorf("%w: uid %d listens on %s, the node is uid %d", errUntrusted, cred.UID, name, uid)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func (n *node) dialRetrying(name string, deadline time.Time) (*net.UnixConn, error) {
	for pause := minRetry; ; pause = min(2*pause, maxRetry) {
		conn, err := fdpass.Dial(name)
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			return nil, fmt.Errorf("epmd: connecting to the node's socket: %w", err)
		}
		if time.Until(deadline) < pause {
			return nil, fmt.Errorf("%w: the backlog of %s stays full", errNoAnswer, name)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-n.gone:
			return nil, n.goneErr
		}
	}
}

// The states of the channel to a node.
const (
	channelOpen    = "open"
	channelOpening = "opening"
	channelNone    = "none"
)

func (n *node) status() status.Node {
	st := status.Node{
		Name: n.entry.Name, Port: n.entry.Port, Creation: n.entry.Creation(),
		Handover: n.entry.TakesHandovers(), Channel: channelNone,
	}
	n.mu.Lock()
	switch {
	case n.channel != nil:
		st.Channel = channelOpen
	case n.opening != nil:
		st.Channel = channelOpening
	}
	n.mu.Unlock()
	st.Unread, st.Queued = n.env.slots.queueStatus(&n.usage.queue)
	return st
}

// state describes the node for a successor. If the server is frozen, nothing changes
// n.asked and n.partial any more, so they are read without a lock. With trial, they are
// left out, because the node is still served.
func (n *node) state(fd int, trial bool) NodeState {
	st := NodeState{Record: n.entry.Record(), FD: fd, Peer: n.heartbeat.peer}
	if uid := n.user().uid; uid != unknownUID { // else the successor asks again
		st.UID = &uid
	}
	if !trial {
		st.Asked, st.Said = n.asked, n.partial.Bytes()
	}
	return st
}
