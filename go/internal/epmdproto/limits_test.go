package epmdproto

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for name, want := range map[string]error{
		"n": nil, ProbeName: nil, "ö€😀": nil,
		strings.Repeat("n", 254): nil, strings.Repeat("n", 255): nil, strings.Repeat("n", 256): ErrName,
		strings.Repeat("😀", 255): nil, strings.Repeat("😀", 256): ErrName,
		"": ErrName, "a\x00b": ErrName, "\xff": ErrName, "\xed\xa0\x80": ErrName, "a\xc0\xaf": ErrName,
	} {
		if err := ValidName(name); !errors.Is(err, want) {
			t.Errorf("ValidName(%.20q) = %v, want %v", name, err, want)
		}
		b, err := AppendHandoverReq(nil, name)
		if !errors.Is(err, want) || err == nil && len(b)-2 > MaxRequest {
			t.Errorf("AppendHandoverReq(%.20q) = %d bytes, %v; want %v", name, len(b), err, want)
		}
	}
}

func TestSocketNames(t *testing.T) {
	digits := strings.Repeat("0123456789abcdef", 2)
	for name, want := range map[string]error{
		SocketPrefix + digits: nil, NewSocketName(): nil,
		SocketPrefix + digits[1:]: ErrSocketName, SocketPrefix + digits + "0": ErrSocketName,
		SocketPrefix + digits[1:] + "A": ErrSocketName, SocketPrefix + digits[1:] + "\x00": ErrSocketName,
		"handoveR-" + digits: ErrSocketName, "\x00" + SocketPrefix + digits: ErrSocketName, "@" + SocketPrefix + digits: ErrSocketName,
		"": ErrSocketName, "/tmp/handover-" + digits: ErrSocketName, digits: ErrSocketName,
	} {
		if err := ValidSocketName(name); !errors.Is(err, want) {
			t.Errorf("ValidSocketName(%q) = %v, want %v", name, err, want)
		}
	}
	if first := NewSocketName(); first == NewSocketName() {
		t.Error("two names are the same")
	}
}

func TestExtraLimits(t *testing.T) {
	for n, want := range map[int]error{MaxExtra - 1: nil, MaxExtra: nil, MaxExtra + 1: ErrExtra} {
		r := Alive2Req{Name: "n", Extra: make([]byte, n)}
		if _, err := r.Append(nil); !errors.Is(err, want) {
			t.Errorf("Append with %d bytes of Extra: %v, want %v", n, err, want)
		}
		if err := r.CanRegister(); !errors.Is(err, want) {
			t.Errorf("CanRegister with %d bytes of Extra: %v, want %v", n, err, want)
		}
	}
}

// TestParseAlive2 has the cases that the stock EPMD closes for, and those that it
// lets pass.
func TestParseAlive2(t *testing.T) {
	whole, err := Alive2Req{Name: "n2", Extra: []byte("xy")}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	req := whole[2:]
	edit := func(at int, v byte) []byte {
		b := bytes.Clone(req)
		b[at] = v
		return b
	}
	for name, c := range map[string]struct {
		req  []byte
		want error
	}{
		"whole":          {req, nil},
		"bytes behind":   {append(bytes.Clone(req), 1, 2, 3), nil},
		"empty name":     {append([]byte("x1234567"), 0, 0, 0, 0, 0, 1, 'e', 'f')[:14], nil},
		"no name at all": {req[:alive2Fixed], ErrAlive2},
		"cut extra":      {req[:len(req)-1], ErrAlive2},
		"long name":      {edit(10, 200), ErrAlive2},
		"longer name":    {edit(9, 200), ErrAlive2},
		"long extra":     {edit(14, 3), ErrAlive2},
		"NUL in name":    {edit(11, 0), ErrAlive2},
		"another opcode": {edit(0, 'y'), ErrAlive2},
		"empty":          {nil, ErrAlive2},
	} {
		if _, err := ParseAlive2(c.req); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestReadAlive2Resp(t *testing.T) {
	for _, highest := range []uint16{5, 6} {
		r := bytes.NewReader(append(Alive2Resp{Result: 1, Creation: NoCreation}.Append(nil, highest), "more"...))
		got, err := ReadAlive2Resp(r)
		if err != nil || got != (Alive2Resp{1, NoCreation}) || r.Len() != 4 {
			t.Errorf("version %d: %+v, %v, %d bytes left", highest, got, err, r.Len())
		}
	}
	for in, want := range map[string]error{
		"": io.EOF, "v\x00\x00\x00\x00": io.ErrUnexpectedEOF, "y": io.ErrUnexpectedEOF, "HTTP/1.1": ErrAnswer,
	} {
		if _, err := ReadAlive2Resp(strings.NewReader(in)); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
}

func TestReadHandoverSocket(t *testing.T) {
	framed := func(n int, s string) string { return string([]byte{byte(n >> 8), byte(n)}) + s }
	name := NewSocketName()
	for in, c := range map[string]struct {
		name string
		err  error
	}{
		framed(SocketNameSize, name+"more"):   {name, nil},
		framed(0, ""):                         {"", nil},
		framed(SocketNameSize-1, name):        {"", ErrSocketName},
		framed(SocketNameSize, "/"+name[1:]):  {"", ErrSocketName},
		framed(SocketNameSize+1, name+"more"): {"", ErrFrame},
		"XXXXXXXX":                            {"", ErrFrame},
		"\x00":                                {"", io.ErrUnexpectedEOF},
		framed(2, "h"):                        {"", io.ErrUnexpectedEOF},
		framed(2, ""):                         {"", io.ErrUnexpectedEOF},
		"":                                    {"", io.EOF},
		framed(1, "\n"):                       {"", ErrSocketName},
	} {
		name, err := ReadHandoverSocket(strings.NewReader(in))
		if name != c.name || !errors.Is(err, c.err) {
			t.Errorf("%.20q: %.60q, %v; want %.60q, %v", in, name, err, c.name, c.err)
		}
	}
}

func TestChannelMessages(t *testing.T) {
	for _, addr := range []string{"192.0.2.7:1", "[2001:db8::1]:65535", "[::ffff:192.0.2.7]:9", "[fe80::1%eth0]:4"} {
		peer := netip.MustParseAddrPort(addr)
		b, err := AppendPass(nil, Passed{ID: 1 << 63, Peer: peer})
		if err != nil || len(b) > MaxPass {
			t.Fatal(err, len(b))
		}
		want := netip.AddrPortFrom(peer.Addr().Unmap().WithZone(""), peer.Port())
		if p, err := ParsePass(b); err != nil || p.Peer != want || p.ID != 1<<63 {
			t.Errorf("%s: %+v, %v", addr, p, err)
		}
		for n := range b {
			if _, err := ParsePass(b[:n]); !errors.Is(err, ErrMessage) {
				t.Errorf("%s: first %d bytes: %v", addr, n, err)
			}
		}
		for _, at := range []int{0, 1, 10} { // version, kind, family
			bad := bytes.Clone(b)
			bad[at]++
			if _, err := ParsePass(bad); !errors.Is(err, ErrMessage) {
				t.Errorf("%s: byte %d changed: %v", addr, at, err)
			}
		}
	}
	if _, err := AppendPass(nil, Passed{}); !errors.Is(err, ErrMessage) {
		t.Errorf("PASS without an address: %v", err)
	}
	ack := AppendAck(nil, Ack{ID: 7, Result: Refused})
	for _, bad := range [][]byte{nil, ack[:AckSize-1], append(bytes.Clone(ack), 0), {2, 'A', 0, 0, 0, 0, 0, 0, 0, 7, 0}, {1, 'P', 0, 0, 0, 0, 0, 0, 0, 7, 0}} {
		if _, err := ParseAck(bad); !errors.Is(err, ErrMessage) {
			t.Errorf("ACK % x: %v", bad, err)
		}
	}
}

func TestResultNames(t *testing.T) {
	for r, want := range map[Result]string{OK: "ok", NoSuchNode: "no_such_node", NoHandover: "no_handover",
		NoAnswer: "no_answer", Refused: "refused", Overloaded: "overloaded", CannotPass: "cannot_pass", 7: "result_7", 9: "result_9"} {
		if r.String() != want {
			t.Errorf("%d is %q, want %q", r, r, want)
		}
	}
}
