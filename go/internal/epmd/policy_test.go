package epmd

import (
	"strings"
	"testing"

	"handover/go/internal/epmdconf"
	"handover/go/internal/epmdproto"
	"handover/go/internal/policy"
	"handover/go/internal/testkit"
)

func policyOf(t *testing.T, toml string) *policy.Policy {
	t.Helper()
	c, err := epmdconf.Parse([]byte(toml))
	if err != nil {
		t.Fatal(err)
	}
	return c.Policy
}

// askRemote asks as a peer of another host, 192.0.2.1.
func (ts *testServer) askRemote(t *testing.T, req []byte) string {
	t.Helper()
	ours, theirs := remotePair(t, ts.Server)
	ts.tasks.Go(func() { ts.serve(ours) })
	send(t, theirs, req)
	return readAll(t, theirs)
}

const unknownName = "w\x01"

func result(r epmdproto.Result) string { return "i" + string(rune(r)) }

// TestPolicy: each rule, as a peer of another host and one of this host see it.
// A handover to a stock node that policy allows ends with no_handover.
func TestPolicy(t *testing.T) {
	found := string(epmdproto.AppendPort2Resp(nil, plainNode("stock")))
	for _, c := range []struct {
		toml, lookup, names string
		handover            epmdproto.Result
		refused             []refusal
	}{
		{"", found, "name stock at port 1234\n", epmdproto.NoHandover, nil},
		{"allow.lookups = []", unknownName, "name stock at port 1234\n", epmdproto.NoHandover, []refusal{refusedSource}},
		{"allow.lookups = ['192.0.2.0/24']", found, "name stock at port 1234\n", epmdproto.NoHandover, nil},
		{"allow.handovers = ['192.0.2.2']", found, "name stock at port 1234\n", epmdproto.Refused, []refusal{refusedSource}},
		{"allow.names = ['2001:db8::/32']", found, "", epmdproto.NoHandover, []refusal{refusedSource}},
		{"nodes.hidden = ['st*']", unknownName, "", epmdproto.NoSuchNode, []refusal{refusedHidden, refusedHidden}},
		{"nodes.handover = ['app*']", found, "name stock at port 1234\n", epmdproto.Refused, []refusal{refusedNode}},
		{"[rate]\nper_second = 0.001\nburst = 2", found, "name stock at port 1234\n", epmdproto.Overloaded, []refusal{refusedRate}},
	} {
		t.Run(c.toml, func(t *testing.T) {
			ts := start(t, Options{})
			ts.register(t, plainNode("stock"))
			ts.SetPolicy(policyOf(t, c.toml))
			for _, q := range []struct {
				req  []byte
				want string
			}{
				{request(epmdproto.OpPort2, "stock"), c.lookup}, {request(epmdproto.OpNames, ""), ts.portWord() + c.names},
				{handoverReq(t, "stock"), result(c.handover)},
			} {
				if got := ts.askRemote(t, q.req); got != q.want {
					t.Errorf("%q: %q, want %q", q.req, got, q.want)
				}
			}
			ts.countedRefusals(t, c.refused)
			// A peer of this host is free of it all.
			for _, q := range [][]byte{request(epmdproto.OpPort2, "stock"), request(epmdproto.OpNames, ""), handoverReq(t, "stock")} {
				if got := ts.ask(t, q); got != found && got != ts.portWord()+"name stock at port 1234\n" && got != result(epmdproto.NoHandover) {
					t.Errorf("%q of this host: %q", q, got)
				}
			}
			ts.countedRefusals(t, c.refused)
		})
	}
}

func (ts *testServer) countedRefusals(t *testing.T, want []refusal) {
	t.Helper()
	wanted := make(map[string]uint64)
	for _, r := range want {
		wanted[refusalNames[r]]++
		ts.log.says(t, `"reason":"`+refusalNames[r]+`"`)
	}
	for name, n := range ts.Status().Refusals {
		if n != wanted[name] {
			t.Errorf("%d refused for %s, want %d", n, name, wanted[name])
		}
	}
}

// TestPolicyHandover: the same policy allows handovers to one node and refuses them to
// another. A policy can be replaced while connections wait.
func TestPolicyHandover(t *testing.T) {
	ts := start(t, Options{})
	n := ts.node(t, "app1")
	ts.register(t, plainNode("other"))
	ts.SetPolicy(policyOf(t, "nodes.handover = ['app?']\nallow.handovers = ['192.0.2.1']"))
	if got := ts.askRemote(t, handoverReq(t, "other")); got != result(epmdproto.Refused) {
		t.Errorf("%q", got)
	}
	ours, theirs := remotePair(t, ts.Server)
	ts.tasks.Go(func() { ts.serve(ours) })
	send(t, theirs, handoverReq(t, "app1"))
	ch := n.open()
	p, _ := ch.take()
	ch.ack(p.ID, epmdproto.OK)
	waiting, theirs := remotePair(t, ts.Server)
	ts.tasks.Go(func() { ts.serve(waiting) })
	send(t, theirs, handoverReq(t, "app1")[:4])
	if !testkit.Within(func() bool { return len(ts.conns.polledConns()) == 3 }) {
		t.Fatal("the request that is not whole does not wait")
	}
	ts.SetPolicy(policyOf(t, "allow.handovers = []"))
	send(t, theirs, handoverReq(t, "app1")[4:])
	refused(t, theirs, epmdproto.Refused)
	if !testkit.Within(func() bool { return ts.Status().Handovers["ok"] == 1 }) { // counted when its answer has been read
		t.Error("the handover was not counted")
	}
	st := ts.Status()
	if st.Handovers["ok"] != 1 || st.Handovers["refused"] != 2 || st.Requests["handover"]["refused"] != 2 || !st.Policy {
		t.Errorf("%+v", st)
	}
}

// TestRefusalLines: refusals beyond refusalLines a minute are counted, not logged.
func TestRefusalLines(t *testing.T) {
	ts := start(t, Options{})
	ts.SetPolicy(policyOf(t, "allow.names = []"))
	for range refusalLines + 5 {
		ts.askRemote(t, request(epmdproto.OpNames, ""))
	}
	if n := strings.Count(ts.log.String(), "refused by policy"); n != refusalLines {
		t.Errorf("%d lines", n)
	}
	if n := ts.Status().Refusals["source"]; n != refusalLines+5 {
		t.Errorf("%d counted", n)
	}
}
