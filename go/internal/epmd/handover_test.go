package epmd

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// TestHandover: two handovers over one channel. What the initiator sent behind
// its request arrives at the node, which answers through the connection.
func TestHandover(t *testing.T) {
	ts := start(t, Options{})
	n := ts.node(t, "n")
	var ch *fakeChannel
	for range 2 {
		c := ts.dial(t)
		send(t, c, append(handoverReq(t, "n"), "handshake"...))
		if ch == nil {
			ch = n.open()
		}
		p, f := ch.take()
		if p.Peer != peerOf(c) {
			t.Errorf("peer %v, want %v", p.Peer, peerOf(c))
		}
		plainSocket(t, f)
		buf := make([]byte, 64)
		if n, err := f.Read(buf); string(buf[:n]) != "handshake" {
			t.Errorf("the node reads %q, %v", buf[:n], err)
		}
		ch.ack(p.ID, epmdproto.OK)
		if _, err := f.Write(append(epmdproto.AppendHandoverOK(nil, 6), "status"...)); err != nil {
			t.Error(err)
		}
		// Only the node holds the connection now: its close is the end of it.
		if !testkit.Within(func() bool { return ts.conns.clients.Load() == 0 }) {
			t.Error("EPMD keeps its copy after ACK")
		}
		_ = f.Close()
		if got := readAll(t, c); got != "i\x00\x00\x06status" {
			t.Errorf("the initiator reads %q", got)
		}
	}
}

// plainSocket: the connection looks as if it had been accepted in C.
func plainSocket(t *testing.T, f *os.File) {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		noDelay, err1 := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY)
		keepAlive, err2 := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		flags, err3 := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err1 != nil || err2 != nil || err3 != nil || noDelay != 0 || keepAlive != 0 || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("TCP_NODELAY %d, SO_KEEPALIVE %d, flags %#x", noDelay, keepAlive, flags)
		}
	})
}

// TestHandoverByteByByte: a request that comes in pieces, with the handshake
// right behind the last of them.
func TestHandoverByteByByte(t *testing.T) {
	ts := start(t, Options{})
	n := ts.node(t, "node2")
	c := ts.dial(t)
	req := handoverReq(t, "node2")
	for _, b := range req[:len(req)-1] {
		send(t, c, []byte{b})
		time.Sleep(2 * time.Millisecond) // makes the pieces arrive apart mostly
	}
	send(t, c, append(req[len(req)-1:], "handshake"...))
	ch := n.open()
	p, f := ch.take()
	buf := make([]byte, 64)
	if n, err := f.Read(buf); string(buf[:n]) != "handshake" {
		t.Errorf("the node reads %q, %v", buf[:n], err)
	}
	ch.ack(p.ID, epmdproto.OK)
}

func TestRefusals(t *testing.T) {
	ts := start(t, Options{})
	ts.register(t, plainNode("stock"))
	for name, want := range map[string]epmdproto.Result{
		"nobody": epmdproto.NoSuchNode, epmdproto.ProbeName: epmdproto.NoSuchNode, "stock": epmdproto.NoHandover,
		"": epmdproto.NoSuchNode, "a\x00b": epmdproto.NoSuchNode, "\xff": epmdproto.NoSuchNode,
		strings.Repeat("n", 255): epmdproto.NoSuchNode, strings.Repeat("n", 256): epmdproto.NoSuchNode,
	} {
		c := ts.dial(t)
		// What is pipelined must not turn the answer into a reset.
		send(t, c, append(request(epmdproto.OpHandover, name), make([]byte, 20_000)...))
		_ = c.CloseWrite()
		refused(t, c, want)
	}
	ts.log.says(t, "bad node name: has a NUL")
	ts.log.says(t, "bad node name: not UTF-8")
}

// TestRefusalEnds: an initiator that does not close is closed.
func TestRefusalEnds(t *testing.T) {
	ts := start(t, Options{})
	c := ts.initiate(t, "nobody")
	refused(t, c, epmdproto.NoSuchNode)
	if !testkit.Within(func() bool { return ts.conns.clients.Load() == 0 }) {
		t.Error("a refused initiator is kept")
	}
}
