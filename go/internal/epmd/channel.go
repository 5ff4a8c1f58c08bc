package epmd

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
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
	lastID  uint64
	waiting map[uint64]*pass
}

// pass is one connection on its way.
type pass struct {
	done chan error // room for one: nil, or why the connection is not the node's
	late bool       // nobody waits for done any more
}

// resultError is a node's refusal of a connection that it was passed. The node
// has told the initiator.
type resultError struct{ result epmdproto.Result }

func (e resultError) Error() string { return "epmd: the node answered " + e.result.String() }

func newChannel(n *node, conn *net.UnixConn) *channel {
	return &channel{node: n, conn: conn, waiting: make(map[uint64]*pass)}
}

// send passes c. A nil error says that the node has it or will: wait for that
// with await. After any other error the connection is still ours.
func (ch *channel) send(c *conn, deadline time.Time) (id uint64, p *pass, err error) {
	p = &pass{done: make(chan error, 1)}
	ch.mu.Lock()
	if ch.broken != nil {
		ch.mu.Unlock()
		return 0, nil, ch.broken
	}
	ch.lastID++
	id = ch.lastID
	ch.waiting[id] = p
	ch.mu.Unlock()
	if err = ch.sendFD(c, id, deadline); err != nil {
		ch.mu.Lock()
		delete(ch.waiting, id)
		ch.mu.Unlock()
	}
	return id, p, err
}

func (ch *channel) sendFD(c *conn, id uint64, deadline time.Time) error {
	var buf [epmdproto.MaxPass]byte
	msg, err := epmdproto.AppendPass(buf[:0], epmdproto.Passed{ID: id, Peer: c.peer})
	if err != nil {
		return err
	}
	return c.control(func(fd int) error { return fdpass.Send(ch.conn, msg, fd, deadline) })
}

// await waits for the ACK of what send sent, until the deadline.
func (ch *channel) await(id uint64, p *pass, deadline <-chan time.Time) error {
	select {
	case err := <-p.done:
		ch.node.s.gate.done(ch.node)
		return err
	case <-deadline:
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.waiting[id] != p { // the word came this very moment
		ch.node.s.gate.done(ch.node)
		return <-p.done
	}
	p.late = true
	ch.node.s.gate.late(ch.node)
	return errLate
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
			ch.node.s.o.Log.Warn().Err(err).Str("node", ch.node.entry.Name).Msg("closing the channel to the node")
			ch.breakOff(fmt.Errorf("%w: %w", errBroken, err))
			return
		}
	}
}

func (ch *channel) settle(ack epmdproto.Ack) error {
	ch.mu.Lock()
	p := ch.waiting[ack.ID]
	delete(ch.waiting, ack.ID)
	ch.mu.Unlock()
	switch {
	case p == nil:
		return fmt.Errorf("%w: ACK of %d, which is not on its way", epmdproto.ErrMessage, ack.ID)
	case ack.Result != epmdproto.OK:
		ch.finish(p, resultError{ack.Result})
	default:
		ch.finish(p, nil)
	}
	return nil
}

// finish is called once a pass, after it was taken out of waiting.
func (ch *channel) finish(p *pass, err error) {
	if p.late {
		ch.node.s.gate.settled(ch.node)
		return
	}
	p.done <- err
}

// breakOff ends the channel and everything that waits for it. The first reason
// stays.
func (ch *channel) breakOff(why error) {
	ch.node.forget(ch)
	ch.mu.Lock()
	if ch.broken == nil {
		ch.broken = why
	}
	waiting := ch.waiting
	ch.waiting = make(map[uint64]*pass)
	ch.mu.Unlock()
	_ = ch.conn.Close()
	for _, p := range waiting {
		ch.finish(p, ch.broken)
	}
}

// forget makes the next handover open a new channel.
func (n *node) forget(ch *channel) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.channel == ch {
		n.channel = nil
	}
}
