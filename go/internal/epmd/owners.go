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

// owner is a local user who has nodes. Limits that hold per user are counted here.
type owner struct {
	uid     int64 // or unknownUID
	log     zerolog.Logger
	slowLog zerolog.Logger // a line a minute
	heldLog zerolog.Logger // the same, for errHeld
	files   int            // that its nodes take; guarded by owners.mu
	slots   slotCounts
}

// unknownUID is the owner of all nodes whose user the kernel does not report. They
// count as one user's.
const unknownUID = -1

// errNames: the user has its share of Options.MaxNodeFiles, or all users have all.
var errNames = errors.New("epmd: the nodes of this user have registered as many names as there are open files for (raise the limit of open files?)")

const (
	// ownerLines is how many lines a minute are logged about the faults of one user's
	// nodes.
	ownerLines = 10
	// keptOwners is how many users are remembered after their last node has left, so
	// that they cannot fill the log by coming back.
	keptOwners = 1024
)

// owners has the users by their uid. It is safe for concurrent use.
type owners struct {
	log   zerolog.Logger
	slots *slots
	max   int   // Options.MaxNodeFiles
	self  int64 // EPMD's own user
	// tcpOwner returns the uid that holds a TCP socket of this host.
	tcpOwner func(local, remote netip.AddrPort) (uint32, error)

	mu    sync.Mutex
	byUID map[int64]*owner
	files int // of all
}

// account is what one node counts for. Make it with owners.openAccount.
type account struct {
	owner atomic.Pointer[owner] // changes at most once, with owners.mu held
	queue slotQueue
	files int // guarded by owners.mu
}

func newOwners(o Options, s *slots) *owners {
	return &owners{
		log: o.Log, slots: s, max: o.MaxNodeFiles, self: int64(os.Geteuid()), tcpOwner: peercred.TCPOwner,
		byUID: make(map[int64]*owner),
	}
}

// filesOf returns how many files a node takes: its heartbeat, and perhaps a channel.
func filesOf(r epmdproto.Alive2Req) int {
	if r.TakesHandovers() {
		return 2
	}
	return 1
}

// openAccount returns the account of one more node of the user, and reports whether there
// is room for its files. The caller must close the account in both cases.
func (t *owners) openAccount(uid int64, files int) (a *account, hasRoom bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.getLocked(uid)
	o.files += files
	t.files += files
	a = newAccount(o)
	a.files = files
	return a, t.files <= t.max && (uid == 0 || uid == t.self || o.files <= fairShare(t.max, t.files-o.files))
}

func newAccount(o *owner) *account {
	a := new(account)
	a.owner.Store(o)
	a.queue.userCounts = &o.slots
	return a
}

// getLocked returns the user, perhaps a new one. t.mu must be held.
func (t *owners) getLocked(uid int64) *owner {
	o := t.byUID[uid]
	if o == nil {
		t.forgetIdleLocked()
		o = &owner{
			uid:     uid,
			log:     t.log.Sample(&zerolog.BurstSampler{Burst: ownerLines, Period: time.Minute}),
			slowLog: t.log.Sample(&zerolog.BurstSampler{Burst: 1, Period: logEvery}),
			heldLog: t.log.Sample(&zerolog.BurstSampler{Burst: 1, Period: logEvery}),
		}
		t.byUID[uid] = o
	}
	return o
}

// closeAccount gives the node's files back. It is a no-op if a is closed.
func (t *owners) closeAccount(a *account) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.owner.Load().files -= a.files
	t.files -= a.files
	a.files = 0
}

// changeUser moves the node to another user. It is a no-op if a is closed.
func (t *owners) changeUser(a *account, uid int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.files == 0 {
		return
	}
	to := t.getLocked(uid)
	a.owner.Load().files -= a.files
	to.files += a.files
	t.slots.changeUser(&a.queue, &to.slots)
	a.owner.Store(to)
}

// forgetIdleLocked removes the users that count nothing, if there are many. t.mu
// must be held.
func (t *owners) forgetIdleLocked() {
	if len(t.byUID) < keptOwners {
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
func (t *owners) uidOf(c *socket) (uid int64, retry bool) {
	found, err := t.peerUID(c)
	if err != nil {
		t.log.Debug().Err(err).Stringer("peer", c.peer).Msg("the kernel does not report the user of the node")
		return unknownUID, peercred.IsTransient(err)
	}
	return int64(found), false
}

// peerUID returns the user who holds the other end of c, which must be on this host.
func (t *owners) peerUID(c *socket) (uint32, error) {
	local, err := c.localAddr()
	if err != nil {
		return 0, err
	}
	return t.tcpOwner(c.peer, local)
}

// String returns the uid for a log line.
func (o *owner) String() string {
	if o.uid == unknownUID {
		return "unknown"
	}
	return strconv.FormatInt(o.uid, 10)
}
