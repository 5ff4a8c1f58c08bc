package listen_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"handover/go/internal/epmd"
	"handover/go/internal/listen"
	"handover/go/internal/testkit"
)

func TestParseAddresses(t *testing.T) {
	var many []string
	for i := range 15 {
		many = append(many, fmt.Sprintf("192.0.2.%d", i))
	}
	for list, want := range map[string]string{
		"":                                 "[0.0.0.0 ::]",
		" , ":                              "[0.0.0.0 ::]",
		"192.0.2.1":                        "[127.0.0.1 ::1 192.0.2.1]",
		"192.0.2.1, 2001:db8::1":           "[127.0.0.1 ::1 192.0.2.1 2001:db8::1]",
		"127.0.0.1,::1,192.0.2.1":          "[127.0.0.1 ::1 192.0.2.1]",
		"192.0.2.1,192.0.2.1":              "[127.0.0.1 ::1 192.0.2.1]",
		"::ffff:192.0.2.1":                 "[127.0.0.1 ::1 192.0.2.1]",
		"localhost":                        `cannot parse IP address "localhost"`,
		"192.0.2.1,192.0.2.256":            `cannot parse IP address "192.0.2.256"`,
		strings.Join(many[:14], ","):       "",
		strings.Join(many, ","):            "cannot listen on more than 16 IP addresses",
		strings.Join(many[:13], ",") + ",": "",
	} {
		addrs, _, err := listen.ParseAddresses(list)
		got := fmt.Sprint(addrs)
		if err != nil {
			got = err.Error()
		}
		if want != "" && got != want || want == "" && err != nil {
			t.Errorf("%q: %s, want %s", list, got, want)
		}
	}
}

// TestInUse: the error reports whether the port's listener is an EPMD.
func TestInUse(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	server := epmd.New(epmd.Options{Port: port})
	served := make(chan error, 1)
	go func() { served <- server.Serve([]*net.TCPListener{l.(*net.TCPListener)}) }()
	defer func() {
		server.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	other, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("SSH-2.0-"))
			_ = c.Close()
		}
	}()
	defer other.Close()
	for name, c := range map[string]struct {
		port uint16
		epmd bool
		text string
	}{
		"an EPMD":        {uint16(port), true, "there is already a epmd running at port"},
		"something else": {uint16(other.Addr().(*net.TCPAddr).Port), false, "not an EPMD"},
	} {
		_, err := listen.Listen("127.0.0.1", c.port)
		var inUse *listen.InUseError
		if !errors.As(err, &inUse) || inUse.EPMD != c.epmd || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestListen: both families, each on a listener of its own.
func TestListen(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(free.Addr().(*net.TCPAddr).Port)
	_ = free.Close()
	before, err := testkit.OpenFiles()
	if err != nil {
		t.Fatal(err)
	}
	listeners, err := listen.Listen("", port)
	if err != nil {
		t.Fatal(err)
	}
	families := map[bool]int{}
	for _, l := range listeners {
		families[l.Addr().(*net.TCPAddr).IP.To4() == nil]++
		_ = l.Close()
	}
	want := 1
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		want = 0
		t.Logf("no IPv6 here: %v", err)
	} else {
		_ = l.Close()
	}
	if families[false] != 1 || families[true] != want {
		t.Errorf("listeners: %v", listeners)
	}
	if _, err := listen.Listen("192.0.2.77", port); err == nil || !strings.Contains(err.Error(), "192.0.2.77") {
		t.Errorf("an address of another host: %v", err)
	}
	if opened, err := before.Since(); err != nil || len(opened) > 0 {
		t.Errorf("open files are left: %v, %v", opened, err)
	}
}
