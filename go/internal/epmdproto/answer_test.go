package epmdproto

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

func node2() Alive2Req {
	return Alive2Req{Port: 45103, NodeType: 77, Highest: 6, Lowest: 5, Name: "n2", Extra: []byte(Extra)}
}

func TestReadPort2Resp(t *testing.T) {
	whole := AppendPort2Resp(nil, node2())
	r, known, err := ReadPort2Resp(bytes.NewReader(append(bytes.Clone(whole), "behind"...)))
	if err != nil || !known || !reflect.DeepEqual(r, node2()) {
		t.Fatalf("%+v, %v, %v", r, known, err)
	}
	if _, known, err := ReadPort2Resp(bytes.NewReader(AppendPort2Unknown(nil))); err != nil || known {
		t.Errorf("unknown: %v, %v", known, err)
	}
	for n := range len(whole) {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if _, known, err := ReadPort2Resp(bytes.NewReader(whole[:n])); known || !errors.Is(err, want) {
			t.Errorf("%d bytes of %d: %v, %v", n, len(whole), known, err)
		}
	}
	for n, want := range map[int]error{MaxExtra - 1: nil, MaxExtra: nil, MaxExtra + 1: ErrAnswer} {
		long := node2()
		long.Extra = make([]byte, n)
		if _, _, err := ReadPort2Resp(bytes.NewReader(AppendPort2Resp(nil, long))); !errors.Is(err, want) {
			t.Errorf("%d bytes of Extra: %v, want %v", n, err, want)
		}
	}
	if _, _, err := ReadPort2Resp(strings.NewReader("SSH-2.0-")); !errors.Is(err, ErrAnswer) {
		t.Errorf("no EPMD: %v", err)
	}
}

func TestReadHandoverResp(t *testing.T) {
	for in, want := range map[string]struct {
		result  Result
		version uint16
		err     error
	}{
		"i\x00\x00\x06behind": {OK, 6, nil}, "i\x01": {NoSuchNode, 0, nil}, "i\x05more": {Overloaded, 0, nil}, "i\xff": {255, 0, nil},
		"": {0, 0, io.EOF}, "i": {0, 0, io.ErrUnexpectedEOF}, "i\x00\x00": {0, 0, io.ErrUnexpectedEOF}, "SSH-2.0-": {0, 0, ErrAnswer},
	} {
		result, version, err := ReadHandoverResp(strings.NewReader(in))
		if result != want.result || version != want.version || !errors.Is(err, want.err) {
			t.Errorf("%q: %v, %d, %v; want %+v", in, result, version, err, want)
		}
	}
}

func TestReadNames(t *testing.T) {
	for in, want := range map[string]struct {
		names []string
		err   error
	}{
		"\x00\x00\x11\x11": {nil, nil},
		"\x00\x00\x11\x11name n1 at port 4001\nname a at port b at port 2\n":  {[]string{"n1", "a at port b"}, nil},
		"\x00\x00\x11\x11name two\nlines at port 3\nname n1 at port 4001\nna": {[]string{"n1"}, nil},
		"\x00\x00\x11":     {nil, io.ErrUnexpectedEOF},
		"":                 {nil, io.EOF},
		"SSH-2.0-":         {nil, ErrAnswer},
		"\x00\x01\x00\x00": {nil, ErrAnswer},
		"\x00\x00\x00\x00": {nil, ErrAnswer},
	} {
		if names, err := ReadNames(strings.NewReader(in)); !reflect.DeepEqual(names, want.names) || !errors.Is(err, want.err) {
			t.Errorf("%q: %q, %v; want %+v", in, names, err, want)
		}
	}
}

func FuzzPort2Resp(f *testing.F) {
	f.Add(AppendPort2Resp(nil, node2()))
	f.Add(AppendPort2Unknown(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		r, known, err := ReadPort2Resp(in)
		if err != nil {
			return
		}
		again := append([]byte{opPort2Resp}, b[1])
		if known {
			again = AppendPort2Resp(nil, r)
		}
		if read := b[:len(b)-in.Len()]; !bytes.Equal(again, read) {
			t.Fatalf("% x gives %+v", read, r)
		}
	})
}
