package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// Network is a range of addresses: "10.0.0.0/8", "2001:db8::/32", or one address.
type Network struct{ prefix netip.Prefix }

// UnmarshalText reads a network. The error names the text and what is wrong.
func (n *Network) UnmarshalText(text []byte) error {
	s := string(text)
	prefix, err := netip.ParsePrefix(s)
	if addr, addrErr := netip.ParseAddr(s); err != nil && addrErr == nil && addr.Zone() == "" {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a network: write ADDRESS/BITS or an IP address", s)
	case prefix.Addr().Is4In6():
		return fmt.Errorf("%q is an IPv4-mapped IPv6 network: write it as IPv4", s)
	case prefix != prefix.Masked():
		return fmt.Errorf("%q has bits set after the first %d: did you mean %v?", s, prefix.Bits(), prefix.Masked())
	}
	n.prefix = prefix
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (n Network) MarshalText() ([]byte, error) { return n.prefix.MarshalText() }

// Pattern matches the part of a node's name before "@": "*" matches any characters,
// "?" one.
type Pattern struct {
	text  string
	match *regexp.Regexp
}

var wildcards = strings.NewReplacer(`\*`, `.*`, `\?`, `.`)

// maxPattern is in bytes: the longest name, and some wildcards.
const maxPattern = 2048

// UnmarshalText reads a pattern. The error names the text and what is wrong.
func (p *Pattern) UnmarshalText(text []byte) error {
	s := string(text)
	switch {
	case s == "":
		return fmt.Errorf("an empty pattern matches no node; remove it")
	case strings.Contains(s, "@"):
		return fmt.Errorf("%q has an @: a pattern matches the part of a name before it; all nodes are on this host", s)
	case len(s) > maxPattern:
		return fmt.Errorf("a pattern has %d bytes; the maximum is %d", len(s), maxPattern)
	}
	match, err := regexp.Compile(`(?s)\A` + wildcards.Replace(regexp.QuoteMeta(s)) + `\z`)
	if err != nil {
		return fmt.Errorf("%q is not a valid pattern: %w", s, err)
	}
	*p = Pattern{text: s, match: match}
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }
