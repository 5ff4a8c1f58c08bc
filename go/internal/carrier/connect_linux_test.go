package carrier

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/portproto"
	"handover/go/internal/testkit"
)

// fullListener has a full backlog: a dial to it hangs.
func fullListener(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
	c, err := net.Dial("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return at
}

func TestConnectFails(t *testing.T) {
	b := newBEAM(t, Options{})
	for i, tc := range []struct {
		req    portproto.Connect
		reason portproto.Reason
		detail string
	}{
		{portproto.Connect{EPMD: testkit.Loopback(testkit.FreePort(t)), Timeout: testkit.Patience}, portproto.EPMDUnreachable, "connection refused"},
		{portproto.Connect{EPMD: fullListener(t), Timeout: 20 * time.Millisecond}, portproto.Timeout, "i/o timeout"},
		{portproto.Connect{EPMD: testkit.Loopback(testkit.FreePort(t)), Bind: netip.MustParseAddr("192.0.2.1"), Timeout: testkit.Patience}, portproto.EPMDUnreachable, "cannot assign"},
	} {
		tc.req.ID, tc.req.Name = uint64(i+1), "n2"
		b.say(tc.req)
		e := expect[portproto.Error](b)
		if e.ID != tc.req.ID || e.Reason != tc.reason || !strings.Contains(e.Detail, tc.detail) || !strings.Contains(e.Detail, tc.req.EPMD.String()) {
			t.Errorf("%+v; want %s with %q", e, tc.reason, tc.detail)
		}
	}
	b.noneReceived()
}

func TestConnectBound(t *testing.T) {
	b := newBEAM(t, Options{})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	b.say(portproto.Connect{ID: 1, Name: "n2", EPMD: at, Bind: netip.MustParseAddr("127.0.0.9"), Timeout: testkit.Patience})
	_, node := b.receive()
	if got := node.LocalAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.9" {
		t.Errorf("from %s", got)
	}
}

// The socket is as the BEAM would have made it: no TCP_NODELAY, no keep-alive,
// O_NONBLOCK.
func TestConnectOptions(t *testing.T) {
	b := newBEAM(t, Options{})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b.say(portproto.Connect{ID: 1, Name: "n2", EPMD: l.Addr().(*net.TCPAddr).AddrPort(), Timeout: testkit.Patience})
	_, fd, err := b.receiveFD()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for name, get := range map[string]func() (int, error){
		"TCP_NODELAY":  func() (int, error) { return unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY) },
		"SO_KEEPALIVE": func() (int, error) { return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE) },
		"a blocking mode": func() (int, error) {
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			return ^flags & unix.O_NONBLOCK, err
		},
	} {
		if v, err := get(); v != 0 || err != nil {
			t.Errorf("it has %s: %d, %v", name, v, err)
		}
	}
}

func TestCancelConnect(t *testing.T) {
	b := newBEAM(t, Options{})
	b.say(portproto.Connect{ID: 3, Name: "n2", EPMD: fullListener(t), Timeout: testkit.Patience})
	b.say(portproto.Cancel{ID: 3})
	if e := expect[portproto.Error](b); e.ID != 3 || e.Reason != portproto.Cancelled {
		t.Errorf("%+v", e)
	}
	b.say(portproto.Cancel{ID: 3}) // not under way any more: nothing happens
	b.say(portproto.Connect{ID: 3, Name: "n2", EPMD: testkit.Loopback(testkit.FreePort(t)), Timeout: testkit.Patience})
	if e := expect[portproto.Error](b); e.Reason != portproto.EPMDUnreachable {
		t.Errorf("%+v", e)
	}
}

func TestTooManyRequests(t *testing.T) {
	b := newBEAM(t, Options{MaxRequests: 2})
	full := fullListener(t)
	ask := func(id uint64) {
		b.say(portproto.Connect{ID: id, Name: "n2", EPMD: full, Timeout: testkit.Patience})
	}
	ask(1)
	ask(2)
	ask(3)
	if e := expect[portproto.Error](b); e.ID != 3 || e.Reason != portproto.Overloaded {
		t.Errorf("%+v", e)
	}
	b.say(portproto.Cancel{ID: 1})
	if e := expect[portproto.Error](b); e.ID != 1 || e.Reason != portproto.Cancelled {
		t.Errorf("%+v", e)
	}
	ask(2)
	if e := expect[portproto.Error](b); e.ID != 2 || e.Reason != portproto.BadRequest {
		t.Errorf("%+v", e)
	}
	b.say(portproto.Connect{ID: 4, Name: "n2", EPMD: testkit.Loopback(testkit.FreePort(t)), Timeout: testkit.Patience})
	if e := expect[portproto.Error](b); e.ID != 4 || e.Reason != portproto.EPMDUnreachable {
		t.Errorf("%+v; want room again", e)
	}
}
