package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"handover/go/internal/carrier"
)

// port runs the carrier of the BEAM at stdin and stdout.
func port(ctx context.Context, args []string) int {
	if len(args) > 0 {
		return misused(os.Stderr)
	}
	// A handler, lest a BEAM that is gone kills us by SIGPIPE before the socket
	// files are removed; the write fails instead.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := wakeAtParentsEnd()
	if err == nil {
		err = carrier.Run(ctx, os.Stdin, os.Stdout, os.Stderr, carrier.Options{Program: program()})
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "handover: %v\n", err)
		return 1
	}
	return 0
}
