package metrics

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"handover/go/internal/status"
	"handover/go/internal/testkit"
)

func sample() status.Status {
	return status.Status{
		Seconds: 1.5, Policy: true, OldNames: 2, Nodes: make([]status.Node, 3),
		Connections:     status.Connections{Open: 4, Waiting: 1, Accepted: 9, Silent: 2},
		Channels:        status.Channels{Open: 1, Opening: 2, None: 3, Passing: 4, Queued: 5},
		Requests:        map[string]map[string]uint64{"lookup": {"ok": 5}},
		Handovers:       map[string]uint64{"ok": 3},
		HandoverSeconds: status.Histogram{Bounds: []float64{.1, 1}, Counts: []uint64{1, 1, 1}, Sum: 7},
		Refusals:        map[string]uint64{"rate": 6},
	}
}

// TestExposition: every metric has its value, and Prometheus' linter finds no fault.
func TestExposition(t *testing.T) {
	recorder := httptest.NewRecorder()
	Handler(sample).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	page := recorder.Body.String()
	for _, want := range []string{
		"epmd_up_seconds 1.5", "epmd_policy 1", "epmd_old_names 2", "epmd_nodes 3", "epmd_connections_open 4", "epmd_connections_waiting 1",
		"epmd_connections_accepted_total 9", "epmd_connections_silent_total 2", `epmd_channels{state="open"} 1`, `epmd_channels{state="opening"} 2`,
		`epmd_channels{state="none"} 3`, "epmd_handovers_passing 4", "epmd_handovers_queued 5", `epmd_requests_total{request="lookup",result="ok"} 5`,
		`epmd_handovers_total{result="ok"} 3`, `epmd_refusals_total{reason="rate"} 6`, `epmd_handover_seconds_bucket{le="0.1"} 1`,
		`epmd_handover_seconds_bucket{le="1"} 2`, `epmd_handover_seconds_bucket{le="+Inf"} 3`, "epmd_handover_seconds_sum 7", "epmd_handover_seconds_count 3",
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	problems, err := testutil.CollectAndLint(collector{sample})
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// TestServe: an address that is taken is logged once and tried again, and the end of the
// context ends everything.
func TestServe(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	var log lines
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { Serve(ctx, addr, sample, zerolog.New(&log)) })
	log.wait(t, "cannot serve metrics")
	_ = l.Close()
	log.wait(t, `"message":"serving metrics"`)
	r, err := http.Get("http://" + addr.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); err != nil || !strings.Contains(string(b), "epmd_nodes 3") {
		t.Errorf("%v %s", err, b)
	}
	cancel()
	wg.Wait()
	if _, err := net.DialTimeout("tcp4", addr.String(), testkit.Patience); err == nil {
		t.Error("listens on after the end")
	}
}

// TestIdleConnections: the largest number of connections, which stay open after the answer or
// never send a request, delays a scrape by less than headerTimeout.
func TestIdleConnections(t *testing.T) {
	addr := netip.MustParseAddrPort("127.0.0.1:0")
	l, err := net.Listen("tcp4", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	addr = netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()
	var log lines
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { Serve(ctx, addr, sample, zerolog.New(&log)) })
	defer wg.Wait()
	defer cancel()
	log.wait(t, `"message":"serving metrics"`)
	connect := func() net.Conn {
		c, err := net.Dial("tcp4", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(testkit.Patience))
		return c
	}
	for range maxConns {
		c := connect()
		if _, err := io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200") { // to the server's close
			t.Fatalf("%v %.20q", err, b)
		}
	}
	for range maxConns {
		connect()
	}
	client := http.Client{Timeout: testkit.Patience}
	r, err := client.Get("http://" + addr.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
}

type lines struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func (l *lines) wait(t *testing.T, what string) {
	t.Helper()
	if !testkit.Within(func() bool { return strings.Contains(l.String(), what) }) {
		t.Fatalf("no %q in the log: %s", what, l)
	}
}
