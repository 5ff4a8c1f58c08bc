package epmd

import (
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/status"
	"handover/go/internal/testkit"
)

// TestStatusRequest: the answer to STATUS_REQ, which only local peers get.
func TestStatusRequest(t *testing.T) {
	ts := start(t, Options{})
	ts.node(t, "a")
	ts.register(t, plainNode("b"))
	ts.ask(t, request(epmdproto.OpPort2, "a"))
	ts.ask(t, request(epmdproto.OpPort2, "x"))
	ts.ask(t, request(epmdproto.OpPort2, "a\x00b"))
	ts.ask(t, request('q', ""))
	ts.ask(t, request(epmdproto.OpKill, ""))
	ts.ask(t, request(epmdproto.OpStop, "a"))
	ts.ask(t, []byte{0, 0})
	s, err := status.Parse([]byte(ts.ask(t, request(epmdproto.OpStatus, ""))))
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]map[string]uint64{
		"lookup": {"ok": 1, "not_found": 1, "bad": 1}, "register": {"ok": 2}, "unknown": {"ok": 0, "bad": 1},
		"kill": {"ok": 0, "refused": 1}, "stop": {"ok": 0, "refused": 1}, "status": {"ok": 1},
	} {
		for result, n := range want {
			if s.Requests[kind][result] != n {
				t.Errorf("%s %s: %d, want %d", kind, result, s.Requests[kind][result], n)
			}
		}
	}
	if len(s.Nodes) != 2 || s.Nodes[0].Name != "b" || s.Nodes[0].Handover || !s.Nodes[1].Handover || s.Nodes[1].Channel != channelNone ||
		s.Channels.None != 1 || s.Connections.Accepted != 10 || s.Connections.Silent != 1 || s.Policy {
		t.Errorf("%+v", s)
	}
	if got := ts.askRemote(t, request(epmdproto.OpStatus, "")); got != "" {
		t.Errorf("from another host: %q", got)
	}
	if s := ts.Status(); s.Refusals["remote"] != 1 || s.Requests["status"]["refused"] != 1 {
		t.Errorf("%+v", s)
	}
}

// TestChannelStates: none, opening, open, none again; passes under way; handovers that
// were refused because there was no slot.
func TestChannelStates(t *testing.T) {
	ts := start(t, Options{MaxNodePasses: 1, MaxNodeQueue: 1})
	n := ts.node(t, "n")
	state := func(want status.Channels) {
		t.Helper()
		if !testkit.Within(func() bool { return ts.Status().Channels == want }) {
			t.Fatalf("%+v, want %+v", ts.Status().Channels, want)
		}
	}
	state(status.Channels{None: 1})
	ts.initiate(t, "n")
	n.asked()
	state(status.Channels{Opening: 1, Passing: 1})
	n.sendSocketName()
	ch := n.accept()
	p, _ := ch.take()
	state(status.Channels{Open: 1, Passing: 1})
	ts.initiate(t, "n")
	state(status.Channels{Open: 1, Passing: 1, Queued: 1})
	refused(t, ts.initiate(t, "n"), epmdproto.Overloaded)
	ch.ack(p.ID, epmdproto.OK)
	p, _ = ch.take()
	ch.ack(p.ID, epmdproto.Refused)
	state(status.Channels{Open: 1})
	_ = ch.Close()
	state(status.Channels{None: 1})
	if s := ts.Status(); s.Handovers["ok"] != 1 || s.Handovers["overloaded"] != 1 || s.Handovers["refused"] != 1 || s.HandoverSeconds.Count() != 1 {
		t.Errorf("%+v", s)
	}
}

// TestBuckets: at a bound, and a nanosecond beyond it.
func TestBuckets(t *testing.T) {
	for i, bound := range handoverBounds {
		at := time.Duration(bound * float64(time.Second))
		if bucketOf(at-1) != i || bucketOf(at) != i || bucketOf(at+1) != i+1 {
			t.Errorf("%v: %d, %d, %d", at, bucketOf(at-1), bucketOf(at), bucketOf(at+1))
		}
	}
}

// TestUnknownResult: a carrier's result that no table has is counted as a refusal.
func TestUnknownResult(t *testing.T) {
	st := newStats(Options{})
	st.countHandover(epmdproto.Result(200), time.Now())
	if st.handovers[epmdproto.Refused].Load() != 1 || st.requests[kindHandover][outcomeRefused].Load() != 1 {
		t.Error("not counted")
	}
}
