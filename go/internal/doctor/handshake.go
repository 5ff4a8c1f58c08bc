package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// The distribution handshake of version 6, up to the challenge. A packet is Length:16 and
// Length bytes, big-endian:
//
//	doctor                                         node
//	  |-- 'N' Flags:64 Creation:32 NLen:16 Host ---->|   NAME_ME: without a name
//	  |<-- 's' "named:" NLen:16 Name Creation:32 ----|
//	  |<-- 'N' Flags:64 Challenge:32 Creation:32 NLen:16 Name
//
// The doctor asks the node for a name, as a remote shell does, so that it never conflicts
// with a node or another doctor. The node keeps the name for the next one that asks.
const (
	distVersion = 6
	tagName     = 'N'
	tagStatus   = 's'

	// The flags that OTP 25 and 26 require, and the one that replaces them in OTP 27.
	flagsMandatory = 0x4 | 0x10 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x20000 | 0x40000 | 0x1000000 |
		0x2000000 | 0x4000000 | 4<<32
	flagNameMe   = 2 << 32
	flagDigest25 = 0x4000000 // since OTP 25

	// maxPacket has room for a name of 255 characters of 4 bytes.
	maxPacket = 2048
	// tlsAlert is how a TLS alert begins.
	tlsAlert = 0x1503
)

var (
	errHandshake = errors.New("no packet of the distribution handshake")
	errTLS       = errors.New("it answers in TLS")
)

func (c *check) checkHandshake(ctx context.Context) finding {
	err := applyDeadline(ctx, c.link)
	if err == nil {
		_, err = c.link.Write(appendName(nil, hostName()))
	}
	var status string
	if err == nil {
		status, err = readStatus(c.link)
	}
	if err != nil {
		return failed(causeText(err), handshakeAdvice(err))
	}
	if status != statusNamed {
		return failed("its status is "+printable(status), statusAdvice(status))
	}
	n, err := readChallenge(c.link)
	if err != nil {
		return failed("after its status: "+causeText(err), handshakeAdvice(err))
	}
	if n.name != c.target {
		return failed("it calls itself "+printable(n.name), "use that name: add "+printable(n.name)+
			" to the nodes' dial map, or call handover:connect/1, which finds the name out")
	}
	return ok(n.String())
}

// hostName returns the host that is sent to the node, which makes a name of it.
func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" || strings.Contains(name, "@") {
		return "localhost"
	}
	return name
}

func handshakeAdvice(err error) string {
	switch {
	case errors.Is(err, errTLS):
		return "that node's distribution runs over TLS (-proto_dist inet_tls), which the doctor cannot check"
	case errors.Is(err, errHandshake):
		return "what listens there is not a node of OTP 25 or newer"
	case isTimeout(err):
		return "the host accepts the connection, but the node's VM does not answer: it is overloaded, suspended, or shutting down"
	}
	return "the node ended the handshake: see its log; it must run OTP 25 or newer"
}

func statusAdvice(status string) string {
	if status == "not_allowed" {
		return "that node allows certain nodes or hosts only (net_kernel:allow/1), or its OTP is too old or too new for this program"
	}
	return "try again; if that does not help, see the log of that node"
}

func appendName(b []byte, host string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(1+8+4+2+len(host)))
	b = append(b, tagName)
	b = binary.BigEndian.AppendUint64(b, flagsMandatory|flagNameMe)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(host)))
	return append(b, host...)
}

// readPacket reads one packet, and no byte after it.
func readPacket(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(length[:])
	switch {
	case n == tlsAlert:
		return nil, errTLS
	case n > maxPacket:
		return nil, fmt.Errorf("%w: it begins with %q", errHandshake, length)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	if err == io.EOF && n > 0 {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

const statusNamed = "named"

// readStatus returns the status, without the name that follows "named".
func readStatus(r io.Reader) (string, error) {
	b, err := readPacket(r)
	if err != nil {
		return "", err
	}
	if len(b) < 2 || b[0] != tagStatus {
		return "", fmt.Errorf("%w: %s", errHandshake, printable(string(b)))
	}
	if status, _, named := strings.Cut(string(b[1:]), ":"); named {
		return status, nil
	}
	return string(b[1:]), nil
}

// challenge is a node's description of itself.
type challenge struct {
	flags    uint64
	creation uint32
	name     string
}

func readChallenge(r io.Reader) (challenge, error) {
	const fixed = 1 + 8 + 4 + 4 + 2
	b, err := readPacket(r)
	if err != nil {
		return challenge{}, err
	}
	if len(b) < fixed || b[0] != tagName || fixed+int(binary.BigEndian.Uint16(b[fixed-2:])) > len(b) {
		return challenge{}, fmt.Errorf("%w: %s", errHandshake, printable(string(b)))
	}
	return challenge{
		flags:    binary.BigEndian.Uint64(b[1:]),
		creation: binary.BigEndian.Uint32(b[13:]),
		name:     string(b[fixed:][:binary.BigEndian.Uint16(b[fixed-2:])]),
	}, nil
}

func (n challenge) String() string {
	release := "OTP 25 or newer"
	if n.flags&flagDigest25 == 0 {
		release = "OTP 23 or 24"
	}
	return fmt.Sprintf("it is %s, %s; flags %#x, creation %d", printable(n.name), release, n.flags, n.creation)
}
