// Package listen opens the TCP listeners of an EPMD. Each listener has one
// address and one family: a node cannot adopt a connection of a dual-stack one.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxListeners is how many addresses an EPMD listens on, as in the stock one.
const MaxListeners = 16

// InUseError reports an address that has a listener already.
type InUseError struct {
	Addr netip.AddrPort
	// EPMD reports whether that listener answers as an EPMD does.
	EPMD bool
}

func (e *InUseError) Error() string {
	if e.EPMD {
		return fmt.Sprintf("there is already a epmd running at port %d on ipaddr %s", e.Addr.Port(), e.Addr.Addr())
	}
	return fmt.Sprintf("port %d on ipaddr %s is taken by something that is not an EPMD (to see what: ss -ltnp 'sport = :%d')",
		e.Addr.Port(), e.Addr.Addr(), e.Addr.Port())
}

// Listen opens a listener for each address of the list. Addresses are separated
// by commas or blanks, and the loopback addresses are added. An empty list means
// every address. If the host has no IPv6, Listen omits IPv6 addresses that the
// list does not name. The error is an *InUseError if an address has a listener
// already. The caller must close the listeners.
func Listen(addresses string, port uint16) ([]*net.TCPListener, error) {
	addrs, optional, err := ParseAddresses(addresses)
	if err != nil {
		return nil, err
	}
	var listeners []*net.TCPListener
	for i, addr := range addrs {
		l, err := listenOn(netip.AddrPortFrom(addr, port))
		if err != nil && i < optional && isNoFamily(err) {
			continue
		}
		if err != nil {
			for _, l := range listeners {
				_ = l.Close()
			}
			return nil, err
		}
		listeners = append(listeners, l)
	}
	if len(listeners) == 0 {
		return nil, errors.New("unable to bind any address")
	}
	return listeners, nil
}

// ParseAddresses returns the addresses that Listen listens on. The first optional
// ones may be of a family that the host does not have.
func ParseAddresses(list string) (addrs []netip.Addr, optional int, err error) {
	tokens := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
	if len(tokens) == 0 {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, 2, nil
	}
	addrs = []netip.Addr{loopback4, netip.IPv6Loopback()}
	for _, token := range tokens {
		addr, err := netip.ParseAddr(token)
		if err != nil {
			return nil, 0, fmt.Errorf("cannot parse IP address %q", token)
		}
		if slices.Contains(addrs, addr.Unmap()) {
			continue
		}
		if addrs = append(addrs, addr.Unmap()); len(addrs) > MaxListeners {
			return nil, 0, fmt.Errorf("cannot listen on more than %d IP addresses", MaxListeners)
		}
	}
	return addrs, 2, nil
}

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func listenOn(addr netip.AddrPort) (*net.TCPListener, error) {
	network := "tcp4"
	if addr.Addr().Is6() {
		network = "tcp6" // sets IPV6_V6ONLY
	}
	var config net.ListenConfig
	// An MPTCP listener would accept sockets that a node cannot adopt.
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), network, addr.String())
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, &InUseError{Addr: addr, EPMD: isEPMD(addr)}
	}
	if err != nil {
		return nil, fmt.Errorf("failed to bind on ipaddr %s: %w", addr.Addr(), err)
	}
	return l.(*net.TCPListener), nil
}

// isNoFamily reports whether the host does not have the address's family.
func isNoFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}
