package epmdproto

import (
	"fmt"
	"net/netip"
)

// Passed is a PASS, the message that is sent with the descriptor of a connection.
type Passed struct {
	ID   uint64
	Peer netip.AddrPort // the initiator's
}

// AppendPass adds "1:8 'P' Id:64 Family:8 Port:16 Address" to b. An IPv4 address
// written as IPv6 becomes IPv4; a zone is left out. The error wraps ErrMessage: Peer is not
// valid.
func AppendPass(b []byte, p Passed) ([]byte, error) {
	addr := p.Peer.Addr().Unmap()
	if !addr.IsValid() {
		return b, fmt.Errorf("%w: PASS without an address", ErrMessage)
	}
	family := byte(4)
	if addr.Is6() {
		family = 6
	}
	b = be.AppendUint64(append(b, passVersion, 'P'), p.ID)
	b = be.AppendUint16(append(b, family), p.Peer.Port())
	return append(b, addr.AsSlice()...), nil
}

// ParsePass reads one whole message. The error wraps ErrMessage.
func ParsePass(b []byte) (Passed, error) {
	if err := checkHeader(b, 'P', passHeader); err != nil {
		return Passed{}, err
	}
	if !(b[10] == 4 && len(b) == passHeader+4) && !(b[10] == 6 && len(b) == passHeader+16) {
		return Passed{}, fmt.Errorf("%w: PASS of family %d in %d bytes", ErrMessage, b[10], len(b))
	}
	addr, _ := netip.AddrFromSlice(b[passHeader:])
	return Passed{ID: be.Uint64(b[2:]), Peer: netip.AddrPortFrom(addr, be.Uint16(b[11:]))}, nil
}

// Ack is the carrier's answer to one PASS.
type Ack struct {
	ID     uint64
	Result Result
}

// AppendAck adds "1:8 'A' Id:64 Result:8" to b.
func AppendAck(b []byte, a Ack) []byte {
	b = be.AppendUint64(append(b, passVersion, 'A'), a.ID)
	return append(b, byte(a.Result))
}

// ParseAck reads one whole message. The error wraps ErrMessage.
func ParseAck(b []byte) (Ack, error) {
	if err := checkHeader(b, 'A', AckSize); err != nil {
		return Ack{}, err
	}
	if len(b) != AckSize {
		return Ack{}, fmt.Errorf("%w: ACK of %d bytes", ErrMessage, len(b))
	}
	return Ack{ID: be.Uint64(b[2:]), Result: Result(b[10])}, nil
}

func checkHeader(b []byte, kind byte, least int) error {
	switch {
	case len(b) < least:
		return fmt.Errorf("%w: %d bytes, at least %d make a %q", ErrMessage, len(b), least, kind)
	case b[0] != passVersion:
		return fmt.Errorf("%w: version %d, this is version %d", ErrMessage, b[0], passVersion)
	case b[1] != kind:
		return fmt.Errorf("%w: kind %d instead of %q", ErrMessage, b[1], kind)
	}
	return nil
}
