package epmd

import (
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// unixPair returns a channel's connection whose far end sends nothing.
func unixPair(t *testing.T) *net.UnixConn {
	t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: t.TempDir() + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.DialUnix("unixpacket", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	return ours
}

// TestSendRaces: whatever happens during a send, the connection has one owner
// afterwards. Its slot is released once, by the channel or by the sender, and the
// handover is counted once or not at all.
func TestSendRaces(t *testing.T) {
	errSend := errors.New("not sent")
	ack := func(ch *channel) { _ = ch.handleAck(epmdproto.Ack{ID: ch.lastID}) }
	breakOff := func(ch *channel) { ch.breakOff(errBroken) }
	for name, test := range map[string]struct {
		meanwhile func(*channel)
		sent      error
		ended     epmdproto.Result // NoSuchNode: it is not
	}{
		"an ACK before the send returns":     {ack, nil, epmdproto.OK},
		"an ACK of what could not be sent":   {ack, errSend, epmdproto.NoSuchNode},
		"an end before the send returns":     {breakOff, nil, epmdproto.CannotPass},
		"an end that makes the send fail":    {breakOff, errSend, epmdproto.NoSuchNode},
		"an ACK and the end":                 {func(ch *channel) { ack(ch); breakOff(ch) }, nil, epmdproto.OK},
		"an ACK, the end and a send in vain": {func(ch *channel) { ack(ch); breakOff(ch) }, errSend, epmdproto.NoSuchNode},
		"the deadline, before anything else": {(*channel).expire, nil, epmdproto.NoAnswer},
		"the deadline, with a send in vain":  {(*channel).expire, errSend, epmdproto.NoSuchNode},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(Options{})
			s.upgrade.beginHandover()
			entry := plainNode("n")
			n := newNode(s.nodes, &conn{}, entry, firstOf(s.users.addUsage(1, 1)))
			ch := n.newChannel(unixPair(t))
			c, peer := remotePair(t, s)
			if !n.acquireSlotNow() {
				t.Fatal("no room")
			}
			now := time.Now()
			p := &pass{conn: c, start: now, deadline: now}
			err := ch.send(p, func(*net.UnixConn, []byte, int) error { test.meanwhile(ch); return test.sent })
			if err != test.sent {
				t.Errorf("%v instead of %v", err, test.sent)
			}
			if test.sent != nil {
				if s.slots.unackedCount() != 1 || s.upgrade.handovers.Load() != 1 || unix.SetNonblock(c.fd, true) != nil {
					t.Error("the connection is not the sender's any more")
				}
				c.close()
				return
			}
			if _, err := peer.Read(make([]byte, 1)); err == nil || errors.Is(err, unix.ECONNRESET) {
				t.Error("not closed:", err)
			}
			if !testkit.Within(func() bool { return s.stats.handovers[test.ended].Load() == 1 }) {
				t.Error("not counted as", test.ended)
			}
			if !testkit.Within(func() bool { return s.slots.unackedCount() == 0 && s.upgrade.handovers.Load() == 0 }) {
				t.Error("its places are not free")
			}
		})
	}
}

// TestUnreadKeepsCounting: a channel that EPMD breaks off counts against the node's
// user until the node has read everything in it or has closed its end. It is not
// enough to shut it down, or to acknowledge a message that was only peeked at.
func TestUnreadKeepsCounting(t *testing.T) {
	for name, read := range map[string]func(ts *testServer, ch *fakeChannel){
		"read":             func(_ *testServer, ch *fakeChannel) { _, f := ch.take(); _ = f.Close() },
		"closed":           func(_ *testServer, ch *fakeChannel) { _ = ch.Close() },
		"the server's end": func(ts *testServer, _ *fakeChannel) { ts.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			ts := start(t, Options{})
			n, ch := ts.openNode(t, "n")
			ts.initiate(t, "n")
			ts.inLine(t, "n", 1, 0)
			reg := nodeOf(ts.names.Lookup([]byte("n")))
			ours := reg.openChannelNow()
			ch.ack(peekID(t, ch), epmdproto.OK)
			ts.log.says(t, "which the node has not read")
			_, _ = ch.CloseRead(), ch.CloseWrite()
			_ = n.heartbeat.Close()
			ts.log.says(t, `"message":"unregistered"`)
			if !testkit.Within(func() bool { return ts.slots.unackedCount() == 0 }) {
				t.Error("EPMD waits for the ACK of a broken channel")
			}
			if _, unread := ts.slots.unreadOf(&reg.usage.queue); unread != 1 || ours.closeIfRead(false) {
				t.Errorf("%d unread", unread)
			}
			read(ts, ch)
			if !testkit.Within(func() bool { _, unread := ts.slots.unreadOf(&reg.usage.queue); return unread == 0 }) {
				t.Error("its place is not given back")
			}
		})
	}
}

// peekID is the Id of the first PASS, which stays unread.
func peekID(t *testing.T, ch *fakeChannel) uint64 {
	t.Helper()
	raw, err := ch.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var buf [epmdproto.MaxPass]byte
	n := 0
	readErr := raw.Read(func(fd uintptr) bool { // it is on its way, perhaps
		n, _, err = unix.Recvfrom(int(fd), buf[:], unix.MSG_PEEK)
		return err != unix.EAGAIN
	})
	if readErr != nil {
		t.Fatal(readErr)
	}
	p, parseErr := epmdproto.ParsePass(buf[:n])
	if err != nil || parseErr != nil {
		t.Fatal(err, parseErr)
	}
	return p.ID
}

// TestNoRoomToAnswer: a client that reads nothing does not block the accept loop. The
// request stays in the connection, for a goroutine.
func TestNoRoomToAnswer(t *testing.T) {
	s := New(Options{})
	n := newNode(s.nodes, &conn{}, plainNode("n"), firstOf(s.users.addUsage(1, 1)))
	if err := s.names.Register(n.entry); err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0) // TCP makes room by itself
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	if _, err := unix.Write(fds[1], epmdproto.AppendRequest(nil, epmdproto.OpPort2, "n")); err != nil {
		t.Fatal(err)
	}
	c := &conn{shared: s.conns, socket: socket{fd: fds[0]}}
	defer c.close()
	for err := unix.SetNonblock(c.fd, true); err != unix.EAGAIN; _, err = unix.Write(c.fd, make([]byte, 1)) {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.noWait = true
	if s.serveNow(c) {
		t.Fatal("answered, where there was no room")
	}
	request, err := c.readRequest(new(requestBuffer))
	if err != nil || string(request) != "zn" {
		t.Errorf("left: %q, %v", request, err)
	}
}
