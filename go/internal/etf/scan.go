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

// scanner reads a term without building it. off is the next byte.
type scanner struct {
	b   []byte
	off int
}

// checkTerm returns nil if b is one whole term that erlang_go can decode at a cost bound by
// len(b): all tags are known, no size exceeds the remaining bytes, it nests at most MaxDepth
// levels, and map keys are atoms.
func checkTerm(b []byte) error {
	s := scanner{b: b, off: 1}
	if len(b) > MaxSize {
		return s.fail("%d bytes, at most %d are taken", len(b), MaxSize)
	}
	if len(b) < 2 || b[0] != tagVersion {
		return s.fail("does not begin with byte %d", tagVersion)
	}
	if err := s.scanTerm(MaxDepth); err != nil {
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

// takeBytes returns the next n bytes.
func (s *scanner) takeBytes(n int) ([]byte, error) {
	if rest := len(s.b) - s.off; n > rest {
		return nil, s.fail("needs %d bytes, but %d are left", n, rest)
	}
	s.off += n
	return s.b[s.off-n : s.off], nil
}

// readSize reads a length of width bytes.
func (s *scanner) readSize(width int) (int, error) {
	b, err := s.takeBytes(width)
	if err != nil {
		return 0, err
	}
	var wide [4]byte
	copy(wide[4-width:], b)
	return int(min(binary.BigEndian.Uint32(wide[:]), math.MaxInt32)), nil
}

// takeSized reads a length of width bytes, and returns as many bytes as it says.
func (s *scanner) takeSized(width int) ([]byte, error) {
	n, err := s.readSize(width)
	if err != nil {
		return nil, err
	}
	return s.takeBytes(n)
}

func (s *scanner) scanTerm(depth int) error {
	if depth == 0 {
		return s.fail("nests deeper than %d", MaxDepth)
	}
	tag, err := s.takeBytes(1)
	if err != nil {
		return err
	}
	switch tag[0] {
	case tagSmallInt:
		_, err = s.takeBytes(1)
	case tagInt:
		_, err = s.takeBytes(4)
	case tagSmallBig:
		err = s.scanBignum()
	case tagAtom, tagAtomUTF8, tagSmallAtom, tagSmallUTF8:
		_, err = s.scanAtom(tag[0])
	case tagBinary:
		_, err = s.takeSized(4)
	case tagString:
		_, err = s.takeSized(2)
	case tagNil:
	case tagSmallTuple:
		err = s.scanSequence(1, depth)
	case tagLargeTuple:
		err = s.scanSequence(4, depth)
	case tagList:
		err = s.scanList(depth)
	case tagMap:
		err = s.scanMap(depth)
	default:
		s.off--
		err = s.fail("unexpected tag %d", tag[0])
	}
	return err
}

// scanBignum reads Size:8, Sign:8 and Size bytes. 8 bytes hold every int64.
func (s *scanner) scanBignum() error {
	n, err := s.readSize(1)
	if err != nil {
		return err
	}
	if n > 8 {
		return s.fail("integer of %d bytes, at most 8 are taken", n)
	}
	_, err = s.takeBytes(1 + n)
	return err
}

func (s *scanner) scanAtom(tag byte) (string, error) {
	width := 1
	if tag == tagAtom || tag == tagAtomUTF8 {
		width = 2
	}
	name, err := s.takeSized(width)
	if err != nil {
		return "", err
	}
	utf := tag == tagAtomUTF8 || tag == tagSmallUTF8
	if len(name) > maxAtomBytes || utf && !utf8.Valid(name) {
		return "", s.fail("bad atom of %d bytes", len(name))
	}
	return string(name), nil
}

func (s *scanner) scanSequence(width, depth int) error {
	n, err := s.readCount(width, 1)
	for ; err == nil && n > 0; n-- {
		err = s.scanTerm(depth - 1)
	}
	return err
}

// readCount reads the number of elements, each of which has at least least bytes.
func (s *scanner) readCount(width, least int) (int, error) {
	n, err := s.readSize(width)
	if err == nil && n > (len(s.b)-s.off)/least {
		err = s.fail("counts %d elements, but %d bytes are left", n, len(s.b)-s.off)
	}
	return n, err
}

func (s *scanner) scanList(depth int) error {
	if err := s.scanSequence(4, depth); err != nil {
		return err
	}
	tail, err := s.takeBytes(1)
	if err == nil && tail[0] != tagNil {
		err = s.fail("improper list")
	}
	return err
}

func (s *scanner) scanMap(depth int) error {
	n, err := s.readCount(4, 3)
	for ; err == nil && n > 0; n-- {
		if err = s.scanKey(); err == nil {
			err = s.scanTerm(depth - 1)
		}
	}
	return err
}

func (s *scanner) scanKey() error {
	tag, err := s.takeBytes(1)
	if err != nil {
		return err
	}
	switch tag[0] {
	case tagAtom, tagAtomUTF8, tagSmallAtom, tagSmallUTF8:
	default:
		return s.fail("map key with tag %d instead of an atom", tag[0])
	}
	name, err := s.scanAtom(tag[0])
	// erlang_go decodes it to nil, and panics on a nil key.
	if err == nil && name == "undefined" {
		err = s.fail("map key undefined")
	}
	return err
}
