package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
)

// distFlags are the distribution flags of an OTP 25 node.
const distFlags = 0x0d07df7fbc

// lookup asks EPMD for the port of the node, and reads until EPMD closes the connection, as OTP's nodes do.
func (l load) lookup() (port int, err error) {
	fd, err := dial(l.port)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, epmdproto.AppendRequest(nil, 'z', l.name)); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	var buf [512]byte
	got := 0
	for {
		n, err := unix.Read(fd, buf[got:])
		got += max(n, 0)
		switch {
		case err != nil:
			return 0, fmt.Errorf("PORT2_RESP % x: %w", buf[:got], err)
		case n > 0:
		case got < 4 || buf[0] != 'w' || buf[1] != 0:
			return 0, fmt.Errorf("PORT2_RESP % x", buf[:got])
		default:
			return int(binary.BigEndian.Uint16(buf[2:])), nil
		}
	}
}

// requestHandover asks EPMD to hand its connection over to the node. With -handshake it sends the first packet of the handshake
// directly after the request, as handover's nodes do.
func (l load) requestHandover(client, turn int) error {
	request, err := epmdproto.AppendHandoverReq(nil, l.name)
	if err != nil {
		return err
	}
	fd, err := dial(l.port)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if l.handshake {
		request = appendName(request, client, turn)
	}
	if _, err := unix.Write(fd, request); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	var answer [4]byte
	if err := readFull(fd, answer[:]); err != nil {
		return fmt.Errorf("HANDOVER_RESP: %w", err)
	}
	if answer[0] != 'i' || answer[1] != 0 {
		return fmt.Errorf("HANDOVER_RESP % x", answer)
	}
	return l.finish(fd)
}

// lookUpAndDial does what a node without handover does: it asks EPMD for the port of the node, and dials it.
func (l load) lookUpAndDial(client, turn int) error {
	port, err := l.lookup()
	if err != nil {
		return err
	}
	fd, err := dial(port)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if l.handshake {
		if _, err := unix.Write(fd, appendName(nil, client, turn)); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		return l.finish(fd)
	}
	var answer [4]byte // the node sends it when it has accepted the connection
	if err := readFull(fd, answer[:]); err != nil {
		return fmt.Errorf("answer of the node: %w", err)
	}
	return l.finish(fd)
}

// finish reads the node's status and challenge if -handshake is set. It makes close reset the connection, because TIME_WAIT would
// soon use up all ports of the address.
func (l load) finish(fd int) error {
	for i := 0; l.handshake && i < 2; i++ { // status, challenge
		var buf [512]byte
		if err := readFull(fd, buf[:2]); err != nil {
			return fmt.Errorf("handshake: %w", err)
		}
		packet := buf[2 : 2+min(int(binary.BigEndian.Uint16(buf[:])), 510)]
		if err := readFull(fd, packet); err != nil {
			return fmt.Errorf("handshake: %w", err)
		}
		if i == 0 && string(packet) != "sok" {
			return fmt.Errorf("status %q", packet)
		}
	}
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// appendName appends the first packet of a handshake. Each client uses 64 names in turn, so that the node has finished with a
// name before it is used again.
func appendName(b []byte, client, turn int) []byte {
	name := fmt.Sprintf("c%d-%d@127.0.0.1", client, turn%64)
	be := binary.BigEndian
	b = append(be.AppendUint16(b, uint16(15+len(name))), 'N')
	b = be.AppendUint32(be.AppendUint64(b, distFlags), 1)
	return append(be.AppendUint16(b, uint16(len(name))), name...)
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		if err != nil || n <= 0 {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
		b = b[n:]
	}
	return nil
}
