package epmd

import (
	"errors"
	"fmt"
	"net"
	"time"

	"handover/go/internal/epmdproto"
)

// Why there is no channel to a node.
var (
	errGone     = errors.New("epmd: the node has left")
	errNoAnswer = errors.New("epmd: the node did not answer in time")
	errNoSocket = errors.New("epmd: the node can open no socket at the moment")
)

// opening is one attempt to open a channel, for all who wait for it. The last
// two are set when done is closed.
type opening struct {
	done    chan struct{}
	channel *channel
	err     error
}

// openNow returns the node's open channel, or nil.
func (n *node) openNow() *channel {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.channel
}

// openChannel returns the node's open channel, or opens one. It waits until the
// deadline at most; the attempt goes on for those who have more time.
func (n *node) openChannel(deadline <-chan time.Time) (*channel, error) {
	n.mu.Lock()
	if n.channel != nil || n.left != nil {
		defer n.mu.Unlock()
		return n.channel, n.left
	}
	attempt := n.opening
	if attempt == nil {
		attempt = &opening{done: make(chan struct{})}
		n.opening = attempt
		n.s.wg.Go(func() { n.attempt(attempt) })
	}
	n.mu.Unlock()
	select {
	case <-attempt.done:
		return attempt.channel, attempt.err
	case <-n.gone:
		return nil, n.left
	case <-deadline:
		return nil, errNoAnswer
	}
}

// attempt opens a channel and tells all who wait for it.
func (n *node) attempt(o *opening) {
	conn, err := n.bring()
	n.mu.Lock()
	left := n.left
	if err == nil && left != nil {
		_ = conn.Close()
		err = left
	}
	if o.err = err; err == nil {
		o.channel = newChannel(n, conn)
		n.channel = o.channel
		n.s.wg.Go(o.channel.readAcks)
	}
	n.opening = nil
	// Anybody who asks for the node comes here: a line now and then is enough.
	say := err != nil && !isAny(err, errGone, left) && time.Since(n.logged) > logEvery
	if say {
		n.logged = time.Now()
	}
	n.mu.Unlock()
	close(o.done)
	if say {
		n.user().log.Warn().Err(err).Str("node", n.entry.Name).Stringer("uid", n.user()).Msg("no way to bring connections to the node")
	}
}

// bring asks the node for a socket and connects to it.
func (n *node) bring() (*net.UnixConn, error) {
	deadline := time.Now().Add(n.s.o.HandoverTimeout)
	name, err := n.askSocket(time.Until(deadline))
	if err != nil {
		return nil, err
	}
	local, err := n.heartbeat.local()
	if err != nil {
		return nil, err
	}
	uid, err := n.s.owner(n.heartbeat.peer, local)
	if err != nil {
		return nil, fmt.Errorf("epmd: who the node is: %w", err)
	}
	return dialSocket(name, uid, deadline, n)
}

// askSocket sends 'h' on the heartbeat and waits for the answer. Where an earlier
// 'h' is unanswered, it waits for the answer to that one.
func (n *node) askSocket(patience time.Duration) (string, error) {
	if err := n.ask(patience); err != nil {
		return "", err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case a := <-n.answers:
		if a.err == nil && a.name == "" {
			return "", errNoSocket
		}
		return a.name, a.err
	case <-n.gone:
		return "", n.left
	case <-timer.C:
		return "", errNoAnswer
	}
}

func (n *node) ask(patience time.Duration) error {
	n.mu.Lock()
	before := n.asked
	n.asked = true
	if !before {
		select {
		case <-n.answers: // came too late, for somebody else
		default:
		}
	}
	n.mu.Unlock()
	if before {
		return nil
	}
	n.writing.Lock()
	defer n.writing.Unlock()
	err := n.heartbeat.file.SetWriteDeadline(time.Now().Add(patience))
	if err == nil {
		err = n.heartbeat.write(epmdproto.HandoverAsk)
	}
	if err != nil {
		return fmt.Errorf("epmd: asking the node: %w", err)
	}
	return nil
}
