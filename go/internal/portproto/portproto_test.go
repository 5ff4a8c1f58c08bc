package portproto

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"handover/go/internal/etf"
)

// with returns the good message name of the page with one argument changed;
// nil takes it away.
func with(name, key string, value any) any {
	t := commands[name].Term().(etf.Tuple)
	m := t[2].(etf.Map)
	if m[etf.Atom(key)] = value; value == nil {
		delete(m, etf.Atom(key))
	}
	return t
}

func term(t *testing.T, v any) []byte {
	t.Helper()
	b, err := etf.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBadFields: each error names the message, the field and what is wrong with it, and is a
// RequestError if the ID is valid.
func TestBadFields(t *testing.T) {
	long := []byte(strings.Repeat("n", 256))
	for _, tc := range []struct {
		term any
		id   uint64
		want string
	}{
		{with("HELLO", "os_pid", 0), 0, "hello: os_pid: 0 is not in 1.."},
		{with("HELLO", "log_level", etf.Atom("loud")), 0, `hello: log_level: "loud" is none of`},
		{with("HELLO", "epmd", etf.Atom("none")), 0, "hello: epmd: an atom instead of a binary"},
		{with("HELLO", "epmd", nil), 0, "hello: epmd: missing"},
		{with("HELLO", "colour", 1), 0, "hello: colour: unknown"},
		{with("REGISTER", "port", 65536), 1, "register: port: 65536 is not in 0..65535"},
		{with("REGISTER", "port", -1), 1, "register: port: -1"},
		{with("REGISTER", "epmd_port", 0), 1, "register: epmd_port: 0 is not in 1..65535"},
		{with("REGISTER", "name", []byte{}), 1, "register: name: epmdproto: bad node name: empty"},
		{with("REGISTER", "name", long), 1, "register: name: "},
		{with("REGISTER", "name", []byte("a\x00b")), 1, "has a NUL"},
		{with("REGISTER", "name", []byte("\xff")), 1, "not UTF-8"},
		{with("REGISTER", "address", []byte("localhost")), 1, "register: address: not an IP literal"},
		{with("REGISTER", "address", []byte("::ffff:127.0.0.1")), 1, "write it as 127.0.0.1"},
		{with("REGISTER", "highest", 65536), 1, "register: highest: 65536"},
		{with("REGISTER", "node_type", 256), 1, "register: node_type: 256"},
		{with("REGISTER", "extra", make([]byte, 2000)), 1, "register: extra: 2000 bytes"},
		{with("CONNECT", "timeout", 0), 7, "connect: timeout: 0"},
		{with("CONNECT", "timeout", etf.Atom("infinity")), 7, "connect: timeout: an atom instead of an integer"},
		{with("CONNECT", "bind", []byte("::1")), 7, "connect: bind: ::1 is of another address family"},
		{with("CONNECT", "bind", []byte("eth0")), 7, "connect: bind: not an IP literal"},
		{etf.Tuple{etf.Atom("connect"), 8, etf.List{}}, 8, "connect: arguments: a list instead of a map"},
		{etf.Tuple{etf.Atom("connect"), 0, etf.Map{}}, 0, "connect: id: 0"},
		{etf.Tuple{etf.Atom("cancel"), etf.Atom("all")}, 0, "cancel: id: an atom instead of an integer"},
		{etf.Tuple{etf.Atom("stop")}, 0, `unknown tuple {"stop", ...} of 1 elements`},
		{etf.Atom("hello"), 0, `unknown atom "hello"`},
		{etf.Tuple{}, 0, "neither an atom"},
		{int(3), 0, "neither an atom"},
	} {
		_, err := ParseCommand(term(t, tc.term))
		var bad *RequestError
		if err == nil || !strings.Contains(err.Error(), tc.want) || !errors.Is(err, ErrMessage) {
			t.Errorf("%v; want %q", err, tc.want)
		}
		if errors.As(err, &bad) != (tc.id != 0) || bad != nil && bad.ID != tc.id {
			t.Errorf("%v: answerable as %+v; want ID %d", err, bad, tc.id)
		}
	}
}

func TestVersion(t *testing.T) {
	hello := commands["HELLO"].Term().(etf.Tuple)
	hello[1] = 2
	reply := events["HELLO_REPLY"].Term().(etf.Tuple)
	reply[1] = 0
	var version *VersionError
	if _, err := ParseCommand(term(t, hello)); !errors.As(err, &version) || version.Got != 2 {
		t.Errorf("%v", err)
	}
	if _, err := ParseEvent(term(t, reply)); !errors.As(err, &version) || version.Got != 0 {
		t.Errorf("%v", err)
	}
}

func TestBadEvents(t *testing.T) {
	for _, bad := range []any{
		etf.Tuple{etf.Atom("registered"), 1, 1 << 32, etf.Atom("stock")},
		etf.Tuple{etf.Atom("registered"), 1, 1, etf.Atom("other")},
		etf.Tuple{etf.Atom("epmd"), etf.Atom("sideways"), []byte{}},
		etf.Tuple{etf.Atom("refused"), etf.Atom("mood"), []byte{}},
		etf.Tuple{etf.Atom("log"), etf.Atom("info"), []byte{}, etf.Atom("none")},
		etf.Tuple{etf.Atom("log"), etf.Atom("info"), []byte{}, etf.List{etf.Tuple{etf.Atom("k")}}},
		etf.Tuple{etf.Atom("log"), etf.Atom("info"), []byte{}, etf.List{etf.Tuple{etf.Atom("k"), etf.Atom("v")}}},
		etf.Atom("stop"),
	} {
		if e, err := ParseEvent(term(t, bad)); !errors.Is(err, ErrMessage) {
			t.Errorf("%v: %+v, %v", bad, e, err)
		}
	}
}

func TestReadFrame(t *testing.T) {
	most := string(make([]byte, MaxFrame))
	for _, tc := range []struct {
		in   string
		want error
		n    int
	}{
		{"", io.EOF, 0},
		{"\x00\x00", io.ErrUnexpectedEOF, 0},
		{"\x00\x00\x00\x02a", io.ErrUnexpectedEOF, 0},
		{"\x00\x00\x00\x02", io.ErrUnexpectedEOF, 0},
		{"\x00\x00\x00\x00", ErrFrame, 0},
		{"\x00\x00\x00\x02ab", nil, 2},
		{"\x00\x00\xff\xff" + most, nil, MaxFrame - 1},
		{"\x00\x01\x00\x00" + most, nil, MaxFrame},
		{"\x00\x01\x00\x01" + most, ErrFrame, 0},
	} {
		b, err := ReadFrame(strings.NewReader(tc.in))
		if !errors.Is(err, tc.want) || len(b) != tc.n {
			t.Errorf("%.8q: %d bytes, %v; want %d, %v", tc.in, len(b), err, tc.n, tc.want)
		}
	}
}

func TestBadConnections(t *testing.T) {
	good := AppendConnection(nil, Connection{Accepted, 1, netip.MustParseAddrPort("[2001:db8::1]:4369")})
	if c, err := ParseConnection(good); err != nil || c.Peer.String() != "[2001:db8::1]:4369" {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range [][]byte{
		nil, good[:12], good[:17], append(bytes.Clone(good), 0),
		append([]byte{2}, good[1:]...), append([]byte{1, 'x'}, good[2:]...),
	} {
		if c, err := ParseConnection(bad); !errors.Is(err, ErrMessage) {
			t.Errorf("%x: %+v, %v", bad, c, err)
		}
	}
}

// FuzzMessages: no panic, and a message that parses can be written and parses to itself.
func FuzzMessages(f *testing.F) {
	for _, b := range pageBlocks(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if c, err := ParseCommand(in); err == nil {
			again, err := ParseCommand(encoded(t, c))
			if err != nil || !reflect.DeepEqual(c, again) {
				t.Fatalf("%+v became %+v, %v", c, again, err)
			}
		}
		if e, err := ParseEvent(in); err == nil {
			if b, err := AppendFrame(nil, e); err == nil {
				again, err := ParseEvent(b[4:])
				if err != nil || !reflect.DeepEqual(e, again) {
					t.Fatalf("%+v became %+v, %v", e, again, err)
				}
			}
		}
		if c, err := ParseConnection(in); err == nil && !bytes.Equal(AppendConnection(nil, c), in) {
			t.Fatalf("%x is not what %+v makes", in, c)
		}
	})
}
