package epmd

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/status"
	"handover/go/internal/testkit"
)

// TestBudget: nodes, clients, passes and EPMD's own files do not exceed the total, and
// one user takes at most half of the nodes' files.
func TestBudget(t *testing.T) {
	for files, want := range map[int]Budget{
		1024: {512, 128, 320}, 20_000: {8192, 1024, 10_720}, 32_768: {8192, 1024, 23_488}, 65_536: {8192, 1024, 56_256},
		262_144: {8192, 1024, 65_536}, 0: {8192, 1024, 65_536},
	} {
		if got := BudgetOf(files); got != want {
			t.Errorf("%d files: %+v, want %+v", files, got, want)
		}
	}
	for files := 16; files < 1<<20; files += 1 + files/16 {
		b := BudgetOf(files)
		if own := files - b.Clients - b.Passes - b.Nodes; own < min(files/16, 64) || b.Nodes < 1 || b.Clients < 1 || b.Passes < 1 {
			t.Errorf("%d files: %+v, EPMD's own %d", files, b, own)
		}
	}
	for _, files := range []int{256, 1024, 20_000, 1 << 20} {
		o := Options{Files: files}.withDefaults()
		if left := o.MaxClients - fairShare(o.MaxInProgress, 0) - o.MaxWaiting - o.MaxUntaken; left <= o.LocalReserve {
			t.Errorf("%d files: one user leaves %d connections, for other hosts none of them", files, left)
		}
	}
	var has []int
	for others := 0; others < 16; others += has[len(has)-1] {
		has = append(has, fairShare(16, others))
	}
	if !slices.Equal(has, []int{8, 4, 2, 1, 1}) {
		t.Errorf("one user after the other has %v of 16", has)
	}
}

// TestFilesOfAUser: a node that takes handovers counts twice; root's nodes, and
// those of EPMD's own user, need not leave files for others.
func TestFilesOfAUser(t *testing.T) {
	s := New(Options{MaxNodeFiles: 16})
	s.users.self = 7
	fill := func(uid int64, files int) (count int) {
		for {
			a, hasRoom := s.users.addUsage(uid, files)
			if !hasRoom {
				s.users.removeUsage(a)
				return count
			}
			count++
		}
	}
	if got := []int{fill(1, 2), fill(2, 1), fill(3, 1), fill(unknownUID, 1), fill(7, 1), fill(0, 1)}; !slices.Equal(got, []int{4, 4, 2, 1, 1, 0}) {
		t.Errorf("%v", got)
	}
}

// TestInProgressShares: the handovers under way to the nodes of one user leave as many for
// other users as they take, and those to one node as many for the user's other nodes.
func TestInProgressShares(t *testing.T) {
	one := new(user)
	o := Options{MaxPasses: 2, MaxInProgress: 32}
	g := newSlots(o.withDefaults())
	hold := func(n *node) (held int) {
		for ; ; held++ {
			if _, err := g.takeTicket(&n.usage.queue); err == errTooMany {
				return held
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []int
	for _, n := range []*node{nodeOfUser(one), nodeOfUser(one), nodeOfUser(one), nodeOfUser(one), nodeOfUser(one), otherNode(), otherNode()} {
		got = append(got, hold(n))
	}
	if want := []int{8, 4, 2, 1, 1, 4, 3}; !slices.Equal(got, want) {
		t.Errorf("nodes hold %v, want %v", got, want)
	}
}

// TestHandoversToSilentNodes: handovers to a user's nodes that do not answer take no
// room that another user's lookups, registrations and handovers need.
func TestHandoversToSilentNodes(t *testing.T) {
	const attacker = 4242
	var uid atomic.Uint32
	uid.Store(attacker)
	ts := start(t, Options{MaxClients: 512, HandoverTimeout: time.Hour}, func(s *Server) {
		s.users.tcpOwner = func(_, _ netip.AddrPort) (uint32, error) { return uid.Load(), nil }
	})
	const nodes, handovers = 12, 700
	for i := range nodes {
		ts.node(t, fmt.Sprint("silent", i))
	}
	uid.Store(uint32(os.Getuid()))
	var refusals atomic.Int32
	for i := range handovers {
		c := ts.initiate(t, fmt.Sprint("silent", i%nodes))
		go func() {
			if b, _ := io.ReadAll(c); string(b) == "i"+string(rune(epmdproto.Overloaded)) {
				refusals.Add(1)
			}
		}()
	}
	most := ts.o.MaxClients / 4
	if !testkit.Within(func() bool { return int(refusals.Load()) >= handovers-most }) {
		t.Errorf("%d are told to try again, of %d", refusals.Load(), handovers)
	}
	for i := range 30 {
		name := fmt.Sprint("n", i)
		n := ts.node(t, name)
		if got := ts.ask(t, request(epmdproto.OpPort2, name)); len(got) < 2 || got[1] != 0 {
			t.Errorf("lookup %d: %q", i, got)
		}
		c := ts.initiate(t, name)
		go serveName(n.open(), name)
		if got := readAll(t, c); got != name {
			t.Errorf("handover %d: %q", i, got)
		}
	}
	if n := ts.slots.unackedCount(); n < most/2 || n > most {
		t.Errorf("%d handovers are under way, at most %d are for one user", n, most)
	}
	if ts.stats.refusals[refusedInProgress].Load() == 0 {
		t.Error("not counted")
	}
	ts.log.says(t, "too many handovers are under way")
	if n := strings.Count(ts.log.String(), "too many handovers are under way"); n != 1 {
		t.Errorf("%d lines", n)
	}
	if want := fmt.Sprintf(`"uid":"%d"`, attacker); !strings.Contains(ts.log.String(), want) {
		t.Error("the user is not named")
	}
}

// TestRefusedAreBounded: an initiator that was refused and does not close counts
// among those that make EPMD wait, even if its request came in pieces.
func TestRefusedAreBounded(t *testing.T) {
	ts := start(t, Options{})
	seen := testkit.Within(func() bool { // it waits for a second only: on a busy machine that may go unseen
		c, err := net.Dial("tcp", ts.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		req := handoverReq(t, "nobody")
		send(t, c, req[:1])
		ts.waits(t, 1, 0)
		before := ts.stats.handovers[epmdproto.NoSuchNode].Load()
		send(t, c, req[1:])
		for ts.conns.clients.Load() > 0 {
			refused := ts.stats.handovers[epmdproto.NoSuchNode].Load() > before
			if local, _ := ts.conns.waiting.counts(); refused && local == 1 {
				return true
			}
			time.Sleep(time.Millisecond)
		}
		return false
	})
	if !seen {
		t.Error("it counts nowhere")
	}
}

// TestStatusIsShared: requests that came before an answer was begun share that answer.
func TestStatusIsShared(t *testing.T) {
	var a statusAnswer
	made := 0
	get := func() status.Status { made++; return status.Status{PID: made} }
	ask := func(at time.Time) string {
		b, err := a.since(at, get)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before := time.Now().Add(-time.Nanosecond)
	first := ask(before)
	if ask(before) != first || made != 1 {
		t.Error("made twice for those who asked before")
	}
	if ask(time.Now()) == first || made != 2 {
		t.Error("an answer from before the question")
	}
}

// TestUserFoundLater: if the kernel lacks files to report a node's user, the node and all
// that it counts move to that user later. A user that the kernel never reports stays
// unknown.
func TestUserFoundLater(t *testing.T) {
	var answer atomic.Pointer[error]
	say := func(err error) { answer.Store(&err) }
	ts := start(t, Options{HandoverTimeout: time.Hour}, func(s *Server) {
		s.users.tcpOwner = func(_, _ netip.AddrPort) (uint32, error) { return 4242, *answer.Load() }
	})
	say(os.NewSyscallError("socket", unix.EACCES))
	ts.register(t, plainNode("unknown"))
	say(os.NewSyscallError("socket", unix.EMFILE))
	n := ts.node(t, "n")
	ts.initiate(t, "n")
	n.asked()
	reg := nodeOf(ts.names.Lookup([]byte("n")))
	first := reg.user()
	if first.uid != unknownUID || first.slots.inProgress != 1 {
		t.Errorf("%+v", first)
	}
	say(nil)
	if !testkit.Within(func() bool { return reg.user().uid == 4242 }) {
		t.Fatal("its user is not found")
	}
	ts.users.mu.Lock()
	ts.slots.mu.Lock()
	to := reg.user()
	if first.files != 1 || first.slots != (slotCounts{}) || to.files != 2 || to.slots != (slotCounts{unread: 1, inProgress: 1}) || ts.users.files != 3 {
		t.Errorf("unknown %+v, found %+v, %d files", first, to, ts.users.files)
	}
	ts.slots.mu.Unlock()
	ts.users.mu.Unlock()
	_ = n.heartbeat.Close()
	if !testkit.Within(func() bool {
		ts.users.mu.Lock()
		defer ts.users.mu.Unlock()
		return to.files == 0 && ts.users.files == 1
	}) {
		t.Errorf("%+v", to)
	}
	if other := nodeOf(ts.names.Lookup([]byte("unknown"))); other.user() != first {
		t.Error("the other's user is found too")
	}
}
