package peercred

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnix(t *testing.T) {
	l, err := net.Listen("unixpacket", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unixpacket", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cred, err := Unix(c.(*net.UnixConn))
	want := Cred{int32(os.Getpid()), uint32(os.Getuid()), uint32(os.Getgid())}
	if err != nil || cred != want {
		t.Errorf("%+v, %v; want %+v", cred, err, want)
	}
	c.Close()
	if _, err := Unix(c.(*net.UnixConn)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("of a closed connection: %v", err)
	}
}

func ends(c net.Conn) (local, remote netip.AddrPort) {
	return c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
}

type ownerFunc func(local, remote netip.AddrPort) (uint32, error)

// TestTCPOwner: sock_diag and /proc give the same answers.
func TestTCPOwner(t *testing.T) {
	t.Run("sock_diag", func(t *testing.T) { owners(t, diagOwnerOnly) })
	t.Run("proc", func(t *testing.T) { owners(t, procOwner) })
	t.Run("either", func(t *testing.T) { owners(t, TCPOwner) })
}

// diagOwnerOnly is TCPOwner without the search in /proc.
func diagOwnerOnly(local, remote netip.AddrPort) (uint32, error) {
	uid, err := diagOwner(local, remote)
	if errors.Is(err, unix.ENOENT) {
		err = &NotFoundError{local, remote}
	}
	return uid, err
}

func owners(t *testing.T, ask ownerFunc) {
	t.Helper()
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		d, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		local, remote := ends(d)
		// Not yet accepted: no process holds the far end, which must not be taken for root's.
		owner(t, ask, local, remote, true)
		owner(t, ask, remote, local, false)
		a, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		owner(t, ask, remote, local, true)
		// Half closed by the far end: the process still holds it.
		d.(*net.TCPConn).CloseWrite()
		owner(t, ask, remote, local, true)
		a.Close()
		d.Close()
		owner(t, ask, local, remote, false)
		// A listener on that port is not the connection.
		owner(t, ask, remote, netip.AddrPortFrom(remote.Addr(), 1), false)
	}
}

func owner(t *testing.T, ask ownerFunc, local, remote netip.AddrPort, found bool) {
	t.Helper()
	uid, err := ask(local, remote)
	var missing *NotFoundError
	if found && (err != nil || uid != uint32(os.Getuid())) {
		t.Errorf("%v to %v: %d, %v", local, remote, uid, err)
	}
	if !found && (!errors.Is(err, ErrNotFound) || !errors.As(err, &missing)) {
		t.Errorf("%v to %v: %d, %v; want not found", local, remote, uid, err)
	}
}

func TestTCPOwnerMixedFamilies(t *testing.T) {
	_, err := TCPOwner(netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("[::1]:1"))
	if err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := TCPOwner(netip.MustParseAddrPort("[fe80::1%nope]:1"), netip.MustParseAddrPort("[fe80::2]:1")); err == nil {
		t.Error("an unknown zone passes")
	}
}

func BenchmarkTCPOwner(b *testing.B) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	d, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	local, remote := ends(d)
	for b.Loop() {
		if _, err := TCPOwner(local, remote); err != nil {
			b.Fatal(err)
		}
	}
}
