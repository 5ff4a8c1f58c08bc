package carrier

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
)

// The socket of an offer is new each time, open to EPMD whoever it is, and gone
// once it was used, or not used in time.
func TestOfferPlace(t *testing.T) {
	b, _, heartbeat := registered(t, Options{AcceptTimeout: 50 * time.Millisecond})
	first, second := askPath(t, heartbeat), askPath(t, heartbeat)
	if first == second || filepath.Dir(first) != b.dir {
		t.Errorf("%q, %q", first, second)
	}
	info, err := os.Lstat(second)
	if err != nil || info.Mode() != fs.ModeSocket|socketMode {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	b.expectLog("EPMD did not come for a channel")
	b.expectLog("EPMD did not come for a channel")
	waitFor(t, "both paths to be removed", func() bool { left, err := os.ReadDir(b.dir); return err == nil && len(left) == 0 })
	dialled := askPath(t, heartbeat)
	dialChannel(t, dialled)
	waitFor(t, "the path to be removed", func() bool { _, err := os.Lstat(dialled); return errors.Is(err, fs.ErrNotExist) })
}

func TestTooManyOffers(t *testing.T) {
	b, _, heartbeat := registered(t, Options{MaxChannels: 2})
	paths := []string{askPath(t, heartbeat), askPath(t, heartbeat)}
	if p := askPath(t, heartbeat); p != "" {
		t.Errorf("%q; want none to offer", p)
	}
	b.expectLog("no place to offer to EPMD")
	dialChannel(t, paths[0])
	waitFor(t, "an offer to be free again", func() bool { return askPath(t, heartbeat) != "" })
}

func TestTooManyChannels(t *testing.T) {
	b, _, heartbeat := registered(t, Options{MaxChannels: 2})
	var chs []*net.UnixConn
	for i := range 3 {
		ch := openChannel(t, heartbeat)
		c1, initiator := tcpPair(t)
		io.WriteString(initiator, "pipelined")
		pass(t, ch, uint64(i), c1) // an answer says that the channel is served
		readAck(t, ch)
		_, node := b.receive()
		both(t, initiator, node)
		chs = append(chs, ch)
	}
	if n, err := chs[0].Read(make([]byte, 8)); n != 0 || err != io.EOF {
		t.Errorf("the oldest: %d, %v; want EOF", n, err)
	}
	for _, ch := range chs[1:] {
		c1, _ := tcpPair(t)
		pass(t, ch, 9, c1)
		readAck(t, ch)
	}
}

// Another user's process that has found the path is sent away, and EPMD still
// let in.
func TestChannelStranger(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	b, _, heartbeat := registered(t, Options{})
	// The test binary's own directory is closed to others: the child runs it by
	// /proc/self/exe.
	path := askPath(t, heartbeat)
	stranger(t, 65534, path)
	e := b.expectLog("refusing who connects in EPMD's place")
	if !strings.Contains(e.Fields[0].Value.(string), "of uid 65534 connected; EPMD is uid 0") {
		t.Errorf("%+v", e)
	}
	ch := dialChannel(t, path)
	c1, _ := tcpPair(t)
	pass(t, ch, 1, c1)
	if a := readAck(t, ch); a.Result != epmdproto.OK {
		t.Errorf("%+v", a)
	}
}
