package epmd

import (
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// owner is a local user with nodes, for what is bounded a user.
type owner struct {
	uid    int64 // or unknownUID
	log    zerolog.Logger
	rarely zerolog.Logger // a line a minute
	names  int            // registered ones; guarded by owners.mu
	unread int            // connections that its nodes may not have read; guarded by gate.mu
}

// unknownUID is for all nodes whose user the kernel does not tell: they count as
// one user's.
const unknownUID = -1

// errNames: the user has Options.MaxUserNames.
var errNames = errors.New("epmd: the nodes of this user have registered as many names as one user may")

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
	mu    sync.Mutex
	byUID map[int64]*owner
}

func newOwners(o Options, g *gate) *owners {
	return &owners{log: o.Log, gate: g, byUID: make(map[int64]*owner)}
}

// enter counts one more name of that user's, and tells how many that are. The
// caller must call leave once.
func (t *owners) enter(uid int64) (*owner, int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.byUID[uid]
	if o == nil {
		t.forgetSome()
		o = &owner{
			uid:    uid,
			log:    t.log.Sample(&zerolog.BurstSampler{Burst: ownerLines, Period: time.Minute}),
			rarely: t.log.Sample(&zerolog.BurstSampler{Burst: 1, Period: logEvery}),
		}
		t.byUID[uid] = o
	}
	o.names++
	return o, o.names
}

// leave counts one name less.
func (t *owners) leave(o *owner) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o.names--
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
		if o.names == 0 && o.unread == 0 {
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

// uidOf asks the kernel whose node is at the far end of a heartbeat.
func (s *Server) uidOf(c *conn) int64 {
	local, err := c.local()
	if err != nil {
		return unknownUID
	}
	uid, err := s.owner(c.peer, local)
	if err != nil {
		s.o.Log.Debug().Err(err).Stringer("peer", c.peer).Msg("whose node this is, the kernel does not say")
		return unknownUID
	}
	return int64(uid)
}
