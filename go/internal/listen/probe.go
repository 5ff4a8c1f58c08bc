package listen

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"time"

	"handover/go/internal/epmdproto"
)

// probeTimeout bounds each step of isEPMD.
const probeTimeout = 5 * time.Second

// isEPMD reports whether the listener at addr is an EPMD. It sends NAMES: an EPMD
// answers with the port that it listens on.
func isEPMD(addr netip.AddrPort) bool {
	switch addr.Addr() {
	case netip.IPv4Unspecified():
		addr = netip.AddrPortFrom(loopback4, addr.Port())
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
