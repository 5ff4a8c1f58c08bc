package carrier

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/portproto"
)

// links holds copies of the BEAM's connections. When a BEAM halts, its ports close at
// once, but its descriptors stay open until the kernel has freed its memory, and the inet
// driver does not close descriptors that it was given. So the carrier, which notices the
// end of stdin at once, shuts the connections down.
//
//	delivered --- closed (the BEAM has closed it) ---> copy closed
//	    '------- the BEAM ends ---> shutdown(2), copy closed
//
// A carrier that ends while its BEAM goes on only closes its copies: the connections stay
// up, and the BEAM passes their descriptors to the next carrier.
type links struct {
	max  int     // Options.MaxLinks
	beam process // set before the first copy is added

	mu     sync.Mutex
	fds    map[link]int  // -1 if there was no room for the copy
	closed map[link]bool // reported as closed before their KEEP was read
}

// link identifies a connection, as CONNECTION does.
type link struct {
	kind byte
	id   uint64
}

// addCopy owns fd until closeCopy or removeCopy. It returns false, and does not own fd, if
// there is no room.
func (ls *links) addCopy(l link, fd int) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if len(ls.fds) >= ls.max {
		return false
	}
	ls.putLocked(l, fd)
	return true
}

// addKept owns fd, which came with the KEEP of that ID, or -1 if the descriptor could not be
// received. KEEP arrives on the fd socket and closed on stdin, so closed may have been read
// first.
func (ls *links) addKept(id uint64, fd int) {
	l := link{portproto.Kept, id}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.closed[l] {
		delete(ls.closed, l)
		_ = unix.Close(fd)
		return
	}
	if fd >= 0 && len(ls.fds) >= ls.max {
		_ = unix.Close(fd)
		fd = -1
	}
	ls.putLocked(l, fd)
}

// putLocked must be called with mu held.
func (ls *links) putLocked(l link, fd int) {
	if ls.fds == nil {
		ls.fds = make(map[link]int)
	}
	ls.fds[l] = fd
}

// removeCopy gives the descriptor back to the caller of addCopy.
func (ls *links) removeCopy(l link) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.fds, l)
}

// closeCopy closes the copy of a connection that the BEAM has closed. It is a no-op if
// there is no copy.
func (ls *links) closeCopy(l link) {
	ls.mu.Lock()
	fd, found := ls.fds[l]
	delete(ls.fds, l)
	if !found && l.kind == portproto.Kept { // its KEEP may still come
		if ls.closed == nil {
			ls.closed = make(map[link]bool)
		}
		ls.closed[l] = true
	}
	ls.mu.Unlock()
	if found {
		_ = unix.Close(fd)
	}
}

func (ls *links) isEmpty() bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return len(ls.fds) == 0
}

func (ls *links) shutdownAll() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, fd := range ls.fds {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	}
}

func (ls *links) closeAll() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, fd := range ls.fds {
		_ = unix.Close(fd)
	}
	ls.fds = nil
}

const (
	// minPoll and maxPoll are the first and the longest pause between two checks whether a
	// BEAM that has closed stdin is ending; endTimeout bounds the whole wait.
	minPoll    = 50 * time.Microsecond
	maxPoll    = 20 * time.Millisecond
	endTimeout = 30 * time.Second
)

// endLinks shuts the BEAM's connections down if the BEAM is ending, and leaves them open if
// it goes on without this carrier. There are three cases:
//
//   - The BEAM halts: it closes the lifeline.
//   - The BEAM was killed: the kernel shows that the process is exiting. Later it closes the
//     lifeline, too.
//   - The BEAM goes on: it closes the fd socket, and the lifeline stays open.
func (c *carrier) endLinks() {
	cause := context.Cause(c.ctx)
	if errors.Is(cause, errStop) {
		return // the BEAM goes on, and waits for the end of this program
	}
	if !errors.Is(cause, errEOF) && !errors.Is(cause, unix.EPIPE) {
		// The carrier failed: a BEAM that goes on waits for its end.
		if c.links.beam.isEnding() {
			c.links.shutdownAll()
		}
		return
	}
	pause := minPoll
	for deadline := time.Now().Add(endTimeout); !c.links.isEmpty() && time.Now().Before(deadline); {
		detached := c.fds.closedByBEAM() // must precede the check of the process
		if c.lifeline.isCut() || c.links.beam.isEnding() {
			c.links.shutdownAll()
			return
		}
		if detached {
			return
		}
		time.Sleep(pause)
		pause = min(2*pause, maxPoll)
	}
}
