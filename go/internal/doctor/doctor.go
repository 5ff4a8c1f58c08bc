// Package doctor finds out, step by step, whether a node can be reached, and if not, what
// to do. It takes the same steps as a node that connects:
//
//	name -> resolve -> tcp -> epmd -> registered -> handover ------------> handshake
//	                                                    \-> direct (fallback) -/
//
// It never finishes the handshake, so the node reports neither nodeup nor nodedown. It
// does not trust what it reads: the texts that it shows are printable and bounded.
package doctor

import (
	"context"
	"net"
	"net/netip"
	"time"

	"handover/go/internal/epmdproto"
)

// DefaultTimeout bounds a step. It is longer than the 6 s after which an EPMD answers that
// a node does not respond.
const DefaultTimeout = 8 * time.Second

// Options of [Run]. Port must be set.
type Options struct {
	Host    string        // dialled instead of the host in the node's name, unless empty
	Port    uint16        // EPMD's
	Inet6   bool          // use IPv6 addresses only, as handover_tcp6 does; else IPv4 only
	Timeout time.Duration // of a step; default DefaultTimeout
}

// State is the result of a step.
type State string

// Skipped means that the step was not reached, or that its result is unknown.
const (
	OK      State = "ok"
	Failed  State = "failed"
	Skipped State = "skipped"
)

// Step is one check and its result.
type Step struct {
	Name   string  `json:"name"`
	State  State   `json:"state"`
	Millis float64 `json:"ms"`
	Detail string  `json:"detail"` // what was found, for people
	Advice string  `json:"advice"` // what to do about it, for people
}

// Outcome is the result of all steps.
type Outcome string

// The outcomes. Direct means that the node can be reached, but only at its own port.
const (
	ByHandover  Outcome = "handover"
	Direct      Outcome = "direct"
	Unreachable Outcome = "failed"
)

// Report has the results of all steps. The step "direct" is in it only if it was needed.
type Report struct {
	Node   string  `json:"node"`
	Result Outcome `json:"result"`
	Steps  []Step  `json:"steps"`
}

// check is a run of the steps. Each step stores here what the next ones need.
type check struct {
	o          Options
	target     string
	name, host string

	addr  netip.AddrPort // EPMD's
	conn  net.Conn       // to EPMD, unused yet
	stock bool           // the EPMD is a stock one

	node   epmdproto.Alive2Req // EPMD's answer to the lookup
	known  bool                // EPMD has answered the lookup
	asked  *answer             // to HANDOVER_REQ, or nil if it was not sent
	direct bool                // the node must be dialled at its own port
	link   net.Conn            // to the node, before the handshake
}

// finding is the result of a step.
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

// Run checks target, "name@host", and calls each, which may be nil, after every step. A
// step takes Options.Timeout at most.
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
