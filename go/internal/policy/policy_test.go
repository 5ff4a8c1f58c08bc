package policy

import (
	"math"
	"net/netip"
	"strings"
	"testing"
)

func networks(t *testing.T, texts ...string) []Network {
	t.Helper()
	list := make([]Network, len(texts))
	for i, text := range texts {
		if err := list[i].UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func patterns(t *testing.T, texts ...string) []Pattern {
	t.Helper()
	list := make([]Pattern, len(texts))
	for i, text := range texts {
		if err := list[i].UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func newPolicy(t *testing.T, r Rules) *Policy {
	t.Helper()
	p, err := New(r)
	if err != nil || p == nil {
		t.Fatalf("%+v: %v, %v", r, p, err)
	}
	return p
}

func TestNoRulesNoPolicy(t *testing.T) {
	if p, err := New(Rules{}); p != nil || err != nil {
		t.Errorf("%v, %v", p, err)
	}
}

// TestSources: the addresses at both ends of a network and those just outside, by
// request; a list that is empty is not one that is missing.
func TestSources(t *testing.T) {
	p := newPolicy(t, Rules{Allow: Allow{
		Lookups: networks(t, "10.1.0.0/16", "2001:db8::/32", "192.0.2.7", "fe80::/10"), Handovers: []Network{},
	}})
	for peer, want := range map[string]Reason{
		"10.0.255.255": Source, "10.1.0.0": Allowed, "10.1.255.255": Allowed, "10.2.0.0": Source,
		"2001:db7:ffff::": Source, "2001:db8::": Allowed, "2001:db8:ffff::1": Allowed, "2001:db9::": Source,
		"192.0.2.6": Source, "192.0.2.7": Allowed, "192.0.2.8": Source,
		"::ffff:10.1.2.3": Allowed, "fe80::1%eth0": Allowed, "fec0::1%eth0": Source,
	} {
		addr := netip.MustParseAddr(peer)
		if got := p.Check(Lookup, addr, netip.Prefix{}, "n"); got != want {
			t.Errorf("lookup of %s: %v", peer, got)
		}
		if got := p.Check(Handover, addr, netip.Prefix{}, "n"); got != Source {
			t.Errorf("handover of %s: %v", peer, got)
		}
		if got := p.Check(Names, addr, netip.Prefix{}, ""); got != Allowed {
			t.Errorf("names of %s: %v", peer, got)
		}
	}
}

func TestNodes(t *testing.T) {
	p := newPolicy(t, Rules{Nodes: Nodes{Hidden: patterns(t, "secret*"), Handover: patterns(t, "app?", "secret1", "a.c", "[x]")}})
	for name, want := range map[string][2]Reason{
		"app1": {Allowed, Allowed}, "app": {Allowed, Node}, "app12": {Allowed, Node}, "appé": {Allowed, Allowed}, "xapp1": {Allowed, Node},
		"secret": {Hidden, Hidden}, "secret1": {Hidden, Hidden}, "secret/x": {Hidden, Hidden}, "secret\nx": {Hidden, Hidden},
		"a.c": {Allowed, Allowed}, "abc": {Allowed, Node}, "[x]": {Allowed, Allowed}, "x": {Allowed, Node},
	} {
		lookup := p.Check(Lookup, netip.Addr{}, netip.Prefix{}, name)
		handover := p.Check(Handover, netip.Addr{}, netip.Prefix{}, name)
		if lookup != want[0] || handover != want[1] {
			t.Errorf("%q: lookup %v, handover %v", name, lookup, handover)
		}
	}
	if none := newPolicy(t, Rules{Nodes: Nodes{Handover: []Pattern{}}}); none.Check(Handover, netip.Addr{}, netip.Prefix{}, "n") != Node {
		t.Error("an empty list of nodes allows one")
	}
}

func TestBadTexts(t *testing.T) {
	for text, want := range map[string]string{
		"": "not a network", "10.0.0.0/33": "not a network", "10.0.0/8": "not a network", "host": "not a network", "10.0.0.1/8": "did you mean 10.0.0.0/8?",
		"::ffff:10.0.0.0/104": "as IPv4", "::ffff:10.0.0.1": "as IPv4", "fe80::1%eth0": "not a network", "fe80::%eth0/10": "not a network",
	} {
		var n Network
		if err := n.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("network %q: %v", text, err)
		}
	}
	for text, want := range map[string]string{"": "empty", "n@host": "has an @", strings.Repeat("n", maxPattern+1): "2049 bytes"} {
		var p Pattern
		if err := p.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("pattern %q: %v", text, err)
		}
	}
	patterns(t, strings.Repeat("*", maxPattern), strings.Repeat("n", maxPattern-1))
}

func TestRuleLimits(t *testing.T) {
	for _, n := range []int{MaxEntries - 1, MaxEntries, MaxEntries + 1} {
		_, err := New(Rules{Allow: Allow{Names: make([]Network, n)}})
		if (err == nil) != (n <= MaxEntries) || err != nil && !strings.Contains(err.Error(), "allow.names has 1025 entries") {
			t.Errorf("%d entries: %v", n, err)
		}
	}
	for _, c := range []struct {
		rates Rates
		want  string
	}{
		{Rates{PerSecond: MaxRate, Burst: MaxRate}, ""}, {Rates{PerSecond: MaxRate + 1}, "rate.per_second is"}, {Rates{PerSecond: -1}, "rate.per_second is -1"},
		{Rates{PerSecond: math.NaN()}, "rate.per_second is NaN"}, {Rates{PerSecond: math.Inf(1)}, "rate.per_second is +Inf"},
		{Rates{PerSecond: 1, Burst: MaxRate + 1}, "rate.burst is"}, {Rates{PerSecond: 1, Burst: -1}, "rate.burst is -1"}, {Rates{Burst: 1}, "per_second is not set"},
	} {
		if _, err := New(Rules{Rate: c.rates}); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.rates, err)
		}
	}
}

// FuzzTexts: what is taken is written back as something that is taken as the same.
func FuzzTexts(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "2001:db8::/32", "192.0.2.7", "::1", "app*", "a?c", "[x]", `\E\Q`, "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var n, again Network
		if n.UnmarshalText(text) == nil {
			back, err := n.MarshalText()
			if err != nil || again.UnmarshalText(back) != nil || again != n {
				t.Errorf("%q: %v, then %q, %v", text, n, back, err)
			}
		}
		var p Pattern
		if p.UnmarshalText(text) == nil && !strings.ContainsAny(string(text), "*?") && !p.match.Match(text) {
			t.Errorf("%q does not match itself", text)
		}
	})
}
