package policy

import (
	"net/netip"
	"testing"
	"time"
)

func source(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
}

// TestBurst: N at once and not one more; then one for each that time has brought.
func TestBurst(t *testing.T) {
	l := newLimiter(10, 3)
	now := time.Now()
	took := func(at time.Time) (n int) {
		for l.allow(source(1), at) {
			n++
		}
		return n
	}
	if n := took(now); n != 3 {
		t.Errorf("%d at once, want 3", n)
	}
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{99 * time.Millisecond, 0}, {100 * time.Millisecond, 1}, {350 * time.Millisecond, 2}, {time.Hour, 3}, {time.Minute, 0}} {
		if n := took(now.Add(c.after)); n != c.want {
			t.Errorf("%d after %v, want %d", n, c.after, c.want)
		}
	}
	if !l.allow(source(2), now) {
		t.Error("one source's limit is another's")
	}
}

// TestMaxSources: a table that is full forgets the source that has been silent
// for the longest time, and no other.
func TestMaxSources(t *testing.T) {
	l := newLimiter(0.001, 1)
	now := time.Now()
	for i := range MaxSources {
		l.allow(source(i), now)
	}
	if len(l.bySource) != MaxSources || l.allow(source(0), now) {
		t.Error("forgets before the table is full")
	}
	l.allow(source(MaxSources), now)
	if len(l.bySource) != MaxSources || l.recent.Len() != MaxSources {
		t.Errorf("%d, %d sources", len(l.bySource), l.recent.Len())
	}
	if l.allow(source(0), now) || !l.allow(source(1), now) {
		t.Error("forgets one that asked since")
	}
}

// TestDefaultBurst: twice the rate, and never nothing.
func TestDefaultBurst(t *testing.T) {
	for rate, want := range map[float64]float64{0.1: 1, 0.5: 1, 0.6: 2, 50: 100} {
		if p := newPolicy(t, Rules{Rate: Rates{PerSecond: rate}}); p.rate.burst != want {
			t.Errorf("%v a second: burst %v", rate, p.rate.burst)
		}
	}
	p := newPolicy(t, Rules{Rate: Rates{PerSecond: 1, Burst: 1}})
	first := p.Check(Names, netip.Addr{}, source(1), "")
	if second := p.Check(Lookup, netip.Addr{}, source(1), "n"); first != Allowed || second != Rate || second.String() != "rate" {
		t.Errorf("%v, %v", first, second)
	}
}
