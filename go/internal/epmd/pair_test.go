package epmd

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"handover/go/internal/testkit"

	"golang.org/x/sys/unix"
)

// remotePair is a TCP connection whose accepted end is a conn with a peer of
// another host.
func remotePair(t *testing.T, s *Server) (*conn, net.Conn) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	theirs, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	_ = theirs.SetDeadline(time.Now().Add(testkit.Patience))
	lfd, err := dupListener(l)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(lfd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(lfd), Events: unix.POLLIN}}, int(testkit.Patience.Milliseconds())); err != nil {
		t.Fatal(err)
	}
	fd, _, err := acceptNow(lfd)
	if err != nil {
		t.Fatal(err)
	}
	return &conn{shared: s.conns, socket: socket{fd: fd, peer: netip.MustParseAddrPort("192.0.2.1:5")}, deadline: time.Now().Add(testkit.Patience)}, theirs
}
