// Package epmdconf reads the file of `epmd -config`. It is in TOML, which operators know, and
// whose errors have line numbers. docs/EPMD.md lists the keys.
package epmdconf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"handover/go/internal/policy"
)

// MaxSize is the length of the longest file, in bytes.
const MaxSize = 1 << 20

// Config is the content of a file.
type Config struct {
	// Metrics is the address on which metrics are served; the zero value turns them off.
	Metrics netip.AddrPort
	// Policy is nil if everything is allowed.
	Policy *policy.Policy
}

// configFile is the shape of the file.
type configFile struct {
	Metrics metricsAddr `toml:"metrics"`
	policy.Rules
}

type metricsAddr struct{ netip.AddrPort }

func (m *metricsAddr) UnmarshalText(text []byte) (err error) {
	m.AddrPort, err = ParseMetrics(string(text))
	return err
}

// ParseMetrics parses the address for metrics: an IP address, not a name, and a port.
func ParseMetrics(s string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddrPort(s)
	if err != nil || addr.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address for metrics: use IP:PORT or [IPV6]:PORT", s)
	}
	return addr, nil
}

// Load reads a file. The error has the file, the line if it is known, the key, and what is
// wrong.
func Load(name string) (Config, error) {
	f, err := os.Open(name)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	c, err := Parse(text)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", name, err)
	}
	return c, nil
}

// Parse reads the text of a file.
func Parse(text []byte) (Config, error) {
	if len(text) > MaxSize {
		return Config{}, fmt.Errorf("longer than %d bytes", MaxSize)
	}
	var f configFile
	d := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return Config{}, withLine(err)
	}
	p, err := policy.New(f.Rules)
	if err != nil {
		return Config{}, err
	}
	return Config{Metrics: f.Metrics.AddrPort, Policy: p}, nil
}

// withLine adds the line at which the decoder stopped.
func withLine(err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		line, _ := unknown.Errors[0].Position()
		return fmt.Errorf("line %d: unknown key %q", line, strings.Join(unknown.Errors[0].Key(), "."))
	}
	var bad *toml.DecodeError
	if !errors.As(err, &bad) {
		return err
	}
	line, _ := bad.Position()
	what := strings.TrimPrefix(bad.Error(), "toml: ")
	// The library names Go types, which mean nothing to an operator.
	if kind, ok := strings.CutPrefix(what, "cannot decode TOML "); ok {
		kind, _, _ = strings.Cut(kind, " into")
		what = "the value is of the wrong type, " + kind
	}
	if key := strings.Join(bad.Key(), "."); key != "" {
		what = key + ": " + what
	}
	return fmt.Errorf("line %d: %s", line, what)
}
