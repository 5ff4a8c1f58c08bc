package epmd

import (
	"errors"
	"sync"
	"time"
)

// Why a handover gets no slot.
var (
	// errFull: the node's queue is full.
	errFull = errors.New("epmd: too many handovers wait for the node")
	// errShare: the nodes of the node's user, or of all users together, have as many
	// unread connections as they may.
	errShare = errors.New("epmd: no slot in time: the nodes of that user, or of all users together, have too many unread connections")
	// errTooMany: the node, the nodes of its user, or all nodes together have as many
	// handovers in progress as they may.
	errTooMany = errors.New("epmd: too many handovers in progress to that node, to nodes of its user, or to all nodes together")
)

// slots bounds how many connections were passed to nodes and are possibly unread; each
// takes a slot. The kernel counts these connections for EPMD's user, even if EPMD no
// longer waits for an ACK. One user gets at most half of the slots; the next at most half
// of what is left, and so on (fairShare). A user's nodes share in the same way what the
// user may have. So users and nodes that read nothing cannot take the last slot. slots
// bounds in the same way how many handovers are in progress, because each may keep one of
// MaxClients open.
//
// slots is safe for concurrent use.
type slots struct {
	maxUnread     int // Options.MaxPasses
	maxNodeUnread int // Options.MaxNodePasses
	maxNodeQueue  int // Options.MaxNodeQueue
	maxInProgress int // Options.MaxInProgress

	mu      sync.Mutex
	total   slotCounts
	unacked int          // passed, and EPMD waits for the ACK
	queues  []*slotQueue // those with tickets; the first waits longest
}

// slotCounts counts the handovers of a node, of a user, or of all users. It is
// guarded by slots.mu.
type slotCounts struct {
	unread     int // passed, and possibly unread: these take a slot
	inProgress int // in a queue, or passed and not acknowledged
}

// slotQueue has the handovers to one node: their number, and the queue of those that wait
// for a slot. It is guarded by slots.mu.
type slotQueue struct {
	userCounts *slotCounts     // of the node's user, with all its nodes
	counts     slotCounts      // of the node
	tickets    []chan struct{} // of handovers that wait; closed when the handover has its slot
}

func newSlots(o Options) *slots {
	return &slots{maxUnread: o.MaxPasses, maxNodeUnread: o.MaxNodePasses, maxNodeQueue: o.MaxNodeQueue, maxInProgress: o.MaxInProgress}
}

// acquire waits for a slot until the deadline, or until gone is closed, in which
// case it returns errGone. After a nil error the caller must call either releaseSlot or
// stopAckWait, exactly once. After stopAckWait it must call releaseUnread once the node is
// known to have read the connection, which may never happen.
func (s *slots) acquire(q *slotQueue, gone <-chan struct{}, deadline <-chan time.Time) error {
	ticket, err := s.takeTicket(q)
	if ticket == nil {
		return err
	}
	select {
	case <-ticket:
		return nil
	case <-gone:
		err = errGone
	case <-deadline:
		err = s.timeoutReason(q)
	}
	if !s.cancelTicket(q, ticket) { // the slot has just been granted
		s.releaseSlot(q)
	}
	return err
}

// acquireNow is like acquire but never waits. It reports whether it got a slot.
func (s *slots) acquireNow(q *slotQueue) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(q.tickets) > 0 || !s.mayBeginLocked(q) || !s.hasRoomLocked(q) {
		return false
	}
	s.addInProgressLocked(q, 1)
	s.acquireLocked(q)
	return true
}

// timeoutReason returns errNoAnswer if the node itself reads nothing, or errShare
// if there are too few slots for all nodes of its user.
func (s *slots) timeoutReason(q *slotQueue) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.counts.unread < s.maxNodeUnread {
		return errShare
	}
	return errNoAnswer
}

// takeTicket acquires a slot at once and returns nil, nil, or returns a ticket to
// wait for.
func (s *slots) takeTicket(q *slotQueue) (chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.mayBeginLocked(q):
		return nil, errTooMany
	case len(q.tickets) == 0 && s.hasRoomLocked(q):
		s.addInProgressLocked(q, 1)
		s.acquireLocked(q)
		return nil, nil
	case len(q.tickets) >= s.maxNodeQueue:
		return nil, errFull
	}
	ticket := make(chan struct{})
	if len(q.tickets) == 0 {
		s.queues = append(s.queues, q)
	}
	q.tickets = append(q.tickets, ticket)
	s.addInProgressLocked(q, 1)
	return ticket, nil
}

// cancelTicket removes a ticket whose slot has not come yet. It returns false if
// the ticket is not in the queue.
func (s *slots) cancelTicket(q *slotQueue, ticket chan struct{}) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, t := range q.tickets {
		if t == ticket {
			s.addInProgressLocked(q, -1)
			q.tickets = append(q.tickets[:i], q.tickets[i+1:]...)
			if len(q.tickets) == 0 {
				s.stopWaitingLocked(q)
			}
			return true
		}
	}
	return false
}

// releaseSlot ends the wait for an ACK and gives the slot back: the node has read the
// connection, or will never get it.
func (s *slots) releaseSlot(q *slotQueue) { s.release(q, 1, 1) }

// stopAckWait ends the wait for an ACK, but the connection is possibly unread and keeps its
// slot until releaseUnread.
func (s *slots) stopAckWait(q *slotQueue) { s.release(q, 1, 0) }

// releaseUnread gives back the slots of count connections for which stopAckWait was called,
// and which are now known to be read, or lost with their channel.
func (s *slots) releaseUnread(q *slotQueue, count int) { s.release(q, 0, count) }

func (s *slots) release(q *slotQueue, unacked, unread int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unacked -= unacked
	s.addInProgressLocked(q, -unacked)
	if unread > 0 {
		s.addUnreadLocked(q, -unread)
		s.grantLocked()
	}
}

// grantLocked gives free slots to the tickets that wait. s.mu must be held.
func (s *slots) grantLocked() {
	for i := 0; i < len(s.queues); {
		q := s.queues[i]
		if !s.hasRoomLocked(q) {
			i++
			continue
		}
		s.acquireLocked(q)
		close(q.tickets[0])
		if q.tickets = q.tickets[1:]; len(q.tickets) == 0 {
			s.stopWaitingLocked(q)
		}
	}
}

// hasRoomLocked reports whether the node may have one more unread connection. s.mu
// must be held.
func (s *slots) hasRoomLocked(q *slotQueue) bool {
	ofUser := q.userCounts.unread
	return q.counts.unread < min(s.maxNodeUnread, fairShare(s.maxUnread, s.total.unread-ofUser)-ofUser)
}

// mayBeginLocked reports whether one more handover to the node may be in progress.
// s.mu must be held.
func (s *slots) mayBeginLocked(q *slotQueue) bool {
	ofUser := q.userCounts.inProgress
	return q.counts.inProgress < fairShare(s.maxInProgress, s.total.inProgress-ofUser)-ofUser
}

// acquireLocked counts a connection that is about to be passed. s.mu must be held.
func (s *slots) acquireLocked(q *slotQueue) {
	s.unacked++
	s.addUnreadLocked(q, 1)
}

// addUnreadLocked must be called with s.mu held.
func (s *slots) addUnreadLocked(q *slotQueue, n int) {
	s.total.unread += n
	q.counts.unread += n
	q.userCounts.unread += n
}

// addInProgressLocked must be called with s.mu held.
func (s *slots) addInProgressLocked(q *slotQueue, n int) {
	s.total.inProgress += n
	q.counts.inProgress += n
	q.userCounts.inProgress += n
}

// stopWaitingLocked removes q from the queues that wait. s.mu must be held.
func (s *slots) stopWaitingLocked(q *slotQueue) {
	for i, other := range s.queues {
		if other == q {
			s.queues = append(s.queues[:i], s.queues[i+1:]...)
			return
		}
	}
}

// changeUser moves the node and all that it counts to another user.
func (s *slots) changeUser(q *slotQueue, to *slotCounts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q.userCounts.unread -= q.counts.unread
	q.userCounts.inProgress -= q.counts.inProgress
	q.userCounts = to
	to.unread += q.counts.unread
	to.inProgress += q.counts.inProgress
	s.grantLocked()
}

// unreadOf returns how many connections of the node, and of all nodes of its user, are
// possibly unread.
func (s *slots) unreadOf(q *slotQueue) (node, user int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return q.counts.unread, q.userCounts.unread
}

// queueStatus returns how many connections of the node are possibly unread, and how many
// handovers to it wait for a slot.
func (s *slots) queueStatus(q *slotQueue) (unread, queued int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return q.counts.unread, len(q.tickets)
}

// isIdle reports whether a user counts nothing.
func (s *slots) isIdle(user *slotCounts) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *user == slotCounts{}
}

// unackedCount returns how many passes wait for their ACK.
func (s *slots) unackedCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unacked
}
