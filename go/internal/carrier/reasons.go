package carrier

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	"handover/go/internal/epmdproto"
	"handover/go/internal/portproto"
)

// reasonError is an error with the reason that is sent to the BEAM.
type reasonError struct {
	reason portproto.Reason
	err    error
}

func (e *reasonError) Error() string { return e.err.Error() }
func (e *reasonError) Unwrap() error { return e.err }

func withReason(r portproto.Reason, err error) error { return &reasonError{r, err} }

func reasonOf(err error) portproto.Reason {
	var r *reasonError
	if errors.As(err, &r) {
		return r.reason
	}
	return portproto.EPMDUnreachable
}

// dialReason adds the reason to the error of a failed dial.
func dialReason(ctx context.Context, err error) error {
	switch {
	case context.Cause(ctx) == errCancelled:
		return withReason(portproto.Cancelled, err)
	case isTimeout(err):
		return withReason(portproto.Timeout, err)
	case errors.Is(err, syscall.ECONNRESET): // EPMD accepted and closed
		return withReason(portproto.EPMDClosed, err)
	}
	return withReason(portproto.EPMDUnreachable, err)
}

// ioReason adds the reason to the error of a read or write, unless it has one.
func ioReason(ctx context.Context, err error) error {
	var known *reasonError
	switch {
	case errors.As(err, &known):
		return err
	case context.Cause(ctx) == errCancelled:
		return withReason(portproto.Cancelled, err)
	case isTimeout(err):
		return withReason(portproto.Timeout, err)
	case errors.Is(err, epmdproto.ErrAnswer):
		return withReason(portproto.EPMDBadAnswer, err)
	case isHungUp(err):
		return withReason(portproto.EPMDClosed, err)
	}
	return withReason(portproto.EPMDUnreachable, err)
}

// isTimeout reports whether a deadline of this program has passed. ETIMEDOUT of the kernel is
// none.
func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// isHungUp reports whether the far end has closed the connection.
func isHungUp(err error) bool {
	return isAny(err, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE)
}

func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
