// Package metrics tells an EPMD's status to Prometheus over HTTP. Nothing is kept
// for it and nothing runs while nobody asks: each scrape reads the status.
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
	// scrapeTimeout bounds a connection's request and answer each.
	scrapeTimeout = 10 * time.Second
	// headerTimeout is how long a connection may take to ask.
	headerTimeout = 2 * time.Second
	// maxScrapes is how many are answered at once; more get 503.
	maxScrapes = 4
	// maxConns is how many connections are open at once, for they share EPMD's
	// limit of open files; more wait in the kernel.
	maxConns = 16
	// retryEvery is how long the address may stay taken before the next try.
	retryEvery = 5 * time.Second
)

// Serve answers GET /metrics at addr until ctx ends, and returns when its last
// goroutine is gone. An address that is taken is tried again and again, logged
// once: an EPMD works without metrics, and one that is just being replaced by
// another still has it.
func Serve(ctx context.Context, addr netip.AddrPort, source func() status.Status, log zerolog.Logger) {
	l, err := listenRetrying(ctx, addr, log)
	if err != nil {
		return // ctx ended, or listen has logged why not
	}
	server := &http.Server{Handler: Handler(source), ReadTimeout: scrapeTimeout, ReadHeaderTimeout: headerTimeout, WriteTimeout: scrapeTimeout, MaxHeaderBytes: 16 << 10}
	// One that stays open after its answer would keep a place from others.
	server.SetKeepAlivesEnabled(false)
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	log.Info().Stringer("on", l.Addr()).Msg("metrics")
	if err := server.Serve(netutil.LimitListener(l, maxConns)); !errors.Is(err, http.ErrServerClosed) {
		log.Error().Err(err).Msg("metrics ended")
	}
}

func listenRetrying(ctx context.Context, addr netip.AddrPort, log zerolog.Logger) (net.Listener, error) {
	for logged := false; ; logged = true {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr.String())
		if err == nil {
			return l, nil
		}
		again := errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL)
		if !logged && ctx.Err() == nil {
			log.Error().Err(err).Bool("trying_again", again).Msg("no metrics")
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

// Handler answers GET /metrics.
func Handler(source func() status.Status) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{source}, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	return mux
}
