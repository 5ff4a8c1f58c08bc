package epmd

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"time"

	"handover/go/internal/epmdproto"
)

// probeTimeout bounds the question to what holds EPMD's port.
const probeTimeout = 5 * time.Second

// isEPMD asks what listens at addr for its names: an EPMD answers with the port
// that it listens on.
func isEPMD(addr netip.AddrPort) bool {
	switch addr.Addr() {
	case netip.IPv4Unspecified():
		addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), addr.Port())
	case netip.IPv6Unspecified():
		addr = netip.AddrPortFrom(netip.IPv6Loopback(), addr.Port())
	}
	c, err := net.DialTimeout("tcp", addr.String(), probeTimeout)
	if err != nil {
		return false
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return false
	}
	if _, err := c.Write(epmdproto.AppendRequest(nil, epmdproto.OpNames, "")); err != nil {
		return false
	}
	var port [4]byte
	_, err = io.ReadFull(c, port[:])
	return err == nil && binary.BigEndian.Uint32(port[:]) == uint32(addr.Port())
}
