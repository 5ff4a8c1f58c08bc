package epmd

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"handover/go/internal/epmdproto"
	"handover/go/internal/peercred"
)

// owner is a local user with nodes, for what is bounded a user.
type owner struct {
	uid     int64 // or unknownUID
	log     zerolog.Logger
	rarely  zerolog.Logger // a line a minute
	crowded zerolog.Logger // the same, for errHeld
	files   int            // that its nodes take; guarded by owners.mu
	unread  int            // connections that its nodes may not have read; guarded by gate.mu
	held    int            // handovers to its nodes that are under way; guarded by gate.mu
}

// unknownUID is for all nodes whose user the kernel does not tell: they count as
// one user's.
const unknownUID = -1

// errNames: the user has its share of Options.MaxNodeFiles, or all users have all.
var errNames = errors.New("epmd: the nodes of this user have registered as many names as there are open files for (raise the limit of open files?)")

const (
	// ownerLines is how many lines a minute the faults of one user's nodes are
	// logged with.
	ownerLines = 10
	// keptOwners is how many users are remembered without a node of theirs, so
	// that they can't fill the log by coming back.
	keptOwners = 1024
)

// owners knows the users by their uid.
type owners struct {
	log   zerolog.Logger
	gate  *gate
	max   int   // Options.MaxNodeFiles
	self  int64 // EPMD's own user
	mu    sync.Mutex
	byUID map[int64]*owner
	files int // of all
}

func newOwners(o Options, g *gate) *owners {
	return &owners{log: o.Log, gate: g, max: o.MaxNodeFiles, self: int64(os.Geteuid()), byUID: make(map[int64]*owner)}
}

// filesOf is how many files a node takes: its heartbeat, and perhaps a channel.
func filesOf(r epmdproto.Alive2Req) int {
	if r.TakesHandovers() {
		return 2
	}
	return 1
}

// enter counts the files of one more node of that user's, and tells whether there is
// room for them. The node must be made with newNode, and leave called for it.
func (t *owners) enter(uid int64, files int) (o *owner, room bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o = t.get(uid)
	o.files += files
	t.files += files
	return o, t.files <= t.max && (uid == 0 || uid == t.self || o.files <= share(t.max, t.files-o.files))
}

// get must be called with mu held.
func (t *owners) get(uid int64) *owner {
	o := t.byUID[uid]
	if o == nil {
		t.forgetSome()
		o = &owner{
			uid:     uid,
			log:     t.log.Sample(&zerolog.BurstSampler{Burst: ownerLines, Period: time.Minute}),
			rarely:  t.log.Sample(&zerolog.BurstSampler{Burst: 1, Period: logEvery}),
			crowded: t.log.Sample(&zerolog.BurstSampler{Burst: 1, Period: logEvery}),
		}
		t.byUID[uid] = o
	}
	return o
}

// leave counts the node's files no longer. It may be called more than once.
func (t *owners) leave(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.user().files -= n.files
	t.files -= n.files
	n.files = 0
}

// move makes the node another user's, unless it has left.
func (t *owners) move(n *node, uid int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.files == 0 {
		return
	}
	to := t.get(uid)
	n.user().files -= n.files
	to.files += n.files
	t.gate.move(&n.line, to)
}

// forgetSome drops users that have nothing here, if there are many. It must be
// called with mu held.
func (t *owners) forgetSome() {
	if len(t.byUID) < keptOwners {
		return
	}
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	for uid, o := range t.byUID {
		if o.files == 0 && o.unread == 0 && o.held == 0 {
			delete(t.byUID, uid)
		}
	}
}

// String is the uid for a log line.
func (o *owner) String() string {
	if o.uid == unknownUID {
		return "unknown"
	}
	return strconv.FormatInt(o.uid, 10)
}

// uidOf asks the kernel whose node is at the far end of a heartbeat. If it did not
// answer for want of files or memory, it may do so later.
func (s *Server) uidOf(c *conn) (uid int64, later bool) {
	local, err := c.local()
	if err != nil {
		return unknownUID, false
	}
	found, err := s.owner(c.peer, local)
	if err != nil {
		s.o.Log.Debug().Err(err).Stringer("peer", c.peer).Msg("whose node this is, the kernel does not say")
		return unknownUID, peercred.IsPassing(err)
	}
	return int64(found), false
}

// findUser asks again whose node it is until the kernel answers.
func (n *node) findUser() {
	for pause := minBackoff; ; pause = min(2*pause, maxBackoff) {
		select {
		case <-time.After(pause):
		case <-n.gone:
			return
		}
		uid, later := n.s.uidOf(n.heartbeat)
		if uid != unknownUID {
			n.s.owners.move(n, uid)
		}
		if !later {
			return
		}
	}
}
