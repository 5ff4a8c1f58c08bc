package portproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"handover/go/internal/etf"
)

// ErrFrame: Length is 0 or more than MaxFrame, so the stream cannot be used any more.
var ErrFrame = errors.New("portproto: bad frame")

// ReadFrame reads "Length:32 Term" and returns the bytes of the term. The error is r's, and
// io.EOF only between two frames, or wraps ErrFrame.
func ReadFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 || size > MaxFrame {
		return nil, fmt.Errorf("%w: of %d bytes, 1 to %d are taken", ErrFrame, size, MaxFrame)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}

// AppendFrame adds m as a frame to b.
func AppendFrame(b []byte, m message) ([]byte, error) {
	t, err := etf.Encode(m.Term())
	if err != nil {
		return b, fmt.Errorf("portproto: %w", err)
	}
	return append(binary.BigEndian.AppendUint32(b, uint32(len(t))), t...), nil
}
