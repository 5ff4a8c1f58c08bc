package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"

	"handover/go/internal/doctor"
)

// doctorExitStatus has the exit statuses of doctor, except 2 for wrong usage.
var doctorExitStatus = map[doctor.Outcome]int{doctor.ByHandover: 0, doctor.Unreachable: 1, doctor.Direct: 3}

// runDoctor checks whether a node can be reached.
func runDoctor(ctx context.Context, args []string) int {
	return runDoctorTo(ctx, args, os.Stdout, os.Stderr)
}

func runDoctorTo(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	target, o, asJSON, err := doctorArgs(args)
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintf(stderr, "handover: %v\n", err)
		}
		return printUsage(stderr)
	}
	each := func(s doctor.Step) { fmt.Fprintln(stdout, s.Line()) }
	if asJSON {
		each = nil
	}
	report := doctor.Run(ctx, target, o, each)
	if asJSON {
		err = json.NewEncoder(stdout).Encode(report)
	} else {
		_, err = fmt.Fprintln(stdout, report.Summary())
	}
	if err != nil {
		fmt.Fprintf(stderr, "handover: %v\n", err)
		return 1
	}
	return doctorExitStatus[report.Result]
}

func doctorArgs(args []string) (target string, o doctor.Options, asJSON bool, err error) {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller prints the error
	flags.BoolVar(&asJSON, "json", false, "")
	flags.BoolVar(&o.Inet6, "inet6", false, "")
	flags.DurationVar(&o.Timeout, "timeout", doctor.DefaultTimeout, "")
	flags.Func("port", "", func(v string) (err error) {
		o.Port, err = portNumber(v)
		return err
	})
	var at uint16
	flags.Func("address", "", func(v string) (err error) {
		o.Host, at, err = hostPort(v)
		return err
	})
	if err = flags.Parse(args); err != nil {
		return "", o, false, err
	}
	switch {
	case flags.NArg() != 1:
		return "", o, false, fmt.Errorf("doctor takes one node, not %d; options go before it", flags.NArg())
	case o.Timeout <= 0:
		return "", o, false, errors.New("-timeout must be more than 0")
	case at != 0:
		o.Port = at
	case o.Port == 0:
		o.Port, err = epmdPort()
	}
	return flags.Arg(0), o, asJSON, err
}

// hostPort parses HOST[:PORT]; an IPv6 address with a port is in brackets. port is 0 if there
// is none.
func hostPort(v string) (host string, port uint16, err error) {
	if _, err := netip.ParseAddr(v); err == nil {
		return v, 0, nil
	}
	host, text, err := net.SplitHostPort(v)
	var missing *net.AddrError
	switch {
	case errors.As(err, &missing) && missing.Err == "missing port in address":
		host, err = v, nil
	case err == nil:
		port, err = portNumber(text)
	}
	if err == nil && host == "" {
		err = errors.New("the host is missing")
	}
	return host, port, err
}

func portNumber(v string) (uint16, error) {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("a port is a number from 1 to 65535, not %q", v)
	}
	return uint16(n), nil
}
