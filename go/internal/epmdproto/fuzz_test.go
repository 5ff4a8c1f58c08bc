package epmdproto

import (
	"bytes"
	"reflect"
	"testing"
)

// The seeds are the page's examples and what is committed in testdata/fuzz.
// Whatever parses must encode, and parse to the same again.

func FuzzAlive2(f *testing.F) {
	f.Add(docExamples(f)["ALIVE2_REQ"][2:])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseAlive2(b)
		if err != nil || r.CanRegister() != nil || r.Name == "" {
			return
		}
		again, err := r.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if r2, err := ParseAlive2(again[2:]); err != nil || !reflect.DeepEqual(r, r2) {
			t.Fatalf("%+v, again %+v, %v", r, r2, err)
		}
	})
}

func FuzzAlive2Resp(f *testing.F) {
	f.Add(docExamples(f)["ALIVE2_X_RESP"])
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		r, err := ReadAlive2Resp(in)
		if err != nil {
			return
		}
		highest := uint16(5)
		if b[0] == opAlive2X {
			highest = 6
		}
		if read := b[:len(b)-in.Len()]; !bytes.Equal(r.Append(nil, highest), read) {
			t.Fatalf("% x gives %+v", read, r)
		}
	})
}

func FuzzHandoverSocket(f *testing.F) {
	f.Add(docExamples(f)["HANDOVER_SOCKET"])
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		name, err := ReadHandoverSocket(in)
		if err != nil {
			return
		}
		again, err := AppendHandoverSocket(nil, name)
		if read := b[:len(b)-in.Len()]; err != nil || !bytes.Equal(again, read) {
			t.Fatalf("% x gives %q, % x, %v", read, name, again, err)
		}
	})
}

func FuzzPass(f *testing.F) {
	f.Add(docExamples(f)["PASS"])
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePass(b)
		if err != nil {
			return
		}
		again, err := AppendPass(nil, p)
		if err != nil || !p.Peer.Addr().Is4In6() && !bytes.Equal(again, b) {
			t.Fatalf("% x gives %+v, % x, %v", b, p, again, err)
		}
	})
}

func FuzzAck(f *testing.F) {
	f.Add(docExamples(f)["ACK"])
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := ParseAck(b); err == nil && !bytes.Equal(AppendAck(nil, a), b) {
			t.Fatalf("% x gives %+v", b, a)
		}
	})
}
