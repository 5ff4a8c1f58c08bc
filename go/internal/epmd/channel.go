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

// errBroken: the channel ended before the ACK. The node may have the connection or not.
var errBroken = errors.New("epmd: the channel to the node broke before its ACK")

// errLate: EPMD passed the connection to the node, which did not acknowledge it in time.
var errLate = errors.New("epmd: no ACK in time")

// channel is an open Unix connection to a node. It serves many handovers at once.
type channel struct {
	channelEnv
	conn *net.UnixConn

	mu       sync.Mutex
	broken   error // not nil: nothing can be passed any more
	unread   int   // of a broken channel: possibly unread passes, whose slots closeIfRead gives back
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
	usage    *usage
	slots    *slots
	tasks    *tasks
	// passDone is called once for each pass that was sent: at the ACK with the node's
	// answer, or with the reason why EPMD no longer waits for the ACK.
	passDone func(p *pass, err error)
	// removed is called when the channel breaks, perhaps more than once.
	removed func(*channel)
}

// pass is a connection that is sent to a node and is not acknowledged yet. It owns
// the connection, which is closed at the ACK or the deadline.
type pass struct {
	conn            *conn
	start, deadline time.Time
	sending         bool  // send is running; until it returns, only finishSend may end the pass
	acked           bool  // the ACK came while sending was set; finishSend handles it
	answer          error // of that ACK: nil, or the node's refusal
	late            bool  // passDone was called at the deadline, but the pass is possibly unread
}

// resultError is a node's refusal of a connection that EPMD passed to it. The node has
// sent it to the initiator.
type resultError struct{ result epmdproto.Result }

func (e resultError) Error() string { return "epmd: the node answered " + e.result.String() }

func newChannel(o channelEnv, conn *net.UnixConn) *channel {
	ch := &channel{channelEnv: o, conn: conn, inFlight: make(map[uint64]*pass)}
	ch.timer = time.AfterFunc(time.Hour, ch.expire)
	ch.timer.Stop()
	return ch
}

// send passes p's connection by means of sendFD. After a nil error the node has the
// connection, or will have it, and p owns it: passDone is called later. After any other
// error the caller still owns the connection.
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
	return ch.finishSend(id, p, err)
}

// finishSend handles the ACK, or the end of the channel, if that came during the send. Such
// events leave a pass that is being sent alone, because only the caller of send knows
// whether the connection was passed at all.
func (ch *channel) finishSend(id uint64, p *pass, err error) error {
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
		ch.finishUnread(p, reason)
	case err == nil && over:
		ch.finishRead(p, reason)
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
		ch.finishUnread(p, errLate)
	}
	if late != nil {
		o := ch.usage.user.Load()
		unread, ofUser := ch.slots.unreadOf(&ch.usage.queue)
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
			o := ch.usage.user.Load()
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
	// Before inFlight is read: a pass is in inFlight before it is sent, so inFlight then has
	// every pass that is counted as unread here.
	unread := unreadMessages(ch.conn)
	ch.mu.Lock()
	p := ch.inFlight[ack.ID]
	if p == nil {
		ch.mu.Unlock()
		return fmt.Errorf("%w: ACK of %d, which is not in flight", epmdproto.ErrMessage, ack.ID)
	}
	if unread >= len(ch.inFlight) { // not even one of those in flight was read
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
		ch.finishRead(p, answer)
	}
	return nil
}

// finishUnread ends a pass that is possibly unread: it keeps its slot.
func (ch *channel) finishUnread(p *pass, err error) {
	ch.slots.stopAckWait(&ch.usage.queue)
	ch.passDone(p, err)
}

// finishRead ends a pass that the node has read. p must not be in inFlight any more. It
// is called once for each pass that the node reads.
func (ch *channel) finishRead(p *pass, err error) {
	if p.late {
		ch.slots.releaseUnread(&ch.usage.queue, 1)
		return
	}
	ch.slots.releaseSlot(&ch.usage.queue)
	ch.passDone(p, err)
}

// breakOff ends the channel and its passes, except those that are being sent, which
// finishSend ends. If it is called again, it keeps the first reason.
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
			ch.finishUnread(p, ch.broken)
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
	ch.slots.releaseUnread(&ch.usage.queue, ch.unread)
	return true
}

// isBrokenChannel reports whether a failed send means that the channel is broken.
func isBrokenChannel(err error) bool {
	return isAny(err, errBroken, net.ErrClosed, unix.EPIPE, unix.ECONNRESET, unix.ENOTCONN)
}
