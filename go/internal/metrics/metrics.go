// Package metrics serves an EPMD's status to Prometheus over HTTP. It keeps no state: each
// scrape reads the status, and nothing runs between scrapes.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"handover/go/internal/status"
)

const (
	// scrapeTimeout bounds the reading of a request, and the writing of the answer.
	scrapeTimeout = 10 * time.Second
	// headerTimeout is how long a client may take to send the header.
	headerTimeout = 2 * time.Second
	// maxScrapes is how many requests are answered at once; more get status 503.
	maxScrapes = 4
	// maxConns is how many connections may be open, since they count for EPMD's limit of
	// open files; more wait in the kernel.
	maxConns = 16
	// retryEvery is the pause between two attempts to listen.
	retryEvery = 5 * time.Second
)

// Serve answers GET /metrics at addr until ctx ends, and returns when its last goroutine has
// ended. If the address is taken it logs that once and tries again until it succeeds: EPMD
// works without metrics, and an EPMD that is being replaced by this one still has the address.
func Serve(ctx context.Context, addr netip.AddrPort, source func() status.Status, log zerolog.Logger) {
	l, err := listenRetrying(ctx, addr, log)
	if err != nil {
		return // ctx has ended, or listenRetrying has logged the error
	}
	server := &http.Server{Handler: Handler(source), ReadTimeout: scrapeTimeout, ReadHeaderTimeout: headerTimeout, WriteTimeout: scrapeTimeout, MaxHeaderBytes: 16 << 10}
	// A connection that stays open after its answer would count for maxConns.
	server.SetKeepAlivesEnabled(false)
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	log.Info().Stringer("on", l.Addr()).Msg("serving metrics")
	if err := server.Serve(netutil.LimitListener(l, maxConns)); !errors.Is(err, http.ErrServerClosed) {
		log.Error().Err(err).Msg("the metrics server has ended")
	}
}

// listenRetrying listens on addr, and tries again while the address is taken. It logs the
// first error. The error is ctx's, or one that another attempt cannot help.
func listenRetrying(ctx context.Context, addr netip.AddrPort, log zerolog.Logger) (net.Listener, error) {
	for logged := false; ; logged = true {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr.String())
		if err == nil {
			return l, nil
		}
		again := errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL)
		if !logged && ctx.Err() == nil {
			log.Error().Err(err).Bool("trying_again", again).Msg("cannot serve metrics")
		}
		if !again {
			return nil, fmt.Errorf("metrics: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(retryEvery):
		}
	}
}

// Handler returns the handler of GET /metrics.
func Handler(source func() status.Status) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{source}, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	return mux
}
