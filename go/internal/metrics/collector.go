package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"handover/go/internal/status"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("epmd_"+name, help, labels, nil)
}

// The names are docs/EPMD.md's.
var (
	up          = desc("up_seconds", "Time since the start.")
	nodes       = desc("nodes", "Registered nodes.")
	oldNames    = desc("old_names", "Names that were given up and are remembered.")
	open        = desc("connections_open", "Open connections that are no node's.")
	waiting     = desc("connections_waiting", "Open connections that have not asked yet.")
	accepted    = desc("connections_accepted_total", "Accepted connections.")
	silent      = desc("connections_silent_total", "Connections that ended without a whole request.")
	channels    = desc("channels", "Nodes that take handovers, by the state of the way to them.", "state")
	passing     = desc("handovers_passing", "Connections passed to nodes and not acknowledged.")
	queued      = desc("handovers_queued", "Initiators that wait for room.")
	requests    = desc("requests_total", "Requests by type and result.", "request", "result")
	handovers   = desc("handovers_total", "Handovers by result.", "result")
	handoverSec = desc("handover_seconds", "Time from a request to the node's acknowledgement, of handovers that came to be.")
	refusals    = desc("refusals_total", "Refusals by reason.", "reason")
	policy      = desc("policy", "1 where requests of other hosts are checked by a policy.")
)

// collector makes metrics of a status that is read at each scrape.
type collector struct{ source func() status.Status }

// Describe is prometheus.Collector's.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{up, nodes, oldNames, open, waiting, accepted, silent, channels, passing, queued, requests, handovers, handoverSec, refusals, policy} {
		ch <- d
	}
}

// Collect is prometheus.Collector's.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.source()
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	enforced := 0.0
	if s.Policy {
		enforced = 1
	}
	for d, v := range map[*prometheus.Desc]float64{
		up: s.Seconds, nodes: float64(len(s.Nodes)), oldNames: float64(s.OldNames), policy: enforced,
		open: float64(s.Connections.Open), waiting: float64(s.Connections.Waiting),
		passing: float64(s.Channels.Passing), queued: float64(s.Channels.Queued),
	} {
		send(d, prometheus.GaugeValue, v)
	}
	for state, n := range map[string]int{"open": s.Channels.Open, "opening": s.Channels.Opening, "none": s.Channels.None} {
		send(channels, prometheus.GaugeValue, float64(n), state)
	}
	send(accepted, prometheus.CounterValue, float64(s.Connections.Accepted))
	send(silent, prometheus.CounterValue, float64(s.Connections.Silent))
	for request, results := range s.Requests {
		for result, n := range results {
			send(requests, prometheus.CounterValue, float64(n), request, result)
		}
	}
	for result, n := range s.Handovers {
		send(handovers, prometheus.CounterValue, float64(n), result)
	}
	for reason, n := range s.Refusals {
		send(refusals, prometheus.CounterValue, float64(n), reason)
	}
	ch <- histogram(s.HandoverSeconds)
}

// histogram adds the buckets up, as Prometheus has them.
func histogram(h status.Histogram) prometheus.Metric {
	buckets, sum := make(map[float64]uint64, len(h.Bounds)), uint64(0)
	for i, bound := range h.Bounds {
		sum += h.Counts[i]
		buckets[bound] = sum
	}
	return prometheus.MustNewConstHistogram(handoverSec, h.Count(), h.Sum, buckets)
}
