package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"handover/go/internal/carrier"
)

// runPort runs the carrier of the BEAM at stdin and stdout.
func runPort(ctx context.Context, args []string) int {
	if len(args) > 0 {
		return printUsage(os.Stderr)
	}
	// The carrier ends with its BEAM. A service manager and a terminal send SIGTERM and SIGINT to both, and the
	// BEAM needs its carrier until it has shut down. A write to a BEAM that has ended fails with EPIPE.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	err := wakeAtParentsEnd()
	if err == nil {
		err = carrier.Run(ctx, makePollable(os.Stdin), os.Stdout, os.Stderr, carrier.Options{Program: programVersion()})
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "handover: %v\n", err)
		return 1
	}
	return 0
}

// makePollable returns f as a file that the runtime's poller waits for, if f is a pipe. A read
// that blocks a thread costs about fifty wake-ups of the runtime in the 10 ms after each
// message. No other process has the read end of the pipe, so its mode may be changed.
func makePollable(f *os.File) *os.File {
	info, err := f.Stat()
	if err != nil || info.Mode().Type() != fs.ModeNamedPipe {
		return f
	}
	fd := f.Fd()
	if unix.SetNonblock(int(fd), true) != nil {
		return f
	}
	return os.NewFile(fd, f.Name())
}
