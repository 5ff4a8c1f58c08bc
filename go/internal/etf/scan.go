package etf

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

const (
	tagVersion    = 131
	tagSmallInt   = 97
	tagInt        = 98
	tagAtom       = 100
	tagSmallTuple = 104
	tagLargeTuple = 105
	tagNil        = 106
	tagString     = 107
	tagList       = 108
	tagBinary     = 109
	tagSmallBig   = 110
	tagSmallAtom  = 115
	tagMap        = 116
	tagAtomUTF8   = 118
	tagSmallUTF8  = 119

	maxAtomBytes = 4 * 255
)

// scanner walks a term and builds nothing. off is where it stands.
type scanner struct {
	b   []byte
	off int
}

// scan says whether b is one whole term that erlang_go can decode at a cost
// bound by len(b): known tags, no size beyond the bytes that are left, at most
// MaxDepth levels, map keys that are atoms.
func scan(b []byte) error {
	s := scanner{b: b, off: 1}
	if len(b) > MaxSize {
		return s.fail("%d bytes, at most %d are taken", len(b), MaxSize)
	}
	if len(b) < 2 || b[0] != tagVersion {
		return s.fail("does not begin with byte %d", tagVersion)
	}
	if err := s.term(MaxDepth); err != nil {
		return err
	}
	if s.off != len(b) {
		return s.fail("%d bytes too many", len(b)-s.off)
	}
	return nil
}

func (s *scanner) fail(format string, args ...any) error {
	return fmt.Errorf("%w: %s at byte %d", ErrTerm, fmt.Sprintf(format, args...), s.off)
}

// take steps over n bytes and returns them.
func (s *scanner) take(n int) ([]byte, error) {
	if left := len(s.b) - s.off; n > left {
		return nil, s.fail("needs %d bytes where %d are left", n, left)
	}
	s.off += n
	return s.b[s.off-n : s.off], nil
}

// size reads a length of width bytes.
func (s *scanner) size(width int) (int, error) {
	b, err := s.take(width)
	if err != nil {
		return 0, err
	}
	var wide [4]byte
	copy(wide[4-width:], b)
	return int(min(binary.BigEndian.Uint32(wide[:]), math.MaxInt32)), nil
}

// sized steps over a length of width bytes and what it counts.
func (s *scanner) sized(width int) ([]byte, error) {
	n, err := s.size(width)
	if err != nil {
		return nil, err
	}
	return s.take(n)
}

func (s *scanner) term(depth int) error {
	if depth == 0 {
		return s.fail("nests deeper than %d", MaxDepth)
	}
	tag, err := s.take(1)
	if err != nil {
		return err
	}
	switch tag[0] {
	case tagSmallInt:
		_, err = s.take(1)
	case tagInt:
		_, err = s.take(4)
	case tagSmallBig:
		err = s.bignum()
	case tagAtom, tagAtomUTF8, tagSmallAtom, tagSmallUTF8:
		_, err = s.atom(tag[0])
	case tagBinary:
		_, err = s.sized(4)
	case tagString:
		_, err = s.sized(2)
	case tagNil:
	case tagSmallTuple:
		err = s.sequence(1, depth)
	case tagLargeTuple:
		err = s.sequence(4, depth)
	case tagList:
		err = s.list(depth)
	case tagMap:
		err = s.pairs(depth)
	default:
		s.off--
		err = s.fail("unexpected tag %d", tag[0])
	}
	return err
}

// bignum: Size:8 Sign:8 and Size bytes; 8 of them hold every int64.
func (s *scanner) bignum() error {
	n, err := s.size(1)
	if err != nil {
		return err
	}
	if n > 8 {
		return s.fail("integer of %d bytes, at most 8 are taken", n)
	}
	_, err = s.take(1 + n)
	return err
}

func (s *scanner) atom(tag byte) (string, error) {
	width := 1
	if tag == tagAtom || tag == tagAtomUTF8 {
		width = 2
	}
	name, err := s.sized(width)
	if err != nil {
		return "", err
	}
	utf := tag == tagAtomUTF8 || tag == tagSmallUTF8
	if len(name) > maxAtomBytes || utf && !utf8.Valid(name) {
		return "", s.fail("bad atom of %d bytes", len(name))
	}
	return string(name), nil
}

func (s *scanner) sequence(width, depth int) error {
	n, err := s.count(width, 1)
	for ; err == nil && n > 0; n-- {
		err = s.term(depth - 1)
	}
	return err
}

// count reads how many elements follow, each of least bytes or more.
func (s *scanner) count(width, least int) (int, error) {
	n, err := s.size(width)
	if err == nil && n > (len(s.b)-s.off)/least {
		err = s.fail("counts %d elements where %d bytes are left", n, len(s.b)-s.off)
	}
	return n, err
}

func (s *scanner) list(depth int) error {
	if err := s.sequence(4, depth); err != nil {
		return err
	}
	tail, err := s.take(1)
	if err == nil && tail[0] != tagNil {
		err = s.fail("improper list")
	}
	return err
}

func (s *scanner) pairs(depth int) error {
	n, err := s.count(4, 3)
	for ; err == nil && n > 0; n-- {
		if err = s.key(); err == nil {
			err = s.term(depth - 1)
		}
	}
	return err
}

func (s *scanner) key() error {
	tag, err := s.take(1)
	if err != nil {
		return err
	}
	switch tag[0] {
	case tagAtom, tagAtomUTF8, tagSmallAtom, tagSmallUTF8:
	default:
		return s.fail("map key with tag %d instead of an atom", tag[0])
	}
	name, err := s.atom(tag[0])
	// erlang_go makes nil of it, and panics on a nil key.
	if err == nil && name == "undefined" {
		err = s.fail("map key undefined")
	}
	return err
}
