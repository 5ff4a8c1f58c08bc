package fdpass

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func withFD(t *testing.T, c syscall.Conn, f func(fd int)) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { f(int(fd)) }); err != nil {
		t.Fatal(err)
	}
}

func tcpPair(t *testing.T, network, listen, dial string) (accepted, dialled *net.TCPConn) {
	t.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), network, listen)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	d, err := net.Dial("tcp", net.JoinHostPort(dial, port))
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); d.Close() })
	return a.(*net.TCPConn), d.(*net.TCPConn)
}

func TestVetTCPTakes(t *testing.T) {
	for _, tc := range [][2]string{{"tcp4", "127.0.0.1"}, {"tcp6", "::1"}} {
		a, d := tcpPair(t, tc[0], net.JoinHostPort(tc[1], "0"), tc[1])
		withFD(t, a, func(fd int) {
			peer, err := VetTCP(fd)
			if err != nil || peer.String() != d.LocalAddr().String() {
				t.Errorf("%v, %v; want %v", peer, err, d.LocalAddr())
			}
		})
	}
}

func TestVetTCPRefuses(t *testing.T) {
	mapped, _ := tcpPair(t, "tcp", "[::]:0", "127.0.0.1")
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	listener, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	file, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unixConn, _ := pair(t)
	fresh, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fresh)
	pipeR, pipeW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipeW.Close()
	defer pipeR.Close()

	for _, tc := range []struct {
		c    syscall.Conn
		want string
		tcp  bool
	}{
		{mapped, "dual-stack", true},
		{listener.(*net.TCPListener), "a listening TCP socket", false},
		{udp.(*net.UDPConn), "a UDP socket", false},
		{file, "a regular file", false},
		{pipeR, "a pipe", false},
		{unixConn, "a Unix socket", false},
	} {
		withFD(t, tc.c, func(fd int) { refused(t, fd, tc.want, tc.tcp) })
	}
	refused(t, fresh, "not connected", false)
	refused(t, -1, "unknown", false)
}

func refused(t *testing.T, fd int, want string, tcp bool) {
	t.Helper()
	_, err := VetTCP(fd)
	var vet *VetError
	if !errors.As(err, &vet) || !strings.Contains(vet.Error(), want) || vet.TCP != tcp {
		t.Errorf("%v; want a VetError with %q, TCP %v", err, want, tcp)
	}
}
