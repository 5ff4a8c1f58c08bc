package epmd

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
)

// errBroken: the channel ended; whether the node has the connection is unknown.
var errBroken = errors.New("epmd: the channel to the node broke before its ACK")

// errLate: the node was passed the connection and did not acknowledge it in time.
var errLate = errors.New("epmd: no ACK in time")

// channel is an open Unix connection to a node. It serves many handovers at once.
type channel struct {
	channelEnv
	conn *net.UnixConn

	mu       sync.Mutex
	broken   error // not nil: nothing can be passed any more
	unread   int   // of a broken channel: slots that closeIfRead gives back
	closed   bool  // conn is closed
	lastID   uint64
	inFlight map[uint64]*pass
	timer    *time.Timer // calls expire at nextExpiry
	// nextExpiry is zero if the timer is stopped.
	nextExpiry time.Time
}

// channelEnv is what a channel knows of its node.
type channelEnv struct {
	nodeName string
	account  *account
	slots    *slots
	tasks    *tasks
	// passDone is called once for each pass that was sent: at the ACK with the node's
	// answer, or with the reason why EPMD waits for the ACK no longer.
	passDone func(p *pass, err error)
	// removed is called when the channel breaks, perhaps more than once.
	removed func(*channel)
}

// pass is a connection that is sent to a node and is not acknowledged yet. It owns
// the connection, which is closed at the ACK or the deadline.
type pass struct {
	conn            *conn
	start, deadline time.Time
	sending         bool  // during send, which is the only one that may end the pass
	acked           bool  // during sending, with answer
	answer          error // nil, or the node's refusal
	late            bool  // ended, but perhaps not read by the node
}

// resultError is a node's refusal of a connection that it was passed. The node
// has told the initiator.
type resultError struct{ result epmdproto.Result }

func (e resultError) Error() string { return "epmd: the node answered " + e.result.String() }

func newChannel(o channelEnv, conn *net.UnixConn) *channel {
	ch := &channel{channelEnv: o, conn: conn, inFlight: make(map[uint64]*pass)}
	ch.timer = time.AfterFunc(time.Hour, ch.expire)
	ch.timer.Stop()
	return ch
}

// send passes p's connection by means of sendFD. After a nil error the node has the
// connection, or will have it, and p ends by itself. After any other error the
// connection is still the caller's.
func (ch *channel) send(p *pass, sendFD func(c *net.UnixConn, msg []byte, fd int) error) error {
	ch.mu.Lock()
	if ch.broken != nil {
		defer ch.mu.Unlock()
		return ch.broken
	}
	ch.lastID++
	id := ch.lastID
	p.sending = true
	ch.inFlight[id] = p
	ch.mu.Unlock()

	var buf [epmdproto.MaxPass]byte
	msg, err := epmdproto.AppendPass(buf[:0], epmdproto.Passed{ID: id, Peer: p.conn.peer})
	if err == nil {
		err = p.conn.control(func(fd int) error { return sendFD(ch.conn, msg, fd) })
	}
	return ch.endSend(id, p, err)
}

// endSend does what became due during the send.
func (ch *channel) endSend(id uint64, p *pass, err error) error {
	ch.mu.Lock()
	p.sending = false
	over, reason := p.acked, p.answer
	unread := !over && ch.broken != nil && !ch.closed && err == nil
	if !over && ch.broken != nil {
		over, reason = true, ch.broken
	}
	if err != nil || over {
		delete(ch.inFlight, id)
	} else {
		ch.expireAtLocked(p.deadline)
	}
	if unread {
		ch.unread++
	}
	ch.mu.Unlock()
	switch {
	case unread:
		ch.endUnread(p, reason)
	case err == nil && over:
		ch.endRead(p, reason)
	}
	return err
}

// expireAtLocked makes the timer call expire at the deadline or earlier. ch.mu must be
// held.
func (ch *channel) expireAtLocked(deadline time.Time) {
	if ch.nextExpiry.IsZero() || deadline.Before(ch.nextExpiry) {
		ch.nextExpiry = deadline
		ch.timer.Reset(time.Until(deadline))
	}
}

// expire ends the passes whose deadline has come. An ACK does not stop the timer,
// which would cost more than to call expire in vain.
func (ch *channel) expire() {
	now := time.Now()
	var late []*pass
	ch.mu.Lock()
	ch.nextExpiry = time.Time{}
	for _, p := range ch.inFlight {
		switch {
		case p.sending || p.late:
		case p.deadline.After(now):
			ch.expireAtLocked(p.deadline)
		default:
			p.late = true
			late = append(late, p)
		}
	}
	ch.mu.Unlock()
	for _, p := range late {
		ch.endUnread(p, errLate)
	}
	if late != nil {
		o := ch.account.owner.Load()
		unread, ofUser := ch.slots.unreadOf(&ch.account.queue)
		o.slowLog.Warn().Str("node", ch.nodeName).Stringer("uid", o).Int("unread", unread).Int("unread_of_uid", ofUser).
			Msg("the node does not read the connections that it was passed; they count against its user until it does or ends (is it stopped?)")
	}
}

// readAcks reads the node's answers until the channel ends.
func (ch *channel) readAcks() {
	var buf [epmdproto.AckSize + 1]byte
	for {
		n, err := ch.conn.Read(buf[:])
		if err != nil {
			ch.breakOff(fmt.Errorf("%w: %w", errBroken, err))
			return
		}
		ack, err := epmdproto.ParseAck(buf[:n])
		if err == nil {
			err = ch.handleAck(ack)
		}
		if err != nil {
			o := ch.account.owner.Load()
			o.log.Warn().Err(err).Str("node", ch.nodeName).Stringer("uid", o).Msg("closing the channel to the node")
			ch.breakOff(fmt.Errorf("%w: %w", errBroken, err))
			return
		}
	}
}

func (ch *channel) handleAck(ack epmdproto.Ack) error {
	var answer error
	if ack.Result != epmdproto.OK {
		answer = resultError{ack.Result}
	}
	unread := unreadMessages(ch.conn) // before inFlight is read, which then has them all
	ch.mu.Lock()
	p := ch.inFlight[ack.ID]
	if p == nil {
		ch.mu.Unlock()
		return fmt.Errorf("%w: ACK of %d, which is not in flight", epmdproto.ErrMessage, ack.ID)
	}
	if unread >= len(ch.inFlight) {
		ch.mu.Unlock()
		return fmt.Errorf("%w: ACK of %d, which the node has not read", epmdproto.ErrMessage, ack.ID)
	}
	delete(ch.inFlight, ack.ID)
	sending := p.sending
	if sending {
		p.acked, p.answer = true, answer
	}
	ch.mu.Unlock()
	if !sending {
		ch.endRead(p, answer)
	}
	return nil
}

// endUnread ends a pass that the node may not have read: its slot is not free yet.
func (ch *channel) endUnread(p *pass, err error) {
	ch.slots.releaseUnacked(&ch.account.queue)
	ch.passDone(p, err)
}

// endRead ends a pass that the node has read. p must not be in inFlight any more. It
// is called once for each pass that the node reads.
func (ch *channel) endRead(p *pass, err error) {
	if p.late {
		ch.slots.settle(&ch.account.queue, 1)
		return
	}
	ch.slots.releaseRead(&ch.account.queue)
	ch.passDone(p, err)
}

// breakOff ends the channel and its passes. If it is called again it keeps the first
// reason.
func (ch *channel) breakOff(reason error) {
	ch.removed(ch)
	ch.mu.Lock()
	first := ch.broken == nil
	if first {
		ch.broken = reason
	}
	var passes []*pass
	for id, p := range ch.inFlight {
		if !p.sending {
			delete(ch.inFlight, id)
			passes = append(passes, p)
		}
	}
	ch.unread += len(passes)
	ch.timer.Stop()
	ch.mu.Unlock()
	for _, p := range passes {
		if !p.late {
			ch.endUnread(p, ch.broken)
		}
	}
	if first && !ch.closeIfRead(false) {
		_, _ = ch.conn.CloseRead(), ch.conn.CloseWrite()
		ch.tasks.Go(ch.closeLater)
	}
}

// lingerEvery is how often closeLater looks whether everything was read.
const lingerEvery = 100 * time.Millisecond

// closeLater closes a broken channel when the node has read everything in it or has
// closed its end. Until then the kernel counts the passes, and so must the slots. It
// does not wait when the server ends.
func (ch *channel) closeLater() {
	tick := time.NewTicker(lingerEvery)
	defer tick.Stop()
	for ended := false; !ch.closeIfRead(ended); {
		select {
		case <-tick.C:
		case <-ch.tasks.end:
			ended = true
		}
	}
}

// closeIfRead closes a broken channel and gives its slots back, if the node has read
// everything that was sent, or if force is set. It reports whether it closed the
// channel.
func (ch *channel) closeIfRead(force bool) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if !force && (len(ch.inFlight) > 0 || unreadMessages(ch.conn) > 0) {
		return false
	}
	ch.closed = true
	_ = ch.conn.Close()
	ch.slots.settle(&ch.account.queue, ch.unread)
	return true
}

// isBrokenChannel reports whether a failed send means that the channel is broken.
func isBrokenChannel(err error) bool {
	return isAny(err, errBroken, net.ErrClosed, unix.EPIPE, unix.ECONNRESET, unix.ENOTCONN)
}
