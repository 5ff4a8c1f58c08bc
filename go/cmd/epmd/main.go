// Command epmd is the port mapper daemon of Erlang nodes: a drop-in for OTP's
// epmd that also hands connections over to nodes.
//
// stdout carries the answers of the commands. The log goes to stderr, or to syslog for
// a daemon. The exit status is 0 for success, also if an EPMD runs already, and 1 for
// any error, which is printed on stderr.
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
	// The reader of the log may have exited. That must not end the server.
	signal.Ignore(syscall.SIGPIPE)
	pred, err := readPredecessor()
	if err == nil {
		err = o.readConfig(pred != nil && pred.mode != trialMode)
	}
	if err == nil && pred != nil {
		if pred.mode == trialMode {
			fmt.Print(readyWord)
			os.Exit(0)
		}
		err = serveInherited(o, pred)
	}
	if err != nil || pred != nil {
		os.Exit(exitStatus(err, o))
	}
	ready := readyPipe()
	if o.daemon && ready == nil {
		os.Exit(exitStatus(daemonize(), o))
	}
	os.Exit(exitStatus(serve(o, ready), o))
}

// exitStatus prints err on stderr and returns the exit status.
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
