package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"handover/go/internal/epmd"
	"handover/go/internal/epmdconf"
	"handover/go/internal/metrics"
	"handover/go/internal/policy"
)

// readConfig reads the file of -config; -metrics overrides it. If the file has become
// invalid since the trial, a successor keeps its nodes and refuses other hosts until it
// reads a valid file.
func (o *options) readConfig(successor bool) error {
	if o.daemon && o.configFile != "" && !filepath.IsAbs(o.configFile) {
		return fmt.Errorf("-config %s: with -daemon the path must be absolute, because the daemon's directory is /", o.configFile)
	}
	if o.configFile != "" {
		c, err := epmdconf.Load(o.configFile)
		if err != nil && !successor {
			return err
		}
		if err != nil {
			log := newLog(o.debug, o.daemon)
			log.Error().Err(err).Msg("refusing other hosts until SIGHUP finds a valid file")
			nobody := []policy.Network{}
			c.Policy, _ = policy.New(policy.Rules{Allow: policy.Allow{Lookups: nobody, Handovers: nobody, Names: nobody}})
		}
		o.config = c
	}
	if o.metrics.IsValid() {
		o.config.Metrics = o.metrics
	}
	return nil
}

// startServices sets the policy, serves the metrics and handles SIGHUP, as configured.
// The caller must call stop.
func startServices(s *epmd.Server, o *options, log zerolog.Logger) (stop func()) {
	s.SetPolicy(o.config.Policy)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	if o.config.Metrics.IsValid() {
		wg.Go(func() { metrics.Serve(ctx, o.config.Metrics, s.Status, log) })
	}
	if o.configFile != "" {
		hangUps := make(chan os.Signal, 1)
		signal.Notify(hangUps, unix.SIGHUP)
		wg.Go(func() { reloadOnHangUp(ctx, s, o, hangUps, log) })
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// reloadOnHangUp reads the configuration again at each SIGHUP, until ctx ends.
func reloadOnHangUp(ctx context.Context, s *epmd.Server, o *options, hangUps chan os.Signal, log zerolog.Logger) {
	// A SIGHUP must not end a successor that does not handle the signal yet.
	defer signal.Ignore(unix.SIGHUP)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangUps:
		}
		c, err := epmdconf.Load(o.configFile)
		if err != nil {
			log.Error().Err(err).Msg("SIGHUP: the configuration is invalid, the policy is unchanged")
			continue
		}
		o.config.Policy = c.Policy
		s.SetPolicy(c.Policy)
		// A warning is logged without -d: what is refused has just changed.
		log.Warn().Str("file", o.configFile).Bool("policy", c.Policy != nil).Msg("SIGHUP: configuration read")
		if c.Metrics != o.config.Metrics && !o.metrics.IsValid() {
			log.Warn().Msg("SIGHUP: the new metrics address takes effect at the next start or upgrade")
		}
	}
}
