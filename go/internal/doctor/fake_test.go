package doctor

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// fake is an EPMD that gives one answer to each request, by opcode; the request for
// the name that no node can have is 'p'. It closes the connection if there is no answer.
// After a HANDOVER_RESP of a node it calls node with the connection.
type fake struct {
	answers map[byte]string
	node    func(net.Conn)
}

// serve listens on a loopback port until the test ends and calls f with each
// connection, which is closed when f returns.
func serve(t *testing.T, f func(net.Conn)) (port uint16) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(testkit.Patience))
				f(c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func (f fake) serve(c net.Conn) {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return
	}
	request := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, request); err != nil || len(request) == 0 {
		return
	}
	op := request[0]
	if string(request) == "h"+epmdproto.ProbeName {
		op = 'p'
	}
	answer := f.answers[op]
	io.WriteString(c, answer)
	if op == epmdproto.OpHandover && answer == handedOver {
		f.node(c)
	}
}

// node plays a BEAM: it reads a name and sends these packets.
func node(packets ...string) func(net.Conn) {
	return func(c net.Conn) {
		if b, err := readPacket(c); err != nil || len(b) == 0 || b[0] != tagName {
			return
		}
		for _, p := range packets {
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...))
		}
		hold(c)
	}
}

// hold waits until the far end is gone.
func hold(c net.Conn) { io.Copy(io.Discard, c) }

// says plays a node that sends these bytes without reading.
func says(b string) func(net.Conn) {
	return func(c net.Conn) { io.WriteString(c, b); hold(c) }
}

const (
	handedOver = "i\x00\x00\x06"
	named      = "snamed:\x00\x03x@h\x00\x00\x00\x01"
)

func challengeOf(name string, flags uint64) string {
	b := binary.BigEndian.AppendUint64([]byte{tagName}, flags)
	b = append(b, 1, 2, 3, 4, 0, 0, 0, 42)
	return string(append(binary.BigEndian.AppendUint16(b, uint16(len(name))), name...))
}

func port2(port, highest uint16, extra string) string {
	return string(epmdproto.AppendPort2Resp(nil, epmdproto.Alive2Req{
		Port: port, NodeType: 77, Highest: highest, Lowest: 5, Name: "n1", Extra: []byte(extra),
	}))
}

// dialErrors has each error with an advice of its own, and one without.
var dialErrors = []error{
	context.DeadlineExceeded, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.EPERM, syscall.EADDRNOTAVAIL,
}
