package epmd

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/testkit"
)

// fakeNode is a node that takes handovers, and its carrier.
type fakeNode struct {
	t         *testing.T
	heartbeat net.Conn
	socket    string
	listener  *net.UnixListener
}

// node registers a fakeNode that listens on a socket, but answers nothing yet.
func (ts *testServer) node(t *testing.T, name string) *fakeNode {
	t.Helper()
	socket := epmdproto.NewSocketName()
	l := listenUnix(t, socket)
	r := plainNode(name)
	r.Extra = []byte(epmdproto.Extra)
	heartbeat, _ := ts.register(t, r)
	return &fakeNode{t: t, heartbeat: heartbeat, socket: socket, listener: l}
}

// asked waits for 'h'.
func (n *fakeNode) asked() {
	n.t.Helper()
	var b [3]byte
	if _, err := io.ReadFull(n.heartbeat, b[:]); err != nil || !bytes.Equal(b[:], epmdproto.HandoverAsk) {
		n.t.Fatalf("on the heartbeat: % x, %v", b, err)
	}
}

// sendSocketName answers with the name of the node's socket.
func (n *fakeNode) sendSocketName() {
	n.t.Helper()
	b, err := epmdproto.AppendHandoverSocket(nil, n.socket)
	if err != nil {
		n.t.Fatal(err)
	}
	send(n.t, n.heartbeat, b)
}

// open waits for 'h', answers, and accepts the channel.
func (n *fakeNode) open() *fakeChannel {
	n.t.Helper()
	n.asked()
	n.sendSocketName()
	return n.accept()
}

func (n *fakeNode) accept() *fakeChannel {
	n.t.Helper()
	_ = n.listener.SetDeadline(time.Now().Add(testkit.Patience))
	c, err := n.listener.AcceptUnix()
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(testkit.Patience))
	return &fakeChannel{n.t, c}
}

type fakeChannel struct {
	t *testing.T
	*net.UnixConn
}

// take receives one connection. Call ack to acknowledge it.
func (ch *fakeChannel) take() (epmdproto.Passed, *os.File) {
	ch.t.Helper()
	buf := make([]byte, 64)
	n, fd, err := receive(ch, buf)
	if err != nil {
		ch.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "passed")
	ch.t.Cleanup(func() { _ = f.Close() })
	p, err := epmdproto.ParsePass(buf[:n])
	if err != nil {
		ch.t.Fatal(err)
	}
	return p, f
}

func receive(ch *fakeChannel, buf []byte) (n, fd int, err error) {
	return fdpass.Receive(ch.UnixConn, buf)
}

func (ch *fakeChannel) ack(id uint64, r epmdproto.Result) {
	ch.t.Helper()
	send(ch.t, ch.UnixConn, epmdproto.AppendAck(nil, epmdproto.Ack{ID: id, Result: r}))
}

func handoverReq(t *testing.T, name string) []byte {
	t.Helper()
	b, err := epmdproto.AppendHandoverReq(nil, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// initiate sends HANDOVER_REQ on a connection of its own.
func (ts *testServer) initiate(t *testing.T, name string) *net.TCPConn {
	t.Helper()
	c := ts.dial(t)
	send(t, c, handoverReq(t, name))
	return c
}

// refused checks that the server answers with the result and closes.
func refused(t *testing.T, c net.Conn, want epmdproto.Result) {
	t.Helper()
	b, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(b, []byte{'i', byte(want)}) {
		t.Errorf("got % x, %v; want 'i' and %v", b, err, want)
	}
}
