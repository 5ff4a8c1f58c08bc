// Command delayline joins two network namespaces by a link with a fixed one-way delay.
//
//	ip netns add a; ip netns add b
//	delayline -a a -b b -addr-a 198.18.0.1/30 -addr-b 198.18.0.2/30 -delay 25ms
//
// One line on stdout says that the link is up; it stays until stdin ends or SIGTERM or SIGINT comes. Then stderr gets the
// counts of each direction. Exit status: 0, or 1 with the reason on stderr, or 2 for wrong flags. Needs root.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"handover/go/internal/delayline"
)

func main() {
	options, err := parse(os.Args[1:])
	if err != nil {
		os.Exit(2) // the flag package has said why
	}
	if err := run(options, os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func parse(arguments []string) (delayline.Options, error) {
	var options delayline.Options
	flags := flag.NewFlagSet("delayline", flag.ContinueOnError)
	flags.StringVar(&options.A.Namespace, "a", "", "one network `namespace`")
	flags.StringVar(&options.B.Namespace, "b", "", "the other network `namespace`")
	flags.StringVar(&options.A.Address, "addr-a", "", "`address/length` of the device in a")
	flags.StringVar(&options.B.Address, "addr-b", "", "`address/length` of the device in b")
	flags.DurationVar(&options.Delay, "delay", 0, "one way; a round trip takes twice as long")
	flags.IntVar(&options.Limit, "limit", delayline.DefaultLimit, "`packets` under way in a direction; more are dropped")
	if err := flags.Parse(arguments); err != nil {
		return options, err
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(flags.Output(), "delayline: unexpected argument %q\n", flags.Arg(0))
		return options, flag.ErrHelp
	}
	return options, nil
}

// run keeps the line until stdin ends, a signal comes or a device fails.
func run(options delayline.Options, stdin io.Reader, stdout, stderr io.Writer) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	line, err := delayline.Open(options)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "ready %s %s %v\n", options.A.Address, options.B.Address, options.Delay)

	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, stdin) // an error ends it as well
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
