package epmd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// upgradable starts a server that a successor can replace on the same address.
func upgradable(t *testing.T, o Options) *testServer {
	o.Trial = func(st *State) error {
		var b bytes.Buffer
		if err := st.Write(&b); err != nil {
			return err
		}
		_, err := ReadState(&b)
		return err
	}
	return start(t, o)
}

// succeeded waits for the end of the server and resumes another one from the bytes of
// its state.
func (ts *testServer) succeeded(t *testing.T) *testServer {
	t.Helper()
	var st *State
	if !testkit.Within(func() bool { st = ts.TakeState(); return st != nil }) {
		t.Fatal("the server does not make way")
	}
	var b bytes.Buffer
	if err := st.Write(&b); err != nil {
		t.Fatal(err)
	}
	st, err := ReadState(&b)
	if err != nil {
		t.Fatal(err)
	}
	next := &testServer{addr: ts.addr, log: &logBuffer{}}
	o := ts.o
	o.Log = zerolog.New(next.log).Level(zerolog.DebugLevel)
	next.Server = New(o)
	served := make(chan error, 1)
	go func() { served <- next.Resume(st) }()
	t.Cleanup(func() {
		next.Close()
		if err := <-served; err != nil {
			t.Errorf("Resume: %v", err)
		}
		if t.Failed() {
			t.Logf("the successor's log:\n%s", next.log)
		}
	})
	return next
}

func (ts *testServer) upgraded(t *testing.T) *testServer {
	t.Helper()
	if err := ts.Upgrade(); err != nil {
		t.Fatal(err)
	}
	return ts.succeeded(t)
}

// TestUpgradeNames: names and their properties survive two upgrades.
func TestUpgradeNames(t *testing.T) {
	ts := upgradable(t, Options{})
	old, creation := ts.register(t, plainNode("old"))
	_ = old.Close()
	if !testkit.Within(func() bool { return ts.names.Len() == 0 }) {
		t.Fatal("the name sticks")
	}
	odd := epmdproto.Alive2Req{Port: 7, NodeType: 72, Protocol: 1, Highest: 5, Lowest: 4, Name: "ödd <&>", Extra: []byte{0, 0xff, '"'}}
	for _, r := range []epmdproto.Alive2Req{plainNode("a"), odd, plainNode("z")} {
		ts.register(t, r)
	}
	names, port2 := ts.ask(t, request(epmdproto.OpNames, "")), ts.ask(t, request(epmdproto.OpPort2, odd.Name))
	creations := creationsOf(ts)
	next := ts.upgraded(t).upgraded(t)
	if got := next.ask(t, request(epmdproto.OpNames, "")); got != names {
		t.Errorf("NAMES is %q, was %q", got, names)
	}
	if got := next.ask(t, request(epmdproto.OpPort2, odd.Name)); got != port2 {
		t.Errorf("PORT2 is %q, was %q", got, port2)
	}
	if got := creationsOf(next); !slices.Equal(got, creations) {
		t.Errorf("creations are %v, were %v", got, creations)
	}
	if dump := next.ask(t, request(epmdproto.OpDump, "")); !strings.Contains(dump, "old/unused name <old>, port = 1234") {
		t.Errorf("the tombstone is lost: %q", dump)
	}
	if _, again := next.register(t, plainNode("old")); again != creation+1 {
		t.Errorf("creation %d after %d", again, creation)
	}
}

func creationsOf(ts *testServer) (creations []uint32) {
	for _, n := range ts.names.Live() {
		creations = append(creations, n.Creation())
	}
	return creations
}

// TestUpgradeHeartbeats: they stay open, and their end still frees the name.
func TestUpgradeHeartbeats(t *testing.T) {
	ts := upgradable(t, Options{})
	c, _ := ts.register(t, plainNode("n"))
	next := ts.upgraded(t)
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("the node reads %d, %v", n, err)
	}
	_ = c.Close()
	if !testkit.Within(func() bool { return next.names.Len() == 0 }) {
		t.Error("the name sticks")
	}
}

// TestUpgradeHalfAsked: the successor answers a request that has arrived in part, or not
// at all.
func TestUpgradeHalfAsked(t *testing.T) {
	ts := upgradable(t, Options{})
	ts.register(t, plainNode("node"))
	req := request(epmdproto.OpPort2, "node")
	for sent := range len(req) {
		c := ts.dial(t)
		send(t, c, req[:sent])
		// Nothing tells that they are read but the kernel: TCP's unacknowledged
		// queue says only that they have come. Either way they must count.
		if !testkit.Within(func() bool { return ts.conns.clients.Load() > 0 }) {
			t.Fatal("not accepted")
		}
		next := ts.upgraded(t)
		send(t, c, req[sent:])
		if got := readAll(t, c); !strings.Contains(got, "node") {
			t.Errorf("after %d bytes: %q", sent, got)
		}
		ts = next
	}
}

// TestUpgradeHandovers: a handover under way ends as without an upgrade. The successor
// serves one that begins meanwhile, over a new channel.
func TestUpgradeHandovers(t *testing.T) {
	ts := upgradable(t, Options{})
	n := ts.node(t, "n")
	ts.initiate(t, "n")
	ch := n.open()
	first, _ := ch.take()
	if err := ts.Upgrade(); err != nil {
		t.Fatal(err)
	}
	if !testkit.Within(ts.upgrade.draining.Load) {
		t.Fatal("does not drain")
	}
	second := ts.initiate(t, "n")
	send(t, second, []byte("handshake"))
	if !testkit.Within(func() bool { ts.upgrade.mu.Lock(); defer ts.upgrade.mu.Unlock(); return len(ts.upgrade.clients) == 1 }) {
		t.Fatal("the second handover is not set aside")
	}
	if ts.TakeState() != nil {
		t.Error("makes way before the ACK")
	}
	if got := ts.ask(t, request(epmdproto.OpPort2, "n")); !strings.Contains(got, "n") {
		t.Errorf("a lookup meanwhile: %q", got)
	}
	ch.ack(first.ID, epmdproto.OK)
	ts.succeeded(t)
	ch = n.open()
	p, f := ch.take()
	buf := make([]byte, 64)
	if size, err := f.Read(buf); string(buf[:size]) != "handshake" || p.Peer != peerOf(second) {
		t.Errorf("%v: %q, %v", p, buf[:size], err)
	}
	ch.ack(p.ID, epmdproto.OK)
}

// TestUpgradeUnanswered: a node that answers nothing, or half, delays an upgrade no
// longer than a handover's deadline. Its answer still counts.
func TestUpgradeUnanswered(t *testing.T) {
	ts := upgradable(t, Options{HandoverTimeout: 2 * time.Second})
	n := ts.node(t, "n")
	c := ts.initiate(t, "n")
	n.asked()
	answer, err := epmdproto.AppendHandoverSocket(nil, n.socket)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, c, epmdproto.NoAnswer)
	_ = c.Close()
	send(t, n.heartbeat, answer[:5])
	next := ts.upgraded(t)
	send(t, n.heartbeat, answer[5:])
	if !testkit.Within(func() bool { entry := next.names.Lookup([]byte("n")); return entry != nil && !nodeOf(entry).isAsked() }) {
		t.Fatal("the rest of the answer is not taken for it")
	}
	next.initiate(t, "n")
	ch := n.open()
	p, _ := ch.take()
	ch.ack(p.ID, epmdproto.OK)
}

func (n *node) isAsked() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

// TestUpgradeFails: the server goes on unchanged.
func TestUpgradeFails(t *testing.T) {
	fail := fmt.Errorf("no such program")
	ts := start(t, Options{Trial: func(*State) error { return fail }})
	ts.register(t, plainNode("n"))
	if err := ts.Upgrade(); !errors.Is(err, fail) {
		t.Error(err)
	}
	if got := ts.ask(t, request(epmdproto.OpUpgrade, "")); got != "NOno such program" {
		t.Errorf("UPGRADE_REQ: %q", got)
	}
	ts.log.says(t, "going on as before")
	if got := ts.ask(t, request(epmdproto.OpPort2, "n")); !strings.Contains(got, "n") {
		t.Errorf("%q", got)
	}
}

// TestUpgradeRequest: the successor answers. Another user may not ask.
func TestUpgradeRequest(t *testing.T) {
	plain := start(t, Options{})
	if got := plain.ask(t, request(epmdproto.OpUpgrade, "")); !strings.HasPrefix(got, "NO") {
		t.Errorf("without Trial: %q", got)
	}
	ts := upgradable(t, Options{})
	ts.ask(t, request(epmdproto.OpNames, "")) // it runs, all of it, before the next one counts what runs
	other := start(t, ts.o, func(s *Server) {
		s.users.tcpOwner = func(_, _ netip.AddrPort) (uint32, error) { return 4242, nil }
	})
	if got := other.ask(t, request(epmdproto.OpUpgrade, "")); !strings.HasPrefix(got, "NO") || !strings.Contains(got, "own user") {
		t.Errorf("from another user: %q", got)
	}
	c := ts.dial(t)
	send(t, c, request(epmdproto.OpUpgrade, ""))
	ts.succeeded(t)
	if got := readAll(t, c); got != epmdproto.UpgradeOK {
		t.Errorf("%q", got)
	}
}

// TestEndDuringUpgrade: Close ends an upgrade too, and nothing leaks.
func TestEndDuringUpgrade(t *testing.T) {
	ts := upgradable(t, Options{})
	n := ts.node(t, "n")
	ts.initiate(t, "n")
	n.open().take()
	if err := ts.Upgrade(); err != nil {
		t.Fatal(err)
	}
	ts.Close()
	if b, err := io.ReadAll(n.heartbeat); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
}

func TestReadState(t *testing.T) {
	for text, want := range map[string]string{
		"": "EOF", "{}": "version 0, this epmd reads 1", `{"Version":2}`: "version 2, this epmd reads 1 (restart",
		`{"Version":1,"Clients":[{"Header":"AAAAAA=="}]}`: "a request of 4 and 0 bytes", `{"Version":`: "unexpected EOF",
	} {
		if _, err := ReadState(strings.NewReader(text)); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
