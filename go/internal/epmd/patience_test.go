package epmd

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/testkit"
)

// short is a handover timeout for tests that wait until it expires.
const short = 1500 * time.Millisecond

// handOver brings one connection to a node whose channel is open.
func (ts *testServer) handOver(t *testing.T, name string, ch *fakeChannel) {
	t.Helper()
	c := ts.initiate(t, name)
	p, f := ch.take()
	ch.ack(p.ID, epmdproto.OK)
	if _, err := f.WriteString("hello"); err != nil {
		t.Error(err)
	}
	_ = f.Close()
	if got := readAll(t, c); got != "hello" {
		t.Errorf("%s: the initiator reads %q", name, got)
	}
}

// openNode registers a node and opens its channel with a first handover.
func (ts *testServer) openNode(t *testing.T, name string) (*fakeNode, *fakeChannel) {
	t.Helper()
	n := ts.node(t, name)
	c := ts.initiate(t, name)
	ch := n.open()
	p, f := ch.take()
	ch.ack(p.ID, epmdproto.OK)
	_ = f.Close()
	if got := readAll(t, c); got != "" {
		t.Errorf("%q", got)
	}
	return n, ch
}

// TestNeverAnswers: a node that does not answer 'h' is asked once, its initiators get
// their result in time, and handovers to other nodes do not wait. A late answer is used
// for the next handover.
func TestNeverAnswers(t *testing.T) {
	ts := start(t, Options{HandoverTimeout: short})
	silent := ts.node(t, "silent")
	var waiting []net.Conn
	for range 10 {
		waiting = append(waiting, ts.initiate(t, "silent"))
	}
	silent.asked()
	_, ch := ts.openNode(t, "other")
	ts.handOver(t, "other", ch)
	for _, c := range waiting {
		refused(t, c, epmdproto.NoAnswer)
	}
	ts.log.says(t, "did not answer in time")

	c := ts.initiate(t, "silent")
	refused(t, c, epmdproto.NoAnswer)
	_ = silent.heartbeat.SetReadDeadline(time.Now().Add(short / 3))
	if n, err := silent.heartbeat.Read(make([]byte, 1)); n != 0 || !os.IsTimeout(err) {
		t.Errorf("asked again before it answered: %d, %v", n, err)
	}
	_ = silent.heartbeat.SetReadDeadline(time.Now().Add(testkit.Patience))
	c = ts.initiate(t, "silent")
	reg := nodeOf(ts.names.Lookup([]byte("silent")))
	if !testkit.Within(func() bool { reg.mu.Lock(); defer reg.mu.Unlock(); return reg.opening != nil }) {
		t.Fatal("nobody waits for the answer")
	}
	silent.sendSocketName()
	ch = silent.accept()
	p, f := ch.take()
	ch.ack(p.ID, epmdproto.OK)
	_ = f.Close()
	if got := readAll(t, c); got != "" {
		t.Errorf("%q", got)
	}
}

// TestLateAnswer: an answer that comes when no handover waits is not used as the answer
// to the next 'h'.
func TestLateAnswer(t *testing.T) {
	ts := start(t, Options{HandoverTimeout: short})
	n := ts.node(t, "n")
	refused(t, ts.initiate(t, "n"), epmdproto.NoAnswer)
	n.asked()
	send(t, n.heartbeat, []byte("\x00\x02/x"))
	reg := nodeOf(ts.names.Lookup([]byte("n")))
	if !testkit.Within(func() bool { reg.mu.Lock(); defer reg.mu.Unlock(); return !reg.asked }) {
		t.Fatal("the late answer was not read")
	}
	c := ts.initiate(t, "n")
	ch := n.open()
	p, f := ch.take()
	ch.ack(p.ID, epmdproto.OK)
	_ = f.Close()
	if got := readAll(t, c); got != "" {
		t.Errorf("%q", got)
	}
}

// TestHalfAnAnswer: an answer that has begun must be complete by the timeout.
func TestHalfAnAnswer(t *testing.T) {
	ts := start(t, Options{HandoverTimeout: short})
	n := ts.node(t, "n")
	c := ts.initiate(t, "n")
	n.asked()
	send(t, n.heartbeat, []byte{0})
	refused(t, c, epmdproto.NoAnswer)
	if got := readAll(t, n.heartbeat); got != "" {
		t.Errorf("%q", got)
	}
	ts.log.says(t, "heartbeat broken")
}

// inLine waits until a node has the given numbers of unread connections and of
// handovers that wait for a slot.
func (ts *testServer) inLine(t *testing.T, name string, unread, queued int) {
	t.Helper()
	queue := &nodeOf(ts.names.Lookup([]byte(name))).usage.queue
	if !testkit.Within(func() bool { u, q := ts.slots.queueStatus(queue); return u == unread && q == queued }) {
		t.Errorf("%s never had %d unread and %d waiting", name, unread, queued)
	}
}

// TestStoppedCarrier: connections that were passed and are not acknowledged are
// closed at the deadline, without a byte. They still count against the node, so that no
// more than MaxNodePasses are ever unread. Further initiators get a result.
func TestStoppedCarrier(t *testing.T) {
	ts := start(t, Options{HandoverTimeout: short, MaxNodePasses: 2, MaxNodeQueue: 3})
	_, ch := ts.openNode(t, "stopped")
	passed := []net.Conn{ts.initiate(t, "stopped"), ts.initiate(t, "stopped")}
	ts.inLine(t, "stopped", 2, 0)
	queued := []net.Conn{ts.initiate(t, "stopped"), ts.initiate(t, "stopped"), ts.initiate(t, "stopped")}
	ts.inLine(t, "stopped", 2, 3)
	refused(t, ts.initiate(t, "stopped"), epmdproto.Overloaded)
	_, other := ts.openNode(t, "other")
	ts.handOver(t, "other", other)
	for _, c := range queued {
		refused(t, c, epmdproto.NoAnswer)
	}
	if !testkit.Within(func() bool { ts.slots.mu.Lock(); defer ts.slots.mu.Unlock(); return ts.slots.unacked == 0 }) {
		t.Error("places are kept after the deadline")
	}
	ts.inLine(t, "stopped", 2, 0)
	// The carrier goes on: it has both connections, and EPMD wrote nothing there.
	for range passed {
		p, f := ch.take()
		ch.ack(p.ID, epmdproto.OK)
		_ = f.Close()
	}
	for _, c := range passed {
		if got := readAll(t, c); got != "" {
			t.Errorf("on a passed connection: %q", got)
		}
	}
	ts.inLine(t, "stopped", 0, 0)
	ts.handOver(t, "stopped", ch)
}

// TestLateAckOfBrokenChannel: the end of the channel settles the passes that were late.
func TestLateAckOfBrokenChannel(t *testing.T) {
	ts := start(t, Options{HandoverTimeout: short, MaxNodePasses: 1})
	n, ch := ts.openNode(t, "n")
	c := ts.initiate(t, "n")
	ts.inLine(t, "n", 1, 0)
	refused(t, ts.initiate(t, "n"), epmdproto.NoAnswer)
	_ = ch.Close()
	if got := readAll(t, c); got != "" {
		t.Errorf("%q", got)
	}
	c = ts.initiate(t, "n")
	ch = n.open()
	p, f := ch.take()
	ch.ack(p.ID, epmdproto.OK)
	_ = f.Close()
	if got := readAll(t, c); got != "" {
		t.Errorf("%q", got)
	}
}

// TestCarrierRefuses: the carrier has told the initiator; EPMD adds nothing.
func TestCarrierRefuses(t *testing.T) {
	ts := start(t, Options{})
	_, ch := ts.openNode(t, "n")
	c := ts.initiate(t, "n")
	p, f := ch.take()
	if _, err := f.Write(epmdproto.AppendHandoverResult(nil, epmdproto.Refused)); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	ch.ack(p.ID, epmdproto.Refused)
	refused(t, c, epmdproto.Refused)
	ts.log.says(t, `"result":"refused"`)
}

// TestBadAcks: a channel that carries anything but ACKs of passes in flight is closed,
// and the next handover opens another.
func TestBadAcks(t *testing.T) {
	for name, c := range map[string]struct{ msg, log string }{
		"version":   {"\x02A\x00\x00\x00\x00\x00\x00\x00\x01\x00", "version 2"},
		"kind":      {"\x01B\x00\x00\x00\x00\x00\x00\x00\x01\x00", "kind 66"},
		"too short": {"\x01A", "2 bytes"},
		"too long":  {"\x01A\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00", "ACK of 12 bytes"},
		"unknown":   {"\x01A\x00\x00\x00\x00\x00\x00\x00\x63\x00", "ACK of 99"},
	} {
		t.Run(name, func(t *testing.T) {
			ts := start(t, Options{})
			n, ch := ts.openNode(t, "n")
			send(t, ch.UnixConn, []byte(c.msg))
			if _, err := ch.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the channel: %v", err)
			}
			ts.log.says(t, c.log)
			c1 := ts.initiate(t, "n")
			ch = n.open()
			p, f := ch.take()
			ch.ack(p.ID, epmdproto.OK)
			_ = f.Close()
			if got := readAll(t, c1); got != "" {
				t.Errorf("%q", got)
			}
		})
	}
}

// TestNodeLeaves: handovers that wait for a node end when the node unregisters.
func TestNodeLeaves(t *testing.T) {
	ts := start(t, Options{})
	n := ts.node(t, "n")
	c := ts.initiate(t, "n")
	n.asked()
	_ = n.heartbeat.Close()
	refused(t, c, epmdproto.NoSuchNode)
}

// TestFullBacklog: EPMD retries if the carrier is slow to accept.
func TestFullBacklog(t *testing.T) {
	ts := start(t, Options{})
	n := ts.node(t, "n")
	raw, err := n.listener.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) })
	if err != nil {
		t.Fatal(err)
	}
	inTheWay, err := fdpass.Dial(n.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer inTheWay.Close()
	if _, err := fdpass.Dial(n.socket); err == nil {
		t.Fatal("the backlog is not full")
	}
	c := ts.initiate(t, "n")
	n.asked()
	n.sendSocketName()
	_ = n.accept().Close() // the one in the way; then there is room
	ch := n.accept()
	p, f := ch.take()
	ch.ack(p.ID, epmdproto.OK)
	_ = f.Close()
	if got := readAll(t, c); got != "" {
		t.Errorf("%q", got)
	}
}
