package epmd

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"handover/go/internal/epmdproto"
)

// errBroken: the channel ended; whether the node has the connection is unknown.
var errBroken = errors.New("epmd: the channel to the node broke before its ACK")

// errLate: the node has the connection and did not say so in time.
var errLate = errors.New("epmd: no ACK in time")

// channel is an open Unix connection to a node. It serves many handovers at once.
type channel struct {
	node *node
	conn *net.UnixConn

	mu      sync.Mutex
	broken  error // set: nothing can be passed any more
	unread  int   // of a broken channel: places of the gate that closeRead gives back
	closed  bool  // the connection is
	lastID  uint64
	waiting map[uint64]*pass
	timer   *time.Timer // calls expire, at next or not at all
	next    time.Time   // zero: not at all
}

// pass is one connection on its way, which is its owner: it closes it when the
// node's word came, or the deadline.
type pass struct {
	conn            *conn
	start, deadline time.Time
	sending         bool  // the sender's still: nobody else may end it
	acked           bool  // meanwhile, with word
	word            error // nil, or the node's refusal
	late            bool  // ended, but perhaps unread by the node
}

// resultError is a node's refusal of a connection that it was passed. The node
// has told the initiator.
type resultError struct{ result epmdproto.Result }

func (e resultError) Error() string { return "epmd: the node answered " + e.result.String() }

func newChannel(n *node, conn *net.UnixConn) *channel {
	ch := &channel{node: n, conn: conn, waiting: make(map[uint64]*pass)}
	ch.timer = time.AfterFunc(time.Hour, ch.expire)
	ch.timer.Stop()
	return ch
}

// send passes p's connection by send's means. A nil error says that the node has
// it or will, and that p goes on by itself. After any other error the connection
// is still the caller's.
func (ch *channel) send(p *pass, by func(c *net.UnixConn, msg []byte, fd int) error) error {
	ch.mu.Lock()
	if ch.broken != nil {
		defer ch.mu.Unlock()
		return ch.broken
	}
	ch.lastID++
	id := ch.lastID
	p.sending = true
	ch.waiting[id] = p
	ch.mu.Unlock()

	var buf [epmdproto.MaxPass]byte
	msg, err := epmdproto.AppendPass(buf[:0], epmdproto.Passed{ID: id, Peer: p.conn.peer})
	if err == nil {
		err = p.conn.control(func(fd int) error { return by(ch.conn, msg, fd) })
	}
	return ch.sent(id, p, err)
}

// sent does what became due during the send.
func (ch *channel) sent(id uint64, p *pass, err error) error {
	ch.mu.Lock()
	p.sending = false
	over, why := p.acked, p.word
	unread := !over && ch.broken != nil && !ch.closed && err == nil
	if !over && ch.broken != nil {
		over, why = true, ch.broken
	}
	if err != nil || over {
		delete(ch.waiting, id)
	} else {
		ch.expect(p.deadline)
	}
	if unread {
		ch.unread++
	}
	ch.mu.Unlock()
	switch {
	case unread:
		ch.giveUp(p, why)
	case err == nil && over:
		ch.finish(p, why)
	}
	return err
}

// expect sees to it that expire is called by then. ch.mu is held.
func (ch *channel) expect(deadline time.Time) {
	if ch.next.IsZero() || deadline.Before(ch.next) {
		ch.next = deadline
		ch.timer.Reset(time.Until(deadline))
	}
}

// expire ends what has waited for its ACK until its deadline. The timer is not
// stopped by each ACK, which would cost more than to come here in vain.
func (ch *channel) expire() {
	now := time.Now()
	var late []*pass
	ch.mu.Lock()
	ch.next = time.Time{}
	for _, p := range ch.waiting {
		switch {
		case p.sending || p.late:
		case p.deadline.After(now):
			ch.expect(p.deadline)
		default:
			p.late = true
			late = append(late, p)
		}
	}
	ch.mu.Unlock()
	for _, p := range late {
		ch.giveUp(p, errLate)
	}
	if n := ch.node; late != nil {
		unread, ofUser := n.s.gate.unreadOf(&n.line)
		n.user().rarely.Warn().Str("node", n.entry.Name).Stringer("uid", n.user()).Int("unread", unread).Int("unread_of_uid", ofUser).
			Msg("the node does not read the connections that it was passed; they count against its user until it does or ends (is it stopped?)")
	}
}

// readAcks reads the node's words until the channel ends.
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
			err = ch.settle(ack)
		}
		if err != nil {
			ch.node.user().log.Warn().Err(err).Str("node", ch.node.entry.Name).Stringer("uid", ch.node.user()).Msg("closing the channel to the node")
			ch.breakOff(fmt.Errorf("%w: %w", errBroken, err))
			return
		}
	}
}

func (ch *channel) settle(ack epmdproto.Ack) error {
	var word error
	if ack.Result != epmdproto.OK {
		word = resultError{ack.Result}
	}
	unread := unreadMessages(ch.conn) // before waiting is looked at, which then has them all
	ch.mu.Lock()
	p := ch.waiting[ack.ID]
	if p == nil {
		ch.mu.Unlock()
		return fmt.Errorf("%w: ACK of %d, which is not on its way", epmdproto.ErrMessage, ack.ID)
	}
	if unread >= len(ch.waiting) {
		ch.mu.Unlock()
		return fmt.Errorf("%w: ACK of %d, which the node has not read", epmdproto.ErrMessage, ack.ID)
	}
	delete(ch.waiting, ack.ID)
	sending := p.sending
	if sending {
		p.acked, p.word = true, word
	}
	ch.mu.Unlock()
	if !sending {
		ch.finish(p, word)
	}
	return nil
}

// giveUp ends a pass that the node may not have read: its place is not free yet.
func (ch *channel) giveUp(p *pass, err error) {
	ch.node.s.gate.late(ch.node)
	ch.node.ended(p, err)
}

// finish is called once a pass that the node has read, after it was taken out of
// waiting.
func (ch *channel) finish(p *pass, err error) {
	if p.late {
		ch.node.s.gate.settled(ch.node, 1)
		return
	}
	ch.node.s.gate.done(ch.node)
	ch.node.ended(p, err)
}

// breakOff ends the channel and everything that waits for it. The first reason
// stays.
func (ch *channel) breakOff(why error) {
	ch.node.forget(ch)
	ch.mu.Lock()
	first := ch.broken == nil
	if first {
		ch.broken = why
	}
	var waiting []*pass
	for id, p := range ch.waiting {
		if !p.sending {
			delete(ch.waiting, id)
			waiting = append(waiting, p)
		}
	}
	ch.unread += len(waiting)
	ch.timer.Stop()
	ch.mu.Unlock()
	for _, p := range waiting {
		if !p.late {
			ch.giveUp(p, ch.broken)
		}
	}
	if first && !ch.closeRead(false) {
		_, _ = ch.conn.CloseRead(), ch.conn.CloseWrite()
		ch.node.s.wg.Go(ch.linger)
	}
}

// lingerEvery is how often a broken channel is looked at until all is read.
const lingerEvery = 100 * time.Millisecond

// linger keeps a broken channel until the node has read what lies there or has
// closed its end: until then the kernel counts it, and so must the gate. Only the
// end of the server is not waited for.
func (ch *channel) linger() {
	tick := time.NewTicker(lingerEvery)
	defer tick.Stop()
	for ended := false; !ch.closeRead(ended); {
		select {
		case <-tick.C:
		case <-ch.node.s.end:
			ended = true
		}
	}
}

// closeRead closes a broken channel and gives its places back, if nothing of what
// was sent is unread, or in any case. It reports whether the channel is closed.
func (ch *channel) closeRead(anyway bool) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if !anyway && (len(ch.waiting) > 0 || unreadMessages(ch.conn) > 0) {
		return false
	}
	ch.closed = true
	_ = ch.conn.Close()
	ch.node.s.gate.settled(ch.node, ch.unread)
	return true
}

// forget makes the next handover open a new channel.
func (n *node) forget(ch *channel) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.channel == ch {
		n.channel = nil
	}
}
