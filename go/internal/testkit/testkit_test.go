package testkit

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSince: Since returns what was opened, until it is closed, and ignores what was
// closed.
func TestSince(t *testing.T) {
	open := func() *os.File {
		f, err := os.Open("/dev/zero")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	early := open()
	before, err := OpenFiles()
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	late := open()
	_ = early.Close()
	if got, err := before.Since(); err != nil || len(got) != 1 || !strings.HasSuffix(got[0], " /dev/zero") {
		t.Errorf("%q, %v", got, err)
	}
	_ = late.Close()
	if got, err := before.Since(); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}

// TestFreePort: the port refuses connections, is no other test's, and can be listened on.
func TestFreePort(t *testing.T) {
	port := FreePort(t)
	addr := Loopback(port).String()
	if _, err := net.Dial("tcp4", addr); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("before: %v", err)
	}
	for range 100 {
		if FreePort(t) == port {
			t.Fatal("the same port twice")
		}
	}
	for _, address := range []string{addr, "[::1]:" + strconv.Itoa(int(port)), "0.0.0.0:" + strconv.Itoa(int(port))} {
		l, err := net.Listen("tcp", address)
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			continue // no IPv6
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	}
}
