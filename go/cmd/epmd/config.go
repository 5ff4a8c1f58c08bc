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

// readConfig reads -config, before which -metrics goes. A successor whose file has
// gone bad since it was tried out keeps its nodes, and answers no other host until
// a good file is read.
func (o *options) readConfig(successor bool) error {
	if o.daemon && o.configFile != "" && !filepath.IsAbs(o.configFile) {
		return fmt.Errorf("-config %s: with -daemon the path has to be absolute, for the daemon's folder is /", o.configFile)
	}
	if o.configFile != "" {
		c, err := epmdconf.Load(o.configFile)
		if err != nil && !successor {
			return err
		}
		if err != nil {
			log := newLog(o.debug, o.daemon)
			log.Error().Err(err).Msg("answering no other host until SIGHUP finds a good file")
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

// startServices does for a server what the configuration says, until stop.
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

// reloadOnHangUp reads the file again at each SIGHUP.
func reloadOnHangUp(ctx context.Context, s *epmd.Server, o *options, hangUps chan os.Signal, log zerolog.Logger) {
	// A successor must not be ended by one that comes before it listens for it.
	defer signal.Ignore(unix.SIGHUP)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangUps:
		}
		c, err := epmdconf.Load(o.configFile)
		if err != nil {
			log.Error().Err(err).Msg("SIGHUP: the policy stays as it was")
			continue
		}
		o.config.Policy = c.Policy
		s.SetPolicy(c.Policy)
		// Warn, so that it is seen without -d: what is refused has just changed.
		log.Warn().Str("file", o.configFile).Bool("policy", c.Policy != nil).Msg("SIGHUP: configuration read")
		if c.Metrics != o.config.Metrics && !o.metrics.IsValid() {
			log.Warn().Msg("SIGHUP: metrics move at the next start or upgrade")
		}
	}
}
