package epmd

import "errors"

// Why a wait ends without a result.
var (
	// errWouldBlock: there is nothing to read yet, or no room to write, and the
	// caller may not wait.
	errWouldBlock = errors.New("epmd: would block")
	// errFrozen: the connection is kept for the successor.
	errFrozen = errors.New("epmd: upgrade in progress")
	// errGone: the node has unregistered.
	errGone = errors.New("epmd: the node has left")
	// errNoAnswer: the node did not do its part by the deadline.
	errNoAnswer = errors.New("epmd: the node did not answer in time")
)

// isAny reports whether err matches one of the targets.
func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
