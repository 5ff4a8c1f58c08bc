package portproto

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Kinds of a [Connection].
const (
	Connected = 'c' // the BEAM asked for it; ID is that of the request
	Accepted  = 'a' // handed over; ID is a counter
	Kept      = 'k' // from an earlier carrier; the BEAM chooses ID
)

// KeepSize is the size of KEEP.
const KeepSize = 10

// AppendKeep adds "1:8 'k':8 Id:64" to b. KEEP is sent with the descriptor of a connection
// that the BEAM has from an earlier carrier.
func AppendKeep(b []byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, Version, Kept), id)
}

// ParseKeep reads one whole message. The error wraps ErrMessage.
func ParseKeep(b []byte) (id uint64, err error) {
	if len(b) != KeepSize || b[0] != Version || b[1] != Kept {
		return 0, fmt.Errorf("%w: % x is not a KEEP", ErrMessage, b)
	}
	return binary.BigEndian.Uint64(b[2:]), nil
}

// MaxConnection is the size of the larger form of CONNECTION.
const MaxConnection = connectionHeader + 16

const connectionHeader = 13

// Connection is the message that is sent to the BEAM with a descriptor.
type Connection struct {
	Kind byte
	ID   uint64
	Peer netip.AddrPort // the far end's
}

// AppendConnection adds "1:8 Kind:8 Id:64 Family:8 Port:16 Address" to b. Peer
// must be valid; a zone is left out.
func AppendConnection(b []byte, c Connection) []byte {
	family := byte(4)
	if c.Peer.Addr().Is6() {
		family = 6
	}
	b = binary.BigEndian.AppendUint64(append(b, Version, c.Kind), c.ID)
	b = binary.BigEndian.AppendUint16(append(b, family), c.Peer.Port())
	return append(b, c.Peer.Addr().AsSlice()...)
}

// ParseConnection reads one whole message. The error wraps ErrMessage.
func ParseConnection(b []byte) (Connection, error) {
	switch {
	case len(b) != connectionHeader+4 && len(b) != MaxConnection:
		return Connection{}, fmt.Errorf("%w: CONNECTION of %d bytes", ErrMessage, len(b))
	case b[0] != Version:
		return Connection{}, fmt.Errorf("%w: CONNECTION of version %d, this is version %d", ErrMessage, b[0], Version)
	case b[1] != Connected && b[1] != Accepted:
		return Connection{}, fmt.Errorf("%w: CONNECTION of kind %d", ErrMessage, b[1])
	case b[10] == 4 != (len(b) == connectionHeader+4) || b[10] != 4 && b[10] != 6:
		return Connection{}, fmt.Errorf("%w: CONNECTION of family %d in %d bytes", ErrMessage, b[10], len(b))
	}
	addr, _ := netip.AddrFromSlice(b[connectionHeader:])
	port := binary.BigEndian.Uint16(b[11:])
	return Connection{b[1], binary.BigEndian.Uint64(b[2:]), netip.AddrPortFrom(addr, port)}, nil
}
