package etf

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
)

var terms = []any{
	Atom("stop"), Atom(""), Atom("undefined"), Atom("true"), Atom("é"),
	int64(0), int64(255), int64(256), int64(-1), int64(math.MaxInt32), int64(math.MaxInt32 + 1),
	int64(math.MaxInt64), int64(math.MinInt64),
	[]byte{}, []byte("n1\x00\xff"),
	Tuple{}, Tuple{Atom("cancel"), int64(7)},
	List{}, List{int64(1), int64(2)}, List{Tuple{Atom("k"), []byte("v")}},
	Map{}, Map{"b": int64(1), "a": Map{"c": []byte("x")}},
}

func TestRoundTrip(t *testing.T) {
	for _, want := range terms {
		b, err := Encode(want)
		if err != nil {
			t.Errorf("%#v: %v", want, err)
			continue
		}
		got, err := Decode(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%#v, %v; want %#v", got, err, want)
		}
	}
}

// What erl's term_to_binary makes: strings of small lists, both kinds of atoms.
func TestDecodeErl(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want any
	}{
		{"\x83k\x00\x02\x01\x02", List{int64(1), int64(2)}},
		{"\x83d\x00\x04stop", Atom("stop")},
		{"\x83d\x00\x01\xe9", Atom("é")},
		{"\x83s\x04stop", Atom("stop")},
		{"\x83w\x04stop", Atom("stop")},
		{"\x83v\x00\x04stop", Atom("stop")},
		{"\x83d\x00\x09undefined", Atom("undefined")},
		{"\x83d\x00\x05false", Atom("false")},
		{"\x83i\x00\x00\x00\x01a\x05", Tuple{int64(5)}},
		{"\x83n\x04\x00\x00\x00\x00\x80", int64(1) << 31},
	} {
		got, err := Decode([]byte(tc.in))
		if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%q: %#v, %v; want %#v", tc.in, got, err, tc.want)
		}
	}
}

func nest(n int) []byte {
	return []byte("\x83" + strings.Repeat("h\x01", n-1) + "a\x00")
}

var bad = map[string]string{
	"empty":                      "",
	"version only":               "\x83",
	"other version":              "\x82a\x00",
	"2 GiB binary":               "\x83m\x7f\xff\xff\xff",
	"4 GiB of tuple":             "\x83i\xff\xff\xff\xff",
	"4 GiB of list":              "\x83l\xff\xff\xff\xffa\x00",
	"4 GiB of map":               "\x83t\xff\xff\xff\xff",
	"string beyond the end":      "\x83k\x00\x05ab",
	"atom beyond the end":        "\x83w\x05ab",
	"atom not UTF-8":             "\x83w\x01\xff",
	"improper list":              "\x83l\x00\x00\x00\x01a\x01a\x02",
	"list without tail":          "\x83l\x00\x00\x00\x01a\x01",
	"map key undefined":          "\x83t\x00\x00\x00\x01w\x09undefineda\x01",
	"map key a tuple":            "\x83t\x00\x00\x00\x01h\x00a\x01",
	"compressed":                 "\x83P\x00\x00\x00\x01x",
	"float":                      "\x83F\x00\x00\x00\x00\x00\x00\x00\x00",
	"pid":                        "\x83X",
	"bignum of 9 bytes":          "\x83n\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01",
	"bignum beyond 64 bits":      "\x83n\x08\x00\x00\x00\x00\x00\x00\x00\x00\x80",
	"bytes behind":               "\x83a\x00a",
	"integer without its bytes":  "\x83b\x00",
	"nests one too deep":         string(nest(MaxDepth + 1)),
	"nests 30,000 deep":          string(nest(30000)),
	"larger than a frame may be": "\x83m\x00\x00\xff\xfb" + strings.Repeat("x", MaxSize-5),
}

func TestDecodeRefuses(t *testing.T) {
	for name, in := range bad {
		if got, err := Decode([]byte(in)); !errors.Is(err, ErrTerm) {
			t.Errorf("%s: %#v, %v", name, got, err)
		}
	}
	if _, err := Decode(nest(MaxDepth)); err != nil {
		t.Errorf("at the depth limit: %v", err)
	}
	if _, err := Decode([]byte("\x83m\x00\x00\xff\xfa" + strings.Repeat("x", MaxSize-6))); err != nil {
		t.Errorf("at the size limit: %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, in := range []any{nil, 1.5, "text", make(Tuple, 256), Tuple{nil}, List{nil}, Map{"a": nil}, make([]byte, MaxSize)} {
		if _, err := Encode(in); err == nil {
			t.Errorf("%T is encoded", in)
		}
	}
}

// FuzzDecode: no panic, memory in proportion to the input, and a decoded term that is encoded
// decodes to itself.
func FuzzDecode(f *testing.F) {
	for _, t := range terms {
		if b, err := Encode(t); err == nil {
			f.Add(b)
		}
	}
	for _, in := range bad {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		term, err := Decode(in)
		if err != nil {
			return
		}
		b, err := Encode(term)
		if err != nil {
			return // a list of bytes or an atom that grows beyond a limit
		}
		again, err := Decode(b)
		if err != nil || !reflect.DeepEqual(term, again) {
			t.Fatalf("%#v became %#v, %v", term, again, err)
		}
		if c, err := Encode(again); err != nil || !bytes.Equal(b, c) {
			t.Fatalf("%x then %x, %v", b, c, err)
		}
	})
}
