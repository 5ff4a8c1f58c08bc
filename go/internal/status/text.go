package status

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Text returns the status as text: first the state, then the counters, then the nodes.
func (s Status) Text() string {
	var b strings.Builder
	up := time.Duration(s.Seconds * float64(time.Second)).Round(time.Second)
	policy := "no policy: every host may ask for everything"
	if s.Policy {
		policy = "a policy for other hosts"
	}
	fmt.Fprintf(&b, "epmd on port %d, pid %d, up %v, %s\n", s.Port, s.PID, up, policy)
	fmt.Fprintf(&b, "nodes        %d, %d old names\n", len(s.Nodes), s.OldNames)
	c, ch := s.Connections, s.Channels
	fmt.Fprintf(&b, "connections  %d open, %d of them have not asked; %d accepted, %d ended without a request\n", c.Open, c.Waiting, c.Accepted, c.Silent)
	fmt.Fprintf(&b, "channels     %d open, %d opening, %d none; %d connections under way, %d queued\n", ch.Open, ch.Opening, ch.None, ch.Passing, ch.Queued)
	for _, request := range slices.Sorted(maps.Keys(s.Requests)) {
		if line := countsText(s.Requests[request]); line != none {
			fmt.Fprintf(&b, "requests     %s: %s\n", request, line)
		}
	}
	fmt.Fprintf(&b, "handovers    %s\n", countsText(s.Handovers))
	if n := s.HandoverSeconds.Count(); n > 0 {
		fmt.Fprintf(&b, "             half within %s, 99 %% within %s\n", s.HandoverSeconds.quantile(0.5), s.HandoverSeconds.quantile(0.99))
	}
	fmt.Fprintf(&b, "refusals     %s\n", countsText(s.Refusals))
	b.WriteString(s.nodeTable())
	return b.String()
}

const none = "none"

// countsText omits counters that are zero.
func countsText(m map[string]uint64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", m[k], k))
		}
	}
	if parts == nil {
		return none
	}
	return strings.Join(parts, ", ")
}

// quantile returns the upper bound of the bucket that has the share's last observation.
func (h Histogram) quantile(share float64) string {
	want, seen := share*float64(h.Count()), uint64(0)
	for i, bound := range h.Bounds {
		if seen += h.Counts[i]; float64(seen) >= want {
			return time.Duration(bound * float64(time.Second)).String()
		}
	}
	return "no bound that is counted"
}

func (s Status) nodeTable() string {
	if len(s.Nodes) == 0 {
		return ""
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nNODE\tPORT\tCREATION\tCHANNEL\tUNREAD\tQUEUED")
	for _, n := range s.Nodes {
		channel := "takes no handovers"
		if n.Handover {
			channel = n.Channel
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%d\t%d\n", quoteName(n.Name), n.Port, n.Creation, channel, n.Unread, n.Queued)
	}
	_ = w.Flush()
	return b.String()
}

// quoteName quotes a name that could move a terminal's cursor.
func quoteName(name string) string {
	if quoted := fmt.Sprintf("%q", name); quoted != `"`+name+`"` {
		return quoted
	}
	return name
}
