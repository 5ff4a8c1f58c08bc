package portproto

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"handover/go/internal/etf"
)

// ErrMessage: a term is not a message of this protocol, or has a wrong field. Errors wrap it
// and name the field.
var ErrMessage = errors.New("portproto: bad message")

// tuple is a message before its fields are read: {tag, args...}, or an atom.
type tuple struct {
	tag  string
	args []any
	atom bool
}

func decodeMessage(b []byte) (tuple, error) {
	v, err := etf.Decode(b)
	if err != nil {
		return tuple{}, fmt.Errorf("portproto: %w", err)
	}
	if a, ok := v.(etf.Atom); ok {
		return tuple{tag: string(a), atom: true}, nil
	}
	if t, ok := v.(etf.Tuple); ok && len(t) > 0 {
		if tag, ok := t[0].(etf.Atom); ok {
			return tuple{tag: string(tag), args: t[1:]}, nil
		}
	}
	return tuple{}, fmt.Errorf("%w: neither an atom nor a tuple that begins with one", ErrMessage)
}

// matches reports whether the message is {tag, ...} of arity elements, or the atom if arity is 0.
func (t tuple) matches(tag string, arity int) bool {
	return t.tag == tag && (arity == 0 && t.atom || !t.atom && len(t.args) == arity-1)
}

func (t tuple) unknownError() error {
	if t.atom {
		return fmt.Errorf("%w: unknown atom %q", ErrMessage, t.tag)
	}
	return fmt.Errorf("%w: unknown tuple {%q, ...} of %d elements", ErrMessage, t.tag, len(t.args)+1)
}

func (t tuple) newReader() *fieldReader { return &fieldReader{tag: t.tag} }

// fieldReader reads the fields of a message. err is the first error.
type fieldReader struct {
	tag  string
	body any
	err  error
}

func (r *fieldReader) fail(field, format string, args ...any) {
	if r.err == nil {
		detail := fmt.Errorf(format, args...)
		r.err = fmt.Errorf("%w: %s: %s: %w", ErrMessage, r.tag, field, detail)
	}
}

// readMap returns the map v, which must have exactly these keys.
func (r *fieldReader) readMap(v any, keys ...etf.Atom) etf.Map {
	m, ok := v.(etf.Map)
	if !ok {
		r.fail("arguments", "%s instead of a map", typeName(v))
		return nil
	}
	for _, k := range keys {
		if _, ok := m[k]; !ok {
			r.fail(string(k), "missing")
		}
	}
	for k := range m {
		if !slices.Contains(keys, k) {
			r.fail(string(k), "unknown")
		}
	}
	return m
}

func (r *fieldReader) readID(v any) uint64 { return uint64(r.readInteger("id", v, 1, 1<<63-1)) }

func (r *fieldReader) readInteger(field string, v any, low, high int64) int64 {
	n, ok := v.(int64)
	switch {
	case !ok:
		r.fail(field, "%s instead of an integer", typeName(v))
	case n < low || n > high:
		r.fail(field, "%d is not in %d..%d", n, low, high)
	}
	return n
}

func (r *fieldReader) readBinary(field string, v any) string {
	b, ok := v.([]byte)
	if !ok {
		r.fail(field, "%s instead of a binary", typeName(v))
	}
	return string(b)
}

func (r *fieldReader) readAtom(field string, v any) string {
	a, ok := v.(etf.Atom)
	if !ok {
		r.fail(field, "%s instead of an atom", typeName(v))
	}
	return string(a)
}

func (r *fieldReader) readOneOf(field string, v any, words ...string) string {
	a := r.readAtom(field, v)
	if !slices.Contains(words, a) {
		r.fail(field, "%q is none of %q", a, words)
	}
	return a
}

// readAddress reads an IP literal. An IPv4 address written as IPv6 is refused: the
// BEAM could adopt such a socket neither as inet nor as inet6.
func (r *fieldReader) readAddress(field string, v any) netip.Addr {
	a, err := netip.ParseAddr(r.readBinary(field, v))
	switch {
	case err != nil:
		r.fail(field, "not an IP literal: %w", err)
	case a.Is4In6():
		r.fail(field, "%v is IPv4 mapped into IPv6; write it as %v", a, a.Unmap())
	}
	return a
}

// typeName returns the type of a term, in Erlang's words.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case int64:
		return "an integer"
	case etf.Atom:
		return "an atom"
	case []byte:
		return "a binary"
	case etf.Tuple:
		return "a tuple"
	case etf.List:
		return "a list"
	}
	return "a map"
}
