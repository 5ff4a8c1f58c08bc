package doctor

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

var stateMarks = map[State]string{OK: "✔", Failed: "✘", Skipped: "-"}

// Line returns the step as a line of text.
func (s Step) Line() string {
	time := ""
	if s.State != Skipped || s.Detail != "" {
		time = fmt.Sprintf("%.1f ms", s.Millis)
	}
	return strings.TrimRight(fmt.Sprintf("%s %-10s %10s  %s", stateMarks[s.State], s.Name, time, s.Detail), " ")
}

// Summary returns the last line: how the node can be reached, or what to do about the step
// that failed.
func (r Report) Summary() string {
	advice := ""
	for _, s := range r.Steps {
		if s.Advice != "" {
			advice = s.Advice
		}
	}
	switch r.Result {
	case ByHandover:
		return printable(r.Node) + " can be reached by handover."
	case Direct:
		return printable(r.Node) + " can be reached at its own port, not by handover. To do: " + advice + "."
	}
	return "To do: " + advice + "."
}

// printable makes foreign text safe for a terminal, and bounds it.
func printable(s string) string {
	const most = 300
	if len(s) > most {
		s = s[:most] + "..."
	}
	for _, r := range s {
		if !unicode.IsGraphic(r) || r == unicode.ReplacementChar {
			return strconv.Quote(s)
		}
	}
	return s
}
