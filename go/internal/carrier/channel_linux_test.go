package carrier

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/portproto"
	"handover/go/internal/testkit"
)

// passBytes is a good PASS for c.
func passBytes(t *testing.T, id uint64, c *net.TCPConn) []byte {
	t.Helper()
	b, err := epmdproto.AppendPass(nil, epmdproto.Passed{ID: id, Peer: c.RemoteAddr().(*net.TCPAddr).AddrPort()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sendFDs(t *testing.T, ch *net.UnixConn, msg []byte, of ...syscall.Conn) {
	t.Helper()
	var fds []int
	for _, c := range of {
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
	}
	var oob []byte
	if fds != nil {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := ch.WriteMsgUnix(msg, oob, nil); err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(of)
}

// TestPassRefused: a descriptor that is no TCP connection to adopt is refused with its ID,
// and the channel goes on.
func TestPassRefused(t *testing.T) {
	b, _, heartbeat := registered(t, Options{})
	ch := openChannel(t, heartbeat)
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	listener, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c1, _ := tcpPair(t)
	other, _ := tcpPair(t)
	for id, tc := range []struct {
		name string
		fds  []syscall.Conn
		msg  func([]byte) []byte
		log  string
	}{
		{"no fd", nil, nil, "without a file descriptor"},
		{"two fds", []syscall.Conn{c1, other}, nil, "more than one"},
		{"a file", []syscall.Conn{file}, nil, "a device"},
		{"a UDP socket", []syscall.Conn{udp.(*net.UDPConn)}, nil, "a UDP socket"},
		{"a listener", []syscall.Conn{listener.(*net.TCPListener)}, nil, "listening"},
		{"a channel", []syscall.Conn{ch}, nil, "a Unix socket"},
		{"too long", []syscall.Conn{c1}, func(b []byte) []byte { return append(b, make([]byte, 99)...) }, "truncated"},
		{"too short", []syscall.Conn{c1}, func(b []byte) []byte { return b[:10] }, "at least 13"},
		{"unknown family", []syscall.Conn{c1}, func(b []byte) []byte { b[10] = 5; return b }, "family 5"},
		{"of another connection", []syscall.Conn{other}, nil, "but the message says"},
	} {
		before := openFiles(t)
		msg := passBytes(t, uint64(id), c1)
		if tc.msg != nil {
			msg = tc.msg(msg)
		}
		sendFDs(t, ch, msg, tc.fds...)
		if a := readAck(t, ch); a != (epmdproto.Ack{ID: uint64(id), Result: epmdproto.Refused}) {
			t.Errorf("%s: %+v", tc.name, a)
		}
		e := b.expectLog("refusing a connection that EPMD passed")
		if !strings.Contains(e.Fields[0].Value.(string), tc.log) {
			t.Errorf("%s: %+v; want %q", tc.name, e, tc.log)
		}
		noneSince(t, tc.name, before)
	}
	b.noneReceived()
}

// TestPassUnanswerable: a message without a valid ID closes the channel, since what follows
// it cannot be trusted. The next channel works.
func TestPassUnanswerable(t *testing.T) {
	b, _, heartbeat := registered(t, Options{})
	c1, initiator := tcpPair(t)
	for name, change := range map[string]func([]byte) []byte{
		"version 2": func(m []byte) []byte { m[0] = 2; return m },
		"an ACK":    func(m []byte) []byte { m[1] = 'A'; return m },
		"no ID":     func(m []byte) []byte { return m[:9] },
	} {
		before := openFiles(t)
		ch := openChannel(t, heartbeat)
		sendFDs(t, ch, change(passBytes(t, 1, c1)), c1)
		if n, err := ch.Read(make([]byte, 8)); n != 0 || err != io.EOF {
			t.Errorf("%s: %d, %v; want EOF", name, n, err)
		}
		b.expectLog("closing EPMD's channel")
		ch.Close()
		noneSince(t, name, before)
	}
	c1.Close()
	// Its initiator is told nevertheless.
	readString(t, initiator, "i\x04")
	b.noneReceived()
}

// TestRefusedInitiatorIsTold: a refused initiator gets the result, even if it has sent its
// handshake already.
func TestRefusedInitiatorIsTold(t *testing.T) {
	_, _, heartbeat := registered(t, Options{})
	ch := openChannel(t, heartbeat)
	c1, initiator := tcpPair(t)
	other, _ := tcpPair(t)
	initiator.Write(bytes.Repeat([]byte{1}, 20000))
	sendFDs(t, ch, passBytes(t, 5, other), c1)
	if a := readAck(t, ch); a.Result != epmdproto.Refused {
		t.Errorf("%+v", a)
	}
	c1.Close()
	got, err := io.ReadAll(initiator)
	if err != nil || string(got) != "i\x04" {
		t.Errorf("%q, %v; want i 4 and the end", got, err)
	}
}

// TestPassReset: the connection of an initiator that has reset it is refused.
func TestPassReset(t *testing.T) {
	_, _, heartbeat := registered(t, Options{})
	ch := openChannel(t, heartbeat)
	c1, initiator := tcpPair(t)
	msg := passBytes(t, 6, c1)
	initiator.SetLinger(0)
	initiator.Close()
	if _, err := c1.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Fatal(err)
	}
	sendFDs(t, ch, msg, c1)
	if a := readAck(t, ch); a != (epmdproto.Ack{ID: 6, Result: epmdproto.Refused}) {
		t.Errorf("%+v", a)
	}
}

// takeAll receives n connections from the fd socket, closes them and reports that.
func (b *beam) takeAll(n int) {
	b.t.Helper()
	for range n {
		m, c := b.receive()
		c.Close()
		b.say(portproto.Closed{Kind: m.Kind, ID: m.ID})
	}
}

// TestStoppedBEAM: connections for a stopped BEAM are acknowledged at once, their initiators
// get HANDOVER_RESP, and the BEAM gets them when it goes on.
func TestStoppedBEAM(t *testing.T) {
	b, _, heartbeat := registered(t, Options{SendTimeout: time.Millisecond})
	ch := openChannel(t, heartbeat)
	const many = 1024
	var initiators []*net.TCPConn
	for id := range uint64(many) {
		c1, initiator := tcpPair(t)
		pass(t, ch, id, c1)
		if a := readAck(t, ch); a != (epmdproto.Ack{ID: id}) {
			t.Fatalf("%d: %+v", id, a)
		}
		c1.Close()
		readString(t, initiator, "i\x00\x00\x06")
		initiators = append(initiators, initiator)
	}
	for _, initiator := range initiators {
		io.WriteString(initiator, "!")
		m, c := b.receive()
		readString(t, c, "!")
		c.Close()
		b.say(portproto.Closed{Kind: m.Kind, ID: m.ID})
	}
}

// TestFullQueue: a connection that does not fit into the queue is refused as overloaded, and
// there is room again when the BEAM reads.
func TestFullQueue(t *testing.T) {
	var accepted []int
	for _, most := range []int{1, 2, 3} {
		b, _, heartbeat := registered(t, Options{SendTimeout: time.Millisecond, MaxQueued: most})
		ch := openChannel(t, heartbeat)
		c1, _ := tcpPair(t)
		pass(t, ch, 5000, c1)
		readAck(t, ch)
		b.receive() // the fd socket is connected now
		unread := 0
		for ; ; unread++ {
			c1, initiator := tcpPair(t)
			pass(t, ch, uint64(unread), c1)
			a := readAck(t, ch)
			c1.Close()
			if a.Result == epmdproto.Overloaded {
				readString(t, initiator, "i\x05")
				break
			}
			if a.Result != epmdproto.OK || unread > 1000 {
				t.Fatalf("%d: %+v", unread, a)
			}
		}
		accepted = append(accepted, unread)
		b.takeAll(unread)
		testkit.WaitFor(t, "room in the queue", func() bool {
			c1, initiator := tcpPair(t)
			pass(t, ch, 5001, c1)
			if readAck(t, ch).Result != epmdproto.OK {
				return false
			}
			io.WriteString(initiator, "pipelined")
			_, c := b.receive()
			both(t, initiator, c)
			return true
		})
	}
	// Beside the queue there is the fd socket's own buffer.
	if accepted[1] != accepted[0]+1 || accepted[2] != accepted[0]+2 {
		t.Errorf("with room for 1, 2 and 3: %d", accepted)
	}
}

// TestBoundNode: a connection that came to another address than the node's is refused.
func TestBoundNode(t *testing.T) {
	b, e := newBEAM(t, Options{}), newEPMD(t, false)
	req := registerAt(e.addr)
	req.Bind = netip.MustParseAddr("127.0.0.9")
	b.say(req)
	expect[portproto.Registered](b)
	ch := openChannel(t, e.heartbeat())
	c1, initiator := tcpPair(t) // at 127.0.0.1
	pass(t, ch, 1, c1)
	if a := readAck(t, ch); a.Result != epmdproto.Refused {
		t.Errorf("%+v", a)
	}
	c1.Close()
	readString(t, initiator, "i\x04")
	log := b.expectLog("refusing a connection that EPMD passed")
	if text := log.Fields[0].Value.(string); !strings.Contains(text, "127.0.0.9 only") {
		t.Errorf("%q", text)
	}
	l, err := net.Listen("tcp4", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	pass(t, ch, 2, a.(*net.TCPConn))
	if ack := readAck(t, ch); ack.Result != epmdproto.OK {
		t.Errorf("%+v", ack)
	}
}

func openFiles(t *testing.T) testkit.Files {
	t.Helper()
	files, err := testkit.OpenFiles()
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// noneSince waits until no file is open that was not open before.
func noneSince(t *testing.T, what string, before testkit.Files) {
	t.Helper()
	testkit.WaitFor(t, "the files of "+what+" to be closed", func() bool {
		left, err := before.Since()
		return err == nil && len(left) == 0
	})
}

// TestNoLeaks: 1,000 handovers and as many connects leave no descriptor and no goroutine
// behind in this process, which runs the carrier and its peers.
func TestNoLeaks(t *testing.T) {
	b, _, heartbeat := registered(t, Options{})
	ch := openChannel(t, heartbeat)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	one := func(i int) {
		d, err := net.Dial("tcp4", at.String())
		if err != nil {
			t.Fatal(err)
		}
		a, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		pass(t, ch, uint64(i), a.(*net.TCPConn))
		if ack := readAck(t, ch); ack.Result != epmdproto.OK {
			t.Fatalf("%+v", ack)
		}
		m, fd, err := b.receiveFD()
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		b.say(portproto.Closed{Kind: m.Kind, ID: m.ID})
		a.Close()
		d.Close()
		b.say(portproto.Connect{ID: uint64(i + 1), Name: "n2", EPMD: at, Timeout: testkit.Patience})
		if a, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		if m, fd, err = b.receiveFD(); err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		b.say(portproto.Closed{Kind: m.Kind, ID: m.ID})
		a.Close()
	}
	one(0)
	settled := func() (int, int) { return len(openFiles(t)), runtime.NumGoroutine() }
	fds, goroutines := settled() // some fds more, if the carrier still closes its own of one(0)
	for i := range 1000 {
		one(i + 1)
	}
	defer func() {
		f, g := settled()
		t.Logf("files open: %d before, %d after; goroutines: %d and %d", fds, f, goroutines, g)
	}()
	testkit.WaitFor(t, "files and goroutines to be as before", func() bool {
		f, g := settled()
		return f <= fds && g <= goroutines
	})
}
