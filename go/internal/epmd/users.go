package epmd

import (
	"errors"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"handover/go/internal/epmdproto"
	"handover/go/internal/peercred"
)

// user is a local user who has nodes. Limits that hold per user are counted here.
type user struct {
	uid           int64 // or unknownUID
	log           zerolog.Logger
	slowLog       zerolog.Logger // a line a minute
	inProgressLog zerolog.Logger // the same, for errTooMany
	files         int            // that its nodes take; guarded by users.mu
	slots         slotCounts
}

// unknownUID is the user of all nodes whose user the kernel does not report. They
// count as one user's.
const unknownUID = -1

// errNames: the user has its share of Options.MaxNodeFiles, or all users together have all
// of it.
var errNames = errors.New("epmd: no open files left for another node: this user, or all users together, have as many nodes as they may (raise the limit of open files?)")

const (
	// userLines is how many lines a minute are logged about the faults of one user's
	// nodes.
	userLines = 10
	// keptUsers is how many users are remembered after their last node has left, so
	// that they cannot fill the log by coming back.
	keptUsers = 1024
)

// users has the users by their uid. It is safe for concurrent use.
type users struct {
	log   zerolog.Logger
	slots *slots
	max   int   // Options.MaxNodeFiles
	self  int64 // EPMD's own user
	// tcpOwner returns the uid that holds a TCP socket of this host.
	tcpOwner func(local, remote netip.AddrPort) (uint32, error)

	mu    sync.Mutex
	byUID map[int64]*user
	files int // of all
}

// usage is what one node uses of the limits that are shared by users. Make it with
// users.addUsage.
type usage struct {
	user  atomic.Pointer[user] // changes at most once, with users.mu held
	queue slotQueue
	files int // guarded by users.mu
}

func newUsers(o Options, s *slots) *users {
	return &users{
		log: o.Log, slots: s, max: o.MaxNodeFiles, self: int64(os.Geteuid()), tcpOwner: peercred.TCPOwner,
		byUID: make(map[int64]*user),
	}
}

// filesOf returns how many files a node takes: its heartbeat, and perhaps a channel.
func filesOf(r epmdproto.Alive2Req) int {
	if r.TakesHandovers() {
		return 2
	}
	return 1
}

// addUsage adds one more node to what the user uses, and reports whether there is room for
// its files. The caller must call removeUsage in both cases.
func (t *users) addUsage(uid int64, files int) (u *usage, hasRoom bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.getLocked(uid)
	o.files += files
	t.files += files
	u = newUsage(o)
	u.files = files
	return u, t.files <= t.max && (uid == 0 || uid == t.self || o.files <= fairShare(t.max, t.files-o.files))
}

func newUsage(o *user) *usage {
	u := new(usage)
	u.user.Store(o)
	u.queue.userCounts = &o.slots
	return u
}

// getLocked returns the user, perhaps a new one. t.mu must be held.
func (t *users) getLocked(uid int64) *user {
	o := t.byUID[uid]
	if o == nil {
		t.forgetIdleLocked()
		o = &user{
			uid:           uid,
			log:           t.log.Sample(&zerolog.BurstSampler{Burst: userLines, Period: time.Minute}),
			slowLog:       t.log.Sample(&zerolog.BurstSampler{Burst: 1, Period: logEvery}),
			inProgressLog: t.log.Sample(&zerolog.BurstSampler{Burst: 1, Period: logEvery}),
		}
		t.byUID[uid] = o
	}
	return o
}

// removeUsage gives the node's files back. It is a no-op if that was done before.
func (t *users) removeUsage(u *usage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u.user.Load().files -= u.files
	t.files -= u.files
	u.files = 0
}

// changeUser moves the node to another user. It is a no-op after removeUsage.
func (t *users) changeUser(u *usage, uid int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if u.files == 0 {
		return
	}
	to := t.getLocked(uid)
	u.user.Load().files -= u.files
	to.files += u.files
	t.slots.changeUser(&u.queue, &to.slots)
	u.user.Store(to)
}

// forgetIdleLocked removes the users that count nothing, if there are many. t.mu
// must be held.
func (t *users) forgetIdleLocked() {
	if len(t.byUID) < keptUsers {
		return
	}
	for uid, o := range t.byUID {
		if o.files == 0 && t.slots.isIdle(&o.slots) {
			delete(t.byUID, uid)
		}
	}
}

// uidOf asks the kernel which user's node is the peer of a heartbeat. It reports
// whether to retry: the kernel lacked files or memory.
func (t *users) uidOf(c *socket) (uid int64, retry bool) {
	found, err := t.peerUID(c)
	if err != nil {
		t.log.Debug().Err(err).Stringer("peer", c.peer).Msg("the kernel does not report the user of the node")
		return unknownUID, peercred.IsTransient(err)
	}
	return int64(found), false
}

// peerUID returns the user who holds the other end of c, which must be on this host.
func (t *users) peerUID(c *socket) (uint32, error) {
	local, err := c.localAddr()
	if err != nil {
		return 0, err
	}
	return t.tcpOwner(c.peer, local)
}

// String returns the uid for a log line.
func (o *user) String() string {
	if o.uid == unknownUID {
		return "unknown"
	}
	return strconv.FormatInt(o.uid, 10)
}
