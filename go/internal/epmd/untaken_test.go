package epmd

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// large is more than the kernel buffers for a connection whose peer does not read.
const large = 16 << 20

// makeLarge makes the answer to NAMES a large one, until the next registration.
func (ts *testServer) makeLarge() {
	ts.lists.mu.Lock()
	defer ts.lists.mu.Unlock()
	ts.lists.all = cachedList{ts.names.Changes(), bytes.Repeat([]byte("name n at port 1\n"), large/17)}
}

func (w *idleConns) held() (conns, bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.local.conns) + len(w.remote.conns), w.bytes
}

func (ts *testServer) untakes(t *testing.T, conns, bytes int) {
	t.Helper()
	if !testkit.Within(func() bool { c, b := ts.conns.untaken.held(); return c == conns && b == bytes }) {
		c, b := ts.conns.untaken.held()
		t.Errorf("%d do not read their answer, of %d bytes; want %d and %d", c, b, conns, bytes)
	}
}

func (ts *testServer) dropped(t *testing.T, want int) {
	t.Helper()
	if !testkit.Within(func() bool { return ts.stats.refusals[refusedUntaken].Load() == uint64(want) }) {
		t.Errorf("%d were dropped, want %d", ts.stats.refusals[refusedUntaken].Load(), want)
	}
}

// TestUntakenIsBounded: N-1, N, N+1 and more connections that do not read their answer,
// which they share. A client that reads gets all of it.
func TestUntakenIsBounded(t *testing.T) {
	const most = 4
	for _, n := range []int{most - 1, most, most + 1, 3 * most} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			ts := start(t, Options{MaxUntaken: most})
			ts.makeLarge()
			size := len(ts.lists.all.bytes)
			for i := range n {
				send(t, ts.dial(t), request(epmdproto.OpNames, ""))
				ts.untakes(t, min(i+1, most), size)
			}
			ts.dropped(t, max(0, n-most))
			if !testkit.Within(func() bool { return ts.conns.clients.Load() == int64(min(n, most)) }) {
				t.Errorf("%d clients", ts.conns.clients.Load())
			}
			if n > most {
				ts.log.says(t, "do not read their answer")
			}
			if got := ts.ask(t, request(epmdproto.OpNames, "")); len(got) != size {
				t.Errorf("%d bytes of %d", len(got), size)
			}
		})
	}
}

// TestUntakenBytes: different answers, as when names come and go, take no more memory
// than is allowed.
func TestUntakenBytes(t *testing.T) {
	ts := start(t, Options{MaxUntakenBytes: 2 * large})
	for i := range 5 {
		ts.makeLarge()
		send(t, ts.dial(t), request(epmdproto.OpNames, ""))
		ts.dropped(t, max(0, i-1))
		ts.untakes(t, min(i+1, 2), min(i+1, 2)*len(ts.lists.all.bytes))
	}
}

// TestUntakenOfASource: a source of another host has no more than its share. A single
// answer is sent however large it is.
func TestUntakenOfASource(t *testing.T) {
	ts := start(t, Options{MaxUntakenBytes: 1, MaxUntakenSource: 2})
	ts.makeLarge()
	for i, peer := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.2:1"} {
		ours, theirs := remotePair(t, ts.Server)
		ours.peer = netip.MustParseAddrPort(peer)
		ts.tasks.Go(func() { ts.serve(ours) })
		send(t, theirs, request(epmdproto.OpNames, ""))
		ts.dropped(t, []int{0, 0, 1, 1}[i])
		ts.untakes(t, []int{1, 2, 2, 3}[i], len(ts.lists.all.bytes))
	}
}

// TestListsAreShared: the answers to NAMES and DUMP are made once for each state of the
// registry and each policy.
func TestListsAreShared(t *testing.T) {
	ts := start(t, Options{})
	p := policyOf(t, "nodes.hidden = ['a*']")
	makes := map[string]func() []byte{
		"names": func() []byte { return ts.lists.namesAnswer(nil) }, "shown": func() []byte { return ts.lists.namesAnswer(p) }, "dump": ts.lists.dumpAnswer,
	}
	same := func(a, b []byte) bool { return &a[0] == &b[0] }
	before := make(map[string][]byte)
	for what, make := range makes {
		before[what] = make()
	}
	heartbeat, _ := ts.register(t, plainNode("a1"))
	for what, make := range makes {
		there := make()
		if same(before[what], there) || !same(there, make()) {
			t.Errorf("%s: made too often, or not often enough", what)
		}
		if strings.Contains(string(there), "a1") != (what != "shown") {
			t.Errorf("%s: %q", what, there)
		}
		before[what] = there
	}
	_ = heartbeat.Close()
	if !testkit.Within(func() bool { return ts.names.Len() == 0 }) {
		t.Fatal("it stays")
	}
	if got := string(ts.lists.dumpAnswer()); same(before["names"], ts.lists.namesAnswer(nil)) || !strings.Contains(got, "old/unused name <a1>") {
		t.Errorf("%q", got)
	}
	if other := policyOf(t, "nodes.hidden = []"); same(ts.lists.namesAnswer(p), ts.lists.namesAnswer(other)) {
		t.Error("one policy's view shown under another")
	}
}

// TestNamesOfAUser: a user registers N-1 and N names of 2 N and not N+1; another user
// does, and the first one again when one of its nodes has unregistered. However often it
// tries, the log has few lines about it, with its uid.
func TestNamesOfAUser(t *testing.T) {
	const most = 3
	var uid atomic.Uint32
	uid.Store(1001)
	ts := start(t, Options{MaxNodeFiles: 2 * most}, func(s *Server) {
		s.users.tcpOwner = func(_, _ netip.AddrPort) (uint32, error) { return uid.Load(), nil }
	})
	first, _ := ts.register(t, plainNode("n0"))
	for i := 1; i < most; i++ {
		ts.register(t, plainNode(fmt.Sprint("n", i)))
	}
	refuse := func(name string) {
		t.Helper()
		b, _ := plainNode(name).Append(nil)
		c := ts.dial(t)
		send(t, c, b)
		if r, err := epmdproto.ReadAlive2Resp(c); err != nil || r.Result != 1 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		_ = c.Close()
	}
	for range 5 * userLines {
		refuse("more")
		refuse("n0")
	}
	if n := strings.Count(ts.log.String(), "registration refused"); n != userLines {
		t.Errorf("%d lines", n)
	}
	ts.log.says(t, `"uid":"1001"`)
	ts.log.says(t, "no open files left for another node")
	if n := ts.stats.refusals[refusedNames].Load(); n < 5*userLines {
		t.Errorf("%d counted", n)
	}
	uid.Store(1002)
	ts.register(t, plainNode("other"))
	uid.Store(1001)
	_ = first.Close()
	if !testkit.Within(func() bool { return ts.names.Len() == most }) {
		t.Fatal("n0 stays")
	}
	ts.register(t, plainNode("more"))
	refuse("one more")
}

// TestUsersAreForgotten: users without a node are remembered, but not too many.
func TestUsersAreForgotten(t *testing.T) {
	s := New(Options{})
	stays := firstOf(s.users.addUsage(7, 1)).user.Load()
	for uid := range int64(3 * keptUsers) {
		if a, _ := s.users.addUsage(uid, 1); a.user.Load() != stays {
			s.users.removeUsage(a)
		}
	}
	if n := len(s.users.byUID); n > keptUsers || s.users.byUID[7] != stays {
		t.Errorf("%d users", n)
	}
}
