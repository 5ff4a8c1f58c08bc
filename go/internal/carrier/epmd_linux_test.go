package carrier

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/testkit"
)

// fakeEPMD plays EPMD at a random port of 127.0.0.1.
type fakeEPMD struct {
	t          *testing.T
	l          net.Listener
	addr       netip.AddrPort
	stock      bool
	full       atomic.Bool   // closes all connections except registrations
	heartbeats chan net.Conn // of the nodes that registered
	extras     chan []byte   // of the registrations
}

func newEPMD(t *testing.T, stock bool) *fakeEPMD {
	t.Helper()
	return epmdAt(t, "127.0.0.1:0", stock)
}

func epmdAt(t *testing.T, addr string, stock bool) *fakeEPMD {
	t.Helper()
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	e := &fakeEPMD{t: t, l: l, addr: l.Addr().(*net.TCPAddr).AddrPort(), stock: stock, heartbeats: make(chan net.Conn, 16), extras: make(chan []byte, 16)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go e.serve(c)
		}
	}()
	t.Cleanup(func() { l.Close() })
	return e
}

func readRequest(c net.Conn) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err := io.ReadFull(c, b)
	return b, err
}

func (e *fakeEPMD) serve(c net.Conn) {
	b, err := readRequest(c)
	if err != nil || len(b) == 0 {
		c.Close()
		return
	}
	switch {
	case b[0] != epmdproto.OpAlive2 && e.full.Load():
		c.Close()
	case b[0] == epmdproto.OpPort2:
		c.Write(epmdproto.AppendPort2Unknown(nil))
		c.Close()
	case b[0] == epmdproto.OpAlive2:
		req, err := epmdproto.ParseAlive2(b)
		if err != nil {
			e.t.Error(err)
		}
		select {
		case e.extras <- req.Extra:
		default:
		}
		resp := epmdproto.Alive2Resp{Creation: 3_000_000_000}
		if req.Name == "taken" {
			resp = epmdproto.Alive2Resp{Result: 1}
		}
		c.Write(resp.Append(nil, req.Highest))
		e.heartbeats <- c
	case b[0] == epmdproto.OpHandover:
		if !e.stock {
			c.Write(epmdproto.AppendHandoverResult(nil, epmdproto.NoSuchNode))
		}
		c.Close()
	default:
		c.Close()
	}
}

func (e *fakeEPMD) heartbeat() net.Conn {
	e.t.Helper()
	select {
	case c := <-e.heartbeats:
		e.t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(testkit.Patience))
		return c
	case <-time.After(testkit.Patience):
		e.t.Fatal("no registration")
		return nil
	}
}

// askSocket asks on the heartbeat for a socket.
func askSocket(t *testing.T, heartbeat net.Conn) string {
	t.Helper()
	if _, err := heartbeat.Write(epmdproto.HandoverAsk); err != nil {
		t.Fatal(err)
	}
	name, err := epmdproto.ReadHandoverSocket(heartbeat)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// openChannel asks for a socket and connects to it.
func openChannel(t *testing.T, heartbeat net.Conn) *net.UnixConn {
	t.Helper()
	return dialChannel(t, askSocket(t, heartbeat))
}

func dialChannel(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	c, err := fdpass.Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testkit.Patience))
	return c
}

// tcpPair is a connection as EPMD has it after accept, and the initiator's end.
func tcpPair(t *testing.T) (accepted, initiator *net.TCPConn) {
	t.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); d.Close() })
	d.SetDeadline(time.Now().Add(testkit.Patience))
	return a.(*net.TCPConn), d.(*net.TCPConn)
}

// pass sends c as PASS id, as EPMD does.
func pass(t *testing.T, ch *net.UnixConn, id uint64, c *net.TCPConn) {
	t.Helper()
	msg, err := epmdproto.AppendPass(nil, epmdproto.Passed{ID: id, Peer: c.RemoteAddr().(*net.TCPAddr).AddrPort()})
	if err != nil {
		t.Fatal(err)
	}
	passMessage(t, ch, msg, c)
}

func passMessage(t *testing.T, ch *net.UnixConn, msg []byte, c syscall.Conn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var sendErr error
	if err := raw.Control(func(fd uintptr) { sendErr = fdpass.Send(ch, msg, int(fd), time.Time{}) }); err != nil || sendErr != nil {
		t.Fatal(err, sendErr)
	}
}

func readAck(t *testing.T, ch *net.UnixConn) epmdproto.Ack {
	t.Helper()
	buf := make([]byte, 64)
	n, err := ch.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	a, err := epmdproto.ParseAck(buf[:n])
	if err != nil {
		t.Fatal(err)
	}
	return a
}
