// Package policy decides what an EPMD answers to peers of other hosts: which sources
// may ask for what and how often, which names they see, and which nodes they may be
// handed over to. It does no I/O.
//
//	request --> source allowed? --> rate left? --> name seen? --> node allowed? --> answer
//	               | no                | no           | no           | no
//	               v                   v              v              v
//	            Source               Rate           Hidden          Node
package policy

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Request is the type of a request.
type Request uint8

// The requests that a policy applies to.
const (
	Lookup Request = iota
	Handover
	Names
)

// Reason is the reason why a request is refused.
type Reason uint8

// The reasons. Allowed is the zero value.
const (
	Allowed Reason = iota
	Source         // the peer is in no network of the request's list
	Rate           // the source asks too often
	Hidden         // the name is hidden from other hosts
	Node           // the node may not be handed over to
)

// String is the reason as logs and metrics have it.
func (r Reason) String() string {
	return [...]string{"allowed", "source", "rate", "hidden", "node"}[r]
}

// Rules are the operator's rules, as in the file. The zero value allows everything.
type Rules struct {
	Allow Allow `toml:"allow"`
	Nodes Nodes `toml:"nodes"`
	Rate  Rates `toml:"rate"`
}

// Allow lists the networks that may ask. A nil list allows every peer, an empty one none.
type Allow struct {
	Lookups   []Network `toml:"lookups"`
	Handovers []Network `toml:"handovers"`
	Names     []Network `toml:"names"`
}

// Nodes lists the nodes that other hosts see and reach.
type Nodes struct {
	// Hidden names do not exist for other hosts.
	Hidden []Pattern `toml:"hidden"`
	// Handover, if not nil, lists the only nodes that peers may be handed over to.
	Handover []Pattern `toml:"handover"`
}

// Rates limits how often one source may ask.
type Rates struct {
	// PerSecond is the number of requests per second; 0 means no limit.
	PerSecond float64 `toml:"per_second"`
	// Burst is the number of requests at once; 0 means twice PerSecond, and at least 1.
	Burst int `toml:"burst"`
}

// Limits of the values in a file.
const (
	MaxEntries = 1024
	MaxRate    = 1_000_000
)

// Policy applies one set of rules. It is safe for concurrent use.
type Policy struct {
	rules Rules
	rate  *limiter // nil: no limit
}

// New returns nil if the rules allow everything. The error names the key.
func New(r Rules) (*Policy, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	p := &Policy{rules: r}
	if r.Rate.PerSecond > 0 {
		burst := r.Rate.Burst
		if burst == 0 {
			burst = int(max(1, math.Ceil(2*r.Rate.PerSecond)))
		}
		p.rate = newLimiter(r.Rate.PerSecond, burst)
	}
	a, n := r.Allow, r.Nodes
	if p.rate == nil && a.Lookups == nil && a.Handovers == nil && a.Names == nil && len(n.Hidden) == 0 && n.Handover == nil {
		return nil, nil
	}
	return p, nil
}

func (r Rules) validate() error {
	for _, list := range []struct {
		key     string
		entries int
	}{
		{"allow.lookups", len(r.Allow.Lookups)}, {"allow.handovers", len(r.Allow.Handovers)}, {"allow.names", len(r.Allow.Names)},
		{"nodes.hidden", len(r.Nodes.Hidden)}, {"nodes.handover", len(r.Nodes.Handover)},
	} {
		if list.entries > MaxEntries {
			return fmt.Errorf("%s has %d entries; the maximum is %d", list.key, list.entries, MaxEntries)
		}
	}
	rate, burst := r.Rate.PerSecond, r.Rate.Burst
	switch {
	case !(rate >= 0 && rate <= MaxRate): // NaN too
		return fmt.Errorf("rate.per_second is %v; it is a number from 0 (no limit) to %d", rate, MaxRate)
	case burst < 0 || burst > MaxRate:
		return fmt.Errorf("rate.burst is %d; it is a number from 0 (twice per_second) to %d", burst, MaxRate)
	case burst > 0 && rate == 0:
		return fmt.Errorf("rate.burst is %d but rate.per_second is not set", burst)
	}
	return nil
}

// Check returns Allowed, or the reason why a request of a peer of another host is
// refused. The rate limit counts per source. name is empty for Names.
func (p *Policy) Check(what Request, peer netip.Addr, source netip.Prefix, name string) Reason {
	from := [...][]Network{Lookup: p.rules.Allow.Lookups, Handover: p.rules.Allow.Handovers, Names: p.rules.Allow.Names}[what]
	switch {
	case from != nil && !containsAddr(from, peer.Unmap().WithZone("")):
		return Source
	case p.rate != nil && !p.rate.allow(source, time.Now()):
		return Rate
	case what == Names:
		return Allowed
	case p.Hides(name):
		return Hidden
	case what == Handover && p.rules.Nodes.Handover != nil && !matchesAny(p.rules.Nodes.Handover, name):
		return Node
	}
	return Allowed
}

// Hides reports whether a name is hidden from other hosts.
func (p *Policy) Hides(name string) bool { return matchesAny(p.rules.Nodes.Hidden, name) }

func containsAddr(networks []Network, peer netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n Network) bool { return n.prefix.Contains(peer) })
}

func matchesAny(patterns []Pattern, name string) bool {
	return slices.ContainsFunc(patterns, func(p Pattern) bool { return p.match.MatchString(name) })
}
