package status

import (
	"reflect"
	"strings"
	"testing"
)

func sample() Status {
	return Status{
		PID: 7, Port: 4369, Seconds: 90, Policy: true, OldNames: 2,
		Nodes: []Node{
			{Name: "n", Port: 4001, Creation: 5, Handover: true, Channel: "open", Unread: 1},
			{Name: "evil\x1b[2J", Port: 4002, Creation: 6},
		},
		Connections:     Connections{Open: 3, Waiting: 1, Accepted: 20, Silent: 4},
		Channels:        Channels{Open: 1},
		Requests:        map[string]map[string]uint64{"lookup": {"ok": 5, "refused": 2, "bad": 0}, "kill": {"ok": 0}},
		Handovers:       map[string]uint64{"ok": 99, "refused": 1},
		HandoverSeconds: Histogram{Bounds: []float64{.001, .01}, Counts: []uint64{50, 48, 1}, Sum: 1},
		Refusals:        map[string]uint64{"source": 2},
	}
}

// TestText is what a person reads.
func TestText(t *testing.T) {
	want := `epmd on port 4369, pid 7, up 1m30s, a policy for other hosts
nodes        2, 2 old names
connections  3 open, 1 of them have not asked; 20 accepted, 4 ended without a request
channels     1 open, 0 opening, 0 none; 0 connections under way, 0 queued
requests     lookup: 5 ok, 2 refused
handovers    99 ok, 1 refused
             half within 1ms, 99 % within no bound that is counted
refusals     2 source

NODE           PORT  CREATION  CHANNEL             UNREAD  QUEUED
n              4001  5         open                1       0
"evil\x1b[2J"  4002  6         takes no handovers  0       0
`
	if got := sample().Text(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := (Status{}).Text(); !strings.Contains(got, "handovers    none\n") || strings.Contains(got, "NODE") {
		t.Errorf("an empty one: %s", got)
	}
}

func TestWithin(t *testing.T) {
	for counts, want := range map[[3]uint64]string{{1, 0, 0}: "1ms", {1, 1, 0}: "1ms", {1, 2, 0}: "10ms", {0, 0, 1}: "no bound that is counted"} {
		if got := (Histogram{Bounds: []float64{.001, .01}, Counts: counts[:]}).quantile(0.5); got != want {
			t.Errorf("%v: %s, want %s", counts, got, want)
		}
	}
}

// FuzzParse: an answer that is no status gives an error or can be printed.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "{}", "[]", `{"nodes":[{"name":"n"}],"handover_seconds":{"bounds":[1],"counts":[1]}}`, `{"handover_seconds":{"bounds":[1,2],"counts":[]}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		s, err := Parse(answer)
		if err != nil && !reflect.DeepEqual(s, Status{}) {
			t.Errorf("%v with %+v", err, s)
		}
		if err == nil && !strings.HasPrefix(s.Text(), "epmd on port") {
			t.Error("cannot be printed")
		}
	})
}
