package epmd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// TestUpgradeBusy: if the processors are busy it takes long until every connection is
// kept for the successor. No name is lost.
func TestUpgradeBusy(t *testing.T) {
	ts := upgradable(t, Options{})
	_, ch := ts.openNode(t, "n")
	var heartbeats []net.Conn
	for i := range 5 {
		c, _ := ts.register(t, plainNode(fmt.Sprint("m", i)))
		heartbeats = append(heartbeats, c)
	}
	half := ts.dial(t)
	send(t, half, []byte{0, 3, 'z'})
	ts.initiate(t, "n")
	p, _ := ch.take()
	if err := ts.Upgrade(); err != nil {
		t.Fatal(err)
	}
	if !testkit.Within(ts.upgrade.draining.Load) {
		t.Fatal("does not drain")
	}
	ts.upgrade.mu.Lock() // without which no connection can be kept
	ch.ack(p.ID, epmdproto.OK)
	frozen := testkit.Within(ts.conns.frozen.Load)
	time.Sleep(3 * freezeTimeout / 2) // what the busy processors take
	ts.upgrade.mu.Unlock()
	if !frozen {
		t.Fatal("does not freeze")
	}
	next := ts.succeeded(t)
	if !testkit.Within(func() bool { return next.names.Len() == 6 }) {
		t.Errorf("%d names are left", next.names.Len())
	}
	send(t, half, []byte("m1"))
	if got := readAll(t, half); !strings.Contains(got, "m1") {
		t.Errorf("half a request: %q", got)
	}
	for i, c := range heartbeats {
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("m%d notices: %v", i, err)
		}
	}
}

// TestUpgradeUnread: a peer that does not read its answer delays an upgrade for a moment
// and loses the answer.
func TestUpgradeUnread(t *testing.T) {
	ts := upgradable(t, Options{})
	ts.register(t, plainNode("n"))
	ours, theirs := remotePair(t, ts.Server)
	ts.tasks.Go(func() {
		defer ours.close()
		ts.reply(ours, make([]byte, 64<<20)) // no socket takes so much
	})
	if !testkit.Within(func() bool { return ours.writeStart.Load() != 0 }) {
		t.Fatal("the answer finds room")
	}
	next := ts.upgraded(t)
	ts.log.says(t, "does not read its answer")
	if !testkit.Within(func() bool { return next.names.Len() == 1 }) {
		t.Error("the name is lost")
	}
	if n, err := io.Copy(io.Discard, theirs); n == 64<<20 {
		t.Errorf("the answer is whole: %v", err)
	}
}
