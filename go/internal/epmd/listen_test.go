package epmd

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
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
		addrs, _, err := ParseAddresses(list)
		got := fmt.Sprint(addrs)
		if err != nil {
			got = err.Error()
		}
		if want != "" && got != want || want == "" && err != nil {
			t.Errorf("%q: %s, want %s", list, got, want)
		}
	}
}

// TestInUse: who holds the port makes the difference.
func TestInUse(t *testing.T) {
	ts := start(t, Options{})
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
		"an EPMD":        {uint16(ts.o.Port), true, "there is already a epmd running at port"},
		"something else": {uint16(other.Addr().(*net.TCPAddr).Port), false, "not an EPMD"},
	} {
		_, err := Listen("127.0.0.1", c.port)
		var inUse *InUseError
		if !errors.As(err, &inUse) || inUse.EPMD != c.epmd || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestListen: both families, each on a listener of its own.
func TestListen(t *testing.T) {
	noLeaks(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(free.Addr().(*net.TCPAddr).Port)
	_ = free.Close()
	listeners, err := Listen("", port)
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
	if _, err := Listen("192.0.2.77", port); err == nil || !strings.Contains(err.Error(), "192.0.2.77") {
		t.Errorf("an address that is not this host's: %v", err)
	}
}
