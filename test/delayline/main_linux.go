// Command delayline joins two network namespaces with a link that has a fixed one-way delay, for tests and benchmarks on
// machines without netem. It works on Linux only and needs root.
//
//	 namespace a                                            namespace b
//	TCP/IP - delay0 (TUN) ==> reader -> queue -> writer ==> (TUN) delay0 - TCP/IP
//	                      <== writer <- queue <- reader <==
//
// Each packet is written to the other side when Delay has passed since it was read. A direction never reorders packets. It
// drops packets only when its queue is full (Options.Limit): the newest, as netem does. Closing the Line removes the two TUN
// devices.
//
//	ip netns add a; ip netns add b
//	delayline -a a -b b -addr-a 198.18.0.1/30 -addr-b 198.18.0.2/30 -delay 25ms
//
// It prints one line to stdout when the link is up, and runs until end of file on stdin, SIGTERM or SIGINT. Then it prints the
// counts of each direction to stderr. Exit status: 0; 1 after an error, which is on stderr; 2 if a flag is wrong.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	options, err := parseOptions(os.Args[1:])
	if err != nil {
		os.Exit(2) // the flag package has printed the error
	}
	if err := run(options, os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func parseOptions(arguments []string) (Options, error) {
	var options Options
	flags := flag.NewFlagSet("delayline", flag.ContinueOnError)
	flags.StringVar(&options.A.Namespace, "a", "", "one network `namespace`")
	flags.StringVar(&options.B.Namespace, "b", "", "the other network `namespace`")
	flags.StringVar(&options.A.Address, "addr-a", "", "`address/length` of the device in a")
	flags.StringVar(&options.B.Address, "addr-b", "", "`address/length` of the device in b")
	flags.DurationVar(&options.Delay, "delay", 0, "one-way `delay`; a round trip takes twice as long")
	flags.IntVar(&options.Limit, "limit", DefaultLimit, "most `packets` in flight in one direction; more are dropped")
	if err := flags.Parse(arguments); err != nil {
		return options, err
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(flags.Output(), "delayline: unexpected argument %q\n", flags.Arg(0))
		return options, flag.ErrHelp
	}
	return options, nil
}

// run opens the line and keeps it until end of file on stdin, a signal, or the failure of a device.
func run(options Options, stdin io.Reader, stdout, stderr io.Writer) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	line, err := Open(options)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "ready %s %s %v\n", options.A.Address, options.B.Address, options.Delay)

	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, stdin) // an error counts as end of file
		close(ended)
	}()
	select {
	case <-ended:
	case <-signals:
	case <-line.Failed():
	}
	err = line.Close()
	for i, direction := range []string{"a to b", "b to a"} {
		stats := line.Stats()[i]
		fmt.Fprintf(stderr, "%s: %d carried, %d dropped, at most %d at once\n",
			direction, stats.Carried, stats.Dropped, stats.Peak)
	}
	return err
}
