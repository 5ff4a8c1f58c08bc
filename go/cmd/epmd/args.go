package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"time"

	"handover/go/internal/epmdconf"
	"handover/go/internal/epmdproto"
)

// options are the settings of the command line and the environment.
type options struct {
	addresses string
	port      uint16
	debug     int
	daemon    bool
	systemd   bool
	relaxed   bool

	packetTimeout, delayAccept, delayWrite time.Duration

	command string // a key of commands, or "" to serve
	name    string // of -stop
	json    bool   // -status --json

	configFile string
	metrics    netip.AddrPort // of -metrics
	config     epmdconf.Config
}

var errUsage = errors.New("usage")

// parseArgs reads the arguments in order, as the stock epmd does: the command must be
// the last one.
func parseArgs(args []string, getenv func(string) (string, bool)) (o options, err error) {
	o.port = epmdproto.DefaultPort
	o.addresses, _ = getenv("ERL_EPMD_ADDRESS")
	_, o.relaxed = getenv("ERL_EPMD_RELAXED_COMMAND_CHECK")
	if v, ok := getenv("ERL_EPMD_PORT"); ok {
		if o.port, err = parsePort("ERL_EPMD_PORT", v); err != nil {
			return o, err
		}
	}
	for len(args) > 0 && err == nil {
		if commands[args[0]] {
			return o.parseCommand(args)
		}
		args, err = o.parseOption(args)
	}
	return o, err
}

var commands = map[string]bool{"-names": true, "-started": true, "-dump": true, "-kill": true, "-stop": true, "-upgrade": true, "-status": true}

func (o options) parseCommand(args []string) (options, error) {
	o.command = args[0]
	want := 1
	if o.command == "-stop" {
		want = 2
	}
	if o.command == "-status" && len(args) == 2 && args[1] == "--json" {
		o.json, args = true, args[:1]
	}
	if len(args) != want {
		return o, fmt.Errorf("%s: %w: it must be the last option; -stop takes a name, -status takes --json", o.command, errUsage)
	}
	if want == 2 {
		o.name = args[1]
	}
	return o, nil
}

// parseOption reads the first option and returns the remaining arguments.
func (o *options) parseOption(args []string) ([]string, error) {
	switch args[0] {
	case "-d", "-debug":
		o.debug++
	case "-daemon":
		o.daemon = true
	case "-systemd":
		o.systemd = true
	case "-relaxed_command_check":
		o.relaxed = true
	default:
		return o.parseValue(args)
	}
	return args[1:], nil
}

func (o *options) parseValue(args []string) (rest []string, err error) {
	option, value := args[0], ""
	if len(args) > 1 {
		value = args[1]
	}
	switch option {
	case "-address":
		o.addresses = value
	case "-config":
		o.configFile = value
	case "-metrics":
		if o.metrics, err = epmdconf.ParseMetrics(value); err != nil {
			err = fmt.Errorf("%w: -metrics: %w", errUsage, err)
		}
	case "-port":
		o.port, err = parsePort(option, value)
	case "-packet_timeout":
		o.packetTimeout, err = parseSeconds(option, value)
	case "-delay_accept":
		o.delayAccept, err = parseSeconds(option, value)
	case "-delay_write":
		o.delayWrite, err = parseSeconds(option, value)
	default:
		return nil, fmt.Errorf("%w: unknown option %q", errUsage, option)
	}
	if len(args) < 2 {
		return nil, fmt.Errorf("%w: %s needs a value", errUsage, option)
	}
	return args[2:], err
}

func parsePort(option, value string) (uint16, error) {
	n, err := parseNumber(option, value, math.MaxUint16)
	return uint16(n), err
}

func parseSeconds(option, value string) (time.Duration, error) {
	n, err := parseNumber(option, value, math.MaxInt32)
	return time.Duration(n) * time.Second, err
}

func parseNumber(option, value string, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n == 0 || n > most {
		return 0, fmt.Errorf("%w: %s needs a number from 1 to %d, not %q", errUsage, option, most, cmp.Or(value, "nothing"))
	}
	return n, nil
}
