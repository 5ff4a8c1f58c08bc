// Package etf reads and writes the external term format, as far as the control
// stream of docs/PROTOCOL.md needs it: atoms, integers of 64 bits, binaries,
// tuples, proper lists and maps whose keys are atoms. It is the only importer of erlang_go.
// That library allocates as much as a term claims to hold, recurses as deep as the term
// nests, and panics on the map key undefined. [Decode] therefore checks the bytes first.
//
//	atom      Atom         100, 115 (Latin-1, OTP 25), 118, 119 (UTF-8, OTP 26)
//	integer   int64        97, 98, 110
//	binary    []byte       109
//	tuple     Tuple        104, 105
//	list      List         106, 107 (a list of bytes), 108
//	map       Map          116
package etf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"

	"github.com/okeuday/erlang_go/v2/erlang"
)

const (
	// MaxSize is the size of the largest term, in bytes with the version byte.
	MaxSize = 65536
	// MaxDepth is the deepest nesting: {log, _, _, [{_, _}]} has 4.
	MaxDepth = 16
)

// The terms. An integer is an int64, and a binary is a []byte. Decode returns only these
// types; Encode also takes int and bool.
type (
	Atom  string
	Tuple []any
	List  []any
	Map   map[Atom]any
)

// ErrTerm: the bytes are not a term that this package takes. Errors of Decode wrap it, and say
// what is wrong and where.
var ErrTerm = errors.New("etf: bad term")

// Decode reads one whole term.
func Decode(b []byte) (any, error) {
	if err := checkTerm(b); err != nil {
		return nil, err
	}
	t, err := erlang.BinaryToTerm(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTerm, err)
	}
	return fromErlang(t)
}

// fromErlang converts erlang_go's types to those of this package. erlang_go decodes true, false
// and undefined to bool and nil, and a list of bytes to a string.
func fromErlang(t any) (any, error) {
	switch t := t.(type) {
	case nil:
		return Atom("undefined"), nil
	case bool:
		return Atom(fmt.Sprint(t)), nil
	case erlang.OtpErlangAtom:
		return latin1Atom(string(t)), nil
	case erlang.OtpErlangAtomUTF8:
		return Atom(t), nil
	case uint8:
		return int64(t), nil
	case int32:
		return int64(t), nil
	case *big.Int:
		if !t.IsInt64() {
			return nil, fmt.Errorf("%w: integer %v is beyond 64 bits", ErrTerm, t)
		}
		return t.Int64(), nil
	case erlang.OtpErlangBinary:
		return t.Value, nil
	case string:
		return bytesList(t), nil
	case erlang.OtpErlangList:
		return convertAll[List](t.Value)
	case erlang.OtpErlangTuple:
		return convertAll[Tuple](t)
	case erlang.OtpErlangMap:
		return fromMap(t)
	}
	return nil, fmt.Errorf("%w: %T", ErrTerm, t)
}

func latin1Atom(s string) Atom {
	r := make([]rune, len(s))
	for i := range len(s) {
		r[i] = rune(s[i])
	}
	return Atom(string(r))
}

func bytesList(s string) List {
	l := make(List, len(s))
	for i := range len(s) {
		l[i] = int64(s[i])
	}
	return l
}

func convertAll[T ~[]any](in []any) (T, error) {
	out := make(T, len(in))
	for i, e := range in {
		t, err := fromErlang(e)
		if err != nil {
			return nil, err
		}
		out[i] = t
	}
	return out, nil
}

func fromMap(m erlang.OtpErlangMap) (Map, error) {
	out := make(Map, len(m))
	for k, v := range m {
		key, err := fromErlang(k)
		if err != nil {
			return nil, err
		}
		value, err := fromErlang(v)
		if err != nil {
			return nil, err
		}
		out[key.(Atom)] = value // checkTerm has checked the type
	}
	return out, nil
}

// Encode returns one term with its version byte. Map keys are in alphabetical order, so that
// equal terms have equal bytes.
func Encode(t any) ([]byte, error) {
	b, err := appendTerm([]byte{tagVersion}, t)
	if err != nil {
		return nil, err
	}
	if len(b) > MaxSize {
		return nil, fmt.Errorf("etf: term of %d bytes, at most %d fit", len(b), MaxSize)
	}
	return b, nil
}

// appendTerm encodes the terms that hold others itself, since erlang_go does not sort map
// keys.
func appendTerm(b []byte, t any) ([]byte, error) {
	switch t := t.(type) {
	case Tuple:
		if len(t) > math.MaxUint8 {
			return nil, fmt.Errorf("etf: tuple of %d elements", len(t))
		}
		return appendAll(append(b, tagSmallTuple, byte(len(t))), t)
	case List:
		if len(t) == 0 {
			return append(b, tagNil), nil
		}
		b, err := appendAll(binary.BigEndian.AppendUint32(append(b, tagList), uint32(len(t))), t)
		return append(b, tagNil), err
	case Map:
		b = binary.BigEndian.AppendUint32(append(b, tagMap), uint32(len(t)))
		for _, k := range slices.Sorted(maps.Keys(t)) {
			var err error
			if b, err = appendAll(b, []any{k, t[k]}); err != nil {
				return nil, err
			}
		}
		return b, nil
	case Atom:
		return appendLeaf(b, erlang.OtpErlangAtomUTF8(t))
	case int, int64, bool, []byte:
		return appendLeaf(b, t)
	}
	return nil, fmt.Errorf("etf: no term for %T", t)
}

func appendAll(b []byte, ts []any) ([]byte, error) {
	var err error
	for _, t := range ts {
		if b, err = appendTerm(b, t); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func appendLeaf(b []byte, t any) ([]byte, error) {
	if i, ok := t.(int64); ok {
		t = int(i) // the small forms are for int only
	}
	leaf, err := erlang.TermToBinary(t, -1)
	if err != nil {
		return nil, fmt.Errorf("etf: %w", err)
	}
	return append(b, leaf[1:]...), nil
}
