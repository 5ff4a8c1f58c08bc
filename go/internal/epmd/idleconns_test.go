package epmd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// silent opens connections that send one byte and wait.
func (ts *testServer) silent(t *testing.T, n int) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		c := ts.dial(t)
		send(t, c, []byte{0})
		conns[i] = c
	}
	return conns
}

func (w *idleConns) counts() (local, remote int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.local.conns), len(w.remote.conns)
}

func (ts *testServer) waits(t *testing.T, local, remote int) {
	t.Helper()
	if !testkit.Within(func() bool { l, r := ts.conns.waiting.counts(); return l == local && r == remote }) {
		l, r := ts.conns.waiting.counts()
		t.Fatalf("waiting: %d local and %d remote, want %d and %d", l, r, local, remote)
	}
}

// closed returns how many of the connections the server has ended.
func closed(t *testing.T, conns []net.Conn) (n int) {
	t.Helper()
	for _, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			n++
		}
	}
	return n
}

// TestWaitingIsBounded: with N-1, N, N+1 and more silent connections, a client that sends
// a request gets an answer.
func TestWaitingIsBounded(t *testing.T) {
	const most = 8
	for _, n := range []int{most - 1, most, most + 1, 5 * most} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			ts := start(t, Options{MaxWaiting: most})
			ts.register(t, plainNode("n"))
			conns := ts.silent(t, n)
			if !testkit.Within(func() bool { return ts.conns.clients.Load() == int64(min(n, most)) }) {
				t.Fatalf("%d clients", ts.conns.clients.Load())
			}
			ts.waits(t, min(n, most), 0)
			if !testkit.Within(func() bool { return closed(t, conns) == max(0, n-most) }) {
				t.Errorf("%d of %d were dropped", closed(t, conns), n)
			}
			for range 2 * most {
				if got := ts.ask(t, request(epmdproto.OpPort2, "n")); len(got) < 2 || got[1] != 0 {
					t.Fatalf("a lookup: %q", got)
				}
			}
			if n > most {
				ts.log.says(t, "too many connections without a request")
			}
		})
	}
}

// TestWaitingOfOthers: a local connection can make the server drop one of another host,
// and never the other way round. A source has no more than its share.
func TestWaitingOfOthers(t *testing.T) {
	ts := start(t, Options{MaxWaiting: 8, MaxWaitingSource: 3})
	from := func(peer string) net.Conn {
		ours, theirs := remotePair(t, ts.Server)
		ours.peer = netip.MustParseAddrPort(peer)
		ts.tasks.Go(func() { ts.serve(ours) })
		return theirs
	}
	var first []net.Conn
	for range 5 {
		first = append(first, from("192.0.2.1:5"))
	}
	ts.waits(t, 0, 3)
	if !testkit.Within(func() bool { return closed(t, first) == 2 }) {
		t.Error("a source has more than its share")
	}
	for range 5 { // one network
		from("[2001:db8::1]:5")
		from("[2001:db8::2]:5")
	}
	ts.waits(t, 0, 6)
	ours := ts.silent(t, 7)
	ts.waits(t, 7, 1)
	for range 3 {
		from("192.0.2.9:5")
	}
	ts.waits(t, 7, 1)
	if n := closed(t, ours); n != 0 {
		t.Errorf("%d local connections made way for others", n)
	}
}

// TestRefusedMakesWay: a connection that stays open after a refused registration counts
// as waiting too.
func TestRefusedMakesWay(t *testing.T) {
	ts := start(t, Options{MaxWaiting: 2})
	ts.register(t, plainNode("n"))
	b, _ := plainNode("n").Append(nil)
	for range 10 {
		c := ts.dial(t)
		send(t, c, b)
		if r, err := epmdproto.ReadAlive2Resp(c); err != nil || r.Result != 1 {
			t.Fatal(r, err)
		}
	}
	ts.waits(t, 2, 0)
	ts.register(t, plainNode("m"))
}

// TestWaitingIsForgotten: a connection that sends its request or closes counts no longer.
func TestWaitingIsForgotten(t *testing.T) {
	ts := start(t, Options{})
	for _, c := range ts.silent(t, 10) {
		_ = c.Close()
	}
	c := ts.dial(t)
	send(t, c, []byte{0})
	ts.waits(t, 1, 0)
	refused(t, ts.initiate(t, "nobody"), epmdproto.NoSuchNode)
	send(t, c, []byte{1, 'n'})
	if got := readAll(t, c); got != ts.portWord() {
		t.Errorf("%q", got)
	}
	ts.waits(t, 0, 0)
	if len(ts.conns.waiting.bySource) != 0 || len(ts.conns.waiting.local.index) != 0 {
		t.Errorf("kept: %v, %v", ts.conns.waiting.bySource, ts.conns.waiting.local.index)
	}
}

// TestLocalReserve: peers of other hosts cannot use the reserve. Local peers can, and no
// more than that.
func TestLocalReserve(t *testing.T) {
	ts := start(t, Options{MaxClients: 4, LocalReserve: 2, MaxWaiting: 4, MaxWaitingSource: 4})
	for i := range 3 {
		ours, theirs := remotePair(t, ts.Server)
		ts.startServing(ours)
		if i < 2 {
			continue
		}
		if got := readAll(t, theirs); got != "" || ts.conns.clients.Load() != 2 {
			t.Errorf("a third one of another host: %q, %d clients", got, ts.conns.clients.Load())
		}
	}
	for range 2 {
		send(t, ts.dial(t), []byte{0})
	}
	if !testkit.Within(func() bool { return ts.conns.clients.Load() == 4 }) {
		t.Errorf("%d clients, with two of this host", ts.conns.clients.Load())
	}
	if n := ts.stats.refusals[refusedClients].Load(); n != 1 {
		t.Errorf("%d refused", n)
	}
}
