package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"handover/go/internal/status"
)

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("epmd_"+name, help, labels, nil)
}

// The metrics, as docs/EPMD.md lists them.
var (
	upDesc              = newDesc("up_seconds", "Time since the start.")
	nodesDesc           = newDesc("nodes", "Registered nodes.")
	oldNamesDesc        = newDesc("old_names", "Names that are not registered any more and are remembered.")
	openDesc            = newDesc("connections_open", "Open client connections.")
	waitingDesc         = newDesc("connections_waiting", "Open client connections without a request yet.")
	acceptedDesc        = newDesc("connections_accepted_total", "Accepted connections.")
	silentDesc          = newDesc("connections_silent_total", "Connections that ended before their request was complete, or with a request of invalid length.")
	channelsDesc        = newDesc("channels", "Nodes that take handovers, by the state of the channel to them.", "state")
	passingDesc         = newDesc("handovers_passing", "Connections passed to nodes and not acknowledged.")
	queuedDesc          = newDesc("handovers_queued", "Initiators that wait for a slot.")
	requestsDesc        = newDesc("requests_total", "Requests by type and result.", "request", "result")
	handoversDesc       = newDesc("handovers_total", "Handovers by result.", "result")
	handoverSecondsDesc = newDesc("handover_seconds", "Time from a request to the node's acknowledgement, of successful handovers.")
	refusalsDesc        = newDesc("refusals_total", "Refusals by reason.", "reason")
	policyDesc          = newDesc("policy", "1 if a policy applies to requests of other hosts, else 0.")
)

// collector converts the status, which it reads at each scrape, to metrics.
type collector struct{ source func() status.Status }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{upDesc, nodesDesc, oldNamesDesc, openDesc, waitingDesc, acceptedDesc, silentDesc, channelsDesc, passingDesc, queuedDesc, requestsDesc, handoversDesc, handoverSecondsDesc, refusalsDesc, policyDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
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
		upDesc: s.Seconds, nodesDesc: float64(len(s.Nodes)), oldNamesDesc: float64(s.OldNames), policyDesc: enforced,
		openDesc: float64(s.Connections.Open), waitingDesc: float64(s.Connections.Waiting),
		passingDesc: float64(s.Channels.Passing), queuedDesc: float64(s.Channels.Queued),
	} {
		send(d, prometheus.GaugeValue, v)
	}
	for state, n := range map[string]int{"open": s.Channels.Open, "opening": s.Channels.Opening, "none": s.Channels.None} {
		send(channelsDesc, prometheus.GaugeValue, float64(n), state)
	}
	send(acceptedDesc, prometheus.CounterValue, float64(s.Connections.Accepted))
	send(silentDesc, prometheus.CounterValue, float64(s.Connections.Silent))
	for request, results := range s.Requests {
		for result, n := range results {
			send(requestsDesc, prometheus.CounterValue, float64(n), request, result)
		}
	}
	for result, n := range s.Handovers {
		send(handoversDesc, prometheus.CounterValue, float64(n), result)
	}
	for reason, n := range s.Refusals {
		send(refusalsDesc, prometheus.CounterValue, float64(n), reason)
	}
	ch <- newHistogram(s.HandoverSeconds)
}

// newHistogram converts h, whose counts are per bucket, to Prometheus' cumulative ones.
func newHistogram(h status.Histogram) prometheus.Metric {
	buckets, sum := make(map[float64]uint64, len(h.Bounds)), uint64(0)
	for i, bound := range h.Bounds {
		sum += h.Counts[i]
		buckets[bound] = sum
	}
	return prometheus.MustNewConstHistogram(handoverSecondsDesc, h.Count(), h.Sum, buckets)
}
