package carrier

import (
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// TestChannelSocketEnds: each channel socket has a new name, and is closed when it was used or when
// its time is over.
func TestChannelSocketEnds(t *testing.T) {
	b, _, heartbeat := registered(t, Options{AcceptTimeout: 50 * time.Millisecond})
	first, second := askSocket(t, heartbeat), askSocket(t, heartbeat)
	if first == second {
		t.Errorf("%q, %q", first, second)
	}
	b.expectLog("EPMD did not connect to the channel socket in time")
	b.expectLog("EPMD did not connect to the channel socket in time")
	if isListening(first) || isListening(second) {
		t.Error("a channel socket outlives its time")
	}
	dialled := askSocket(t, heartbeat)
	dialChannel(t, dialled)
	testkit.WaitFor(t, "the channel socket to end", func() bool { return !isListening(dialled) })
}

func TestTooManyChannelSockets(t *testing.T) {
	b, _, heartbeat := registered(t, Options{MaxChannels: 2})
	names := []string{askSocket(t, heartbeat), askSocket(t, heartbeat)}
	if p := askSocket(t, heartbeat); p != "" {
		t.Errorf("%q; want no socket", p)
	}
	b.expectLog("cannot create the channel socket")
	dialChannel(t, names[0])
	testkit.WaitFor(t, "room for a channel socket", func() bool { return askSocket(t, heartbeat) != "" })
}

func TestTooManyChannels(t *testing.T) {
	b, _, heartbeat := registered(t, Options{MaxChannels: 2})
	var chs []*net.UnixConn
	for i := range 3 {
		ch := openChannel(t, heartbeat)
		c1, initiator := tcpPair(t)
		io.WriteString(initiator, "pipelined")
		pass(t, ch, uint64(i), c1) // the ACK shows that the channel is served
		readAck(t, ch)
		_, node := b.receive()
		both(t, initiator, node)
		chs = append(chs, ch)
	}
	if n, err := chs[0].Read(make([]byte, 8)); n != 0 || err != io.EOF {
		t.Errorf("the oldest: %d, %v; want EOF", n, err)
	}
	for _, ch := range chs[1:] {
		c1, _ := tcpPair(t)
		pass(t, ch, 9, c1)
		readAck(t, ch)
	}
}

// TestChannelStranger: a process of another user that has found the name, in /proc/net/unix, is
// refused, and EPMD can still connect.
func TestChannelStranger(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	b, _, heartbeat := registered(t, Options{})
	// Other users cannot enter the test binary's directory: the child runs
	// /proc/self/exe.
	name := askSocket(t, heartbeat)
	stranger(t, 65534, name)
	e := b.expectLog("refused a connection to the channel socket that is not from EPMD")
	if !strings.Contains(e.Fields[0].Value.(string), "of uid 65534 connected; EPMD is uid 0") {
		t.Errorf("%+v", e)
	}
	ch := dialChannel(t, name)
	c1, _ := tcpPair(t)
	pass(t, ch, 1, c1)
	if a := readAck(t, ch); a.Result != epmdproto.OK {
		t.Errorf("%+v", a)
	}
}
