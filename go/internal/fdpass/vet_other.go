//go:build !linux

package fdpass

import (
	"errors"
	"net/netip"
)

// VetTCP needs SO_DOMAIN and SO_PROTOCOL, which only Linux has in this form.
func VetTCP(int) (netip.AddrPort, error) {
	return netip.AddrPort{}, &VetError{What: "a descriptor that cannot be checked on this system", Err: errors.ErrUnsupported}
}
