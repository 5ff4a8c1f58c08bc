package carrier

import (
	"io"
	"net"
	"testing"

	"handover/go/internal/epmdproto"
	"handover/go/internal/portproto"
	"handover/go/internal/testkit"
)

// registered is a greeted carrier that is registered with a fake EPMD.
func registered(t *testing.T, o Options) (*beam, *fakeEPMD, net.Conn) {
	t.Helper()
	b, e := newBEAM(t, o), newEPMD(t, false)
	b.say(registerAt(e.addr))
	got := expect[portproto.Registered](b)
	if want := (portproto.Registered{ID: 1, Creation: 3_000_000_000, Kind: portproto.KindHandover}); got != want {
		t.Fatalf("%+v; want %+v", got, want)
	}
	return b, e, e.heartbeat()
}

func TestHandover(t *testing.T) {
	b, _, heartbeat := registered(t, Options{})
	ch := openChannel(t, heartbeat)
	for id := uint64(1); id <= 3; id++ {
		c1, initiator := tcpPair(t)
		io.WriteString(initiator, "pipelined")
		pass(t, ch, 40+id, c1)
		if a := readAck(t, ch); a != (epmdproto.Ack{ID: 40 + id}) {
			t.Errorf("%+v", a)
		}
		c1.Close()
		m, node := b.receive()
		want := portproto.Connection{Kind: portproto.Accepted, ID: id, Peer: initiator.LocalAddr().(*net.TCPAddr).AddrPort()}
		if m != want {
			t.Errorf("%+v; want %+v", m, want)
		}
		both(t, initiator, node)
	}
}

// both: the pipelined bytes and HANDOVER_RESP are there, and both directions work.
func both(t *testing.T, initiator, node net.Conn) {
	t.Helper()
	io.WriteString(node, "hello")
	readString(t, node, "pipelined")
	readString(t, initiator, "i\x00\x00\x06hello")
	io.WriteString(initiator, "!")
	readString(t, node, "!")
}

func readString(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("%q, %v; want %q", got, err, want)
	}
}

func TestConnect(t *testing.T) {
	b := newBEAM(t, Options{})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b.say(portproto.Connect{ID: 9, Name: "n2", EPMD: l.Addr().(*net.TCPAddr).AddrPort(), Timeout: testkit.Patience})
	epmd, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer epmd.Close()
	m, node := b.receive()
	if want := (portproto.Connection{Kind: portproto.Connected, ID: 9, Peer: l.Addr().(*net.TCPAddr).AddrPort()}); m != want {
		t.Errorf("%+v; want %+v", m, want)
	}
	readString(t, epmd, "\x00\x03hn2")
	io.WriteString(epmd, "i\x00\x00\x06")
	readString(t, node, "i\x00\x00\x06")
	io.WriteString(node, "handshake")
	readString(t, epmd, "handshake")
}
