package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"

	"handover/go/internal/epmdproto"
	epmdstatus "handover/go/internal/status"
)

// runStatus prints the status of this host's EPMD.
func runStatus(_ context.Context, args []string) int {
	asJSON := slices.Equal(args, []string{"--json"})
	if len(args) > 0 && !asJSON {
		return printUsage(os.Stderr)
	}
	port, err := epmdPort()
	if err == nil {
		err = epmdstatus.Run(os.Stdout, port, asJSON)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "handover: %v\n", err)
		return 1
	}
	return 0
}

func epmdPort() (uint16, error) {
	v, there := os.LookupEnv("ERL_EPMD_PORT")
	if !there {
		return epmdproto.DefaultPort, nil
	}
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("ERL_EPMD_PORT needs a number from 1 to 65535, not %q", v)
	}
	return uint16(n), nil
}
