// Package doctor tells, step by step, whether a node can be reached and what to do
// where it can't. It goes the way that a node of this cluster would:
//
//	name -> resolve -> tcp -> epmd -> registered -> handover ------------> handshake
//	                                                    \-> direct (fallback) -/
//
// It never finishes the handshake: the node sees a connection that was given up, and
// neither nodeup nor nodedown. It trusts nothing that it reads: what is shown is
// printable and bounded.
package doctor

import (
	"context"
	"net"
	"net/netip"
	"time"

	"handover/go/internal/epmdproto"
)

// DefaultTimeout bounds a step. An EPMD gives up a handover after 6 s: wait for its
// own words.
const DefaultTimeout = 8 * time.Second

// Options say what to dial; the zero value of each but Port is a default.
type Options struct {
	Host    string // dialled in place of the host of the node's name
	Port    uint16 // EPMD's
	Inet6   bool   // as handover_tcp6, which uses no IPv4 address; without it no IPv6 address is used
	Timeout time.Duration
}

// State is how a step came out.
type State string

// Skipped is a step that was not reached, or that can't be told.
const (
	OK      State = "ok"
	Failed  State = "failed"
	Skipped State = "skipped"
)

// Step is one of the checks.
type Step struct {
	Name   string  `json:"name"`
	State  State   `json:"state"`
	Millis float64 `json:"ms"`
	Detail string  `json:"detail"` // what was found, for people
	Advice string  `json:"advice"` // what to do about it, for people
}

// Outcome is what the steps come to.
type Outcome string

// The outcomes. Direct: the node is reached, but at its own port.
const (
	ByHandover  Outcome = "handover"
	Direct      Outcome = "direct"
	Unreachable Outcome = "failed"
)

// Report is all that was found. There is a step "direct" where it was needed.
type Report struct {
	Node   string  `json:"node"`
	Result Outcome `json:"result"`
	Steps  []Step  `json:"steps"`
}

// check is a run of the steps; each leaves here what the next ones need.
type check struct {
	o          Options
	target     string
	name, host string

	addr  netip.AddrPort // EPMD's
	conn  net.Conn       // to it, nothing asked yet
	stock bool           // it is no EPMD of ours

	node   epmdproto.Alive2Req // what EPMD tells of the node
	known  bool                // it tells anything
	asked  *answer             // to HANDOVER_REQ, if that was sent
	direct bool                // the node's own port is the way
	link   net.Conn            // to the node, the handshake is next
}

// finding is what a step returns.
type finding struct {
	state          State
	detail, advice string
}

func ok(detail string) finding             { return finding{OK, detail, ""} }
func failed(detail, advice string) finding { return finding{Failed, detail, advice} }
func skipped(detail, advice string) finding {
	return finding{Skipped, detail, advice}
}

const stepDirect = "direct"

var allSteps = []struct {
	name string
	run  func(*check, context.Context) finding
}{
	{"name", (*check).checkName},
	{"resolve", (*check).resolveHost},
	{"tcp", (*check).dialEPMD},
	{"epmd", (*check).identifyEPMD},
	{"registered", (*check).checkRegistered},
	{"handover", (*check).checkHandover},
	{stepDirect, (*check).dialNode},
	{"handshake", (*check).checkHandshake},
}

// Run makes the check of target, "name@host", and calls each (may be nil) with a
// step when it is done. It takes a Timeout a step at most.
func Run(ctx context.Context, target string, o Options, each func(Step)) Report {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	c := &check{o: o, target: target}
	defer c.closeConns()
	report := Report{Node: target, Result: ByHandover}
	for _, s := range allSteps {
		if s.name == stepDirect && !c.direct {
			continue
		}
		step := Step{Name: s.name, State: Skipped}
		if report.Result != Unreachable {
			step = c.runStep(ctx, s.name, s.run)
		}
		switch {
		case step.State == Failed:
			report.Result = Unreachable
		case s.name == stepDirect && step.State == OK:
			report.Result = Direct
		}
		report.Steps = append(report.Steps, step)
		if each != nil {
			each(step)
		}
	}
	return report
}

func (c *check) runStep(ctx context.Context, name string, f func(*check, context.Context) finding) Step {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	start := time.Now()
	found := f(c, ctx)
	millis := float64(time.Since(start).Microseconds()) / 1000
	return Step{Name: name, State: found.state, Millis: millis, Detail: found.detail, Advice: found.advice}
}

func (c *check) closeConns() {
	for _, conn := range []net.Conn{c.conn, c.link} {
		if conn != nil {
			_ = conn.Close()
		}
	}
}
