// Command epmd is the port mapper daemon of Erlang nodes: a drop-in for OTP's
// epmd that also hands connections over to nodes.
//
// stdout carries the answers of -names, -kill, -stop and -dump; the log is on
// stderr, or with syslog for a daemon. Exit status 0 is success, which includes
// that an EPMD runs already; 1 is everything else, said on stderr.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"handover/go/internal/listen"
)

func main() {
	o, err := parseArgs(os.Args[1:], os.LookupEnv)
	if err != nil {
		fmt.Fprintf(os.Stderr, "epmd: %v\n%s", err, usage)
		os.Exit(1)
	}
	if o.command != "" {
		os.Exit(o.runCommand(os.Stdout, os.Stderr))
	}
	// Whoever read the log may be gone; the names must not go with him.
	signal.Ignore(syscall.SIGPIPE)
	before, err := readPredecessor()
	if err == nil {
		err = o.readConfig(before != nil && before.mode != trialMode)
	}
	if err == nil && before != nil {
		if before.mode == trialMode {
			fmt.Print(readyWord)
			os.Exit(0)
		}
		err = serveInherited(o, before)
	}
	if err != nil || before != nil {
		os.Exit(exitStatus(err, o))
	}
	ready := readyPipe()
	if o.daemon && ready == nil {
		os.Exit(exitStatus(daemonize(), o))
	}
	os.Exit(exitStatus(serve(o, ready), o))
}

// exitStatus turns an error into the exit status, and says it on stderr.
func exitStatus(err error, o options) int {
	var inUse *listen.InUseError
	running := errors.As(err, &inUse) && inUse.EPMD || errors.Is(err, errRunning)
	if err != nil && (!running || o.debug > 0) {
		fmt.Fprintf(os.Stderr, "epmd: %v\n", err)
	}
	if err == nil || running {
		return 0
	}
	return 1
}
