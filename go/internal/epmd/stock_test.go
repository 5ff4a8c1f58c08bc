package epmd

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

func (ts *testServer) portWord() string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(ts.o.Port)))
}

func TestLookups(t *testing.T) {
	ts := start(t, Options{})
	long := strings.Repeat("l", 254)
	for _, name := range []string{"n", "ö", long, long + "l"} {
		ts.register(t, plainNode(name))
	}
	found := func(name string) string {
		return string(epmdproto.AppendPort2Resp(nil, plainNode(name)))
	}
	for name, want := range map[string]string{
		"n": found("n"), "n\x00": found("n"), "ö": found("ö"), long: found(long),
		"m": "w\x01", "n\x00\x00": "", "": "", "\x00": "", "\xff": "", "n\x00m": "", long + "l": "", long + "m": "",
	} {
		if got := ts.ask(t, request(epmdproto.OpPort2, name)); got != want {
			t.Errorf("%.20q: %q, want %q", name, got, want)
		}
	}
}

func TestNamesAndDump(t *testing.T) {
	ts := start(t, Options{})
	first, _ := ts.register(t, plainNode("first"))
	ts.register(t, plainNode("second"))
	if got, want := ts.ask(t, request(epmdproto.OpNames, "")), ts.portWord()+"name second at port 1234\nname first at port 1234\n"; got != want {
		t.Errorf("NAMES: %q, want %q", got, want)
	}
	_ = first.Close()
	ts.log.says(t, `"node":"first","reason":"EOF"`)
	fd := func(name string) (fd int) {
		for _, n := range append(ts.names.Live(), ts.names.Old()...) {
			if n.Name == name {
				fd = n.FD
			}
		}
		return fd
	}
	want := fmt.Sprintf("%sactive name     <second> at port 1234, fd = %d\n\x00old/unused name <first>, port = 1234, fd = %d \n\x00",
		ts.portWord(), fd("second"), fd("first"))
	if got := ts.ask(t, request(epmdproto.OpDump, "")); got != want {
		t.Errorf("DUMP: %q, want %q", got, want)
	}
}

func TestRefusedRegistrationStaysOpen(t *testing.T) {
	ts := start(t, Options{})
	ts.register(t, plainNode("n"))
	for highest, want := range map[uint16]string{5: "y\x01\x00\x63", 6: "v\x01\x00\x00\x00\x63"} {
		r := plainNode("n")
		r.Highest = highest
		b, _ := r.Append(nil)
		c := ts.dial(t)
		send(t, c, b)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
			t.Errorf("duplicate name: %q, %v", got, err)
		}
		send(t, c, []byte("x"))
		if rest := readAll(t, c); rest != "" {
			t.Errorf("then %q", rest)
		}
	}
	ts.log.says(t, "name is taken")
	if ts.names.Len() != 1 {
		t.Error("the name's holder lost it")
	}
}

func TestHeartbeat(t *testing.T) {
	ts := start(t, Options{})
	c, creation := ts.register(t, plainNode("n"))
	send(t, c, []byte("x"))
	if got := readAll(t, c); got != "" {
		t.Errorf("a byte that was not asked for: %q", got)
	}
	ts.log.says(t, "sent unexpected bytes")
	c, next := ts.register(t, plainNode("n"))
	if next != creation+1 && creation != 1<<32-1 {
		t.Errorf("creation %d, then %d", creation, next)
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close() // a reset, as from a node that was killed
	if !testkit.Within(func() bool { return ts.names.Len() == 0 }) {
		t.Error("a reset heartbeat keeps its name")
	}
}

// TestHungUpUnseen: a node that registers right after the end of a node of the same name
// gets the name, even if the old node's goroutine has not noticed the end: here no
// goroutine reads that heartbeat. The name of a live node stays taken.
func TestHungUpUnseen(t *testing.T) {
	for name, end := range map[string]func(*net.TCPConn){
		"closed": func(c *net.TCPConn) { _ = c.Close() },
		"reset":  func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			ts := start(t, Options{})
			heartbeat, peer := remotePair(t, ts.Server)
			t.Cleanup(heartbeat.close)
			if err := heartbeat.startPolling(); err != nil {
				t.Fatal(err)
			}
			before := newNode(ts.nodes, heartbeat, plainNode("n"), firstOf(ts.users.addUsage(1, 1)))
			if err := ts.names.Register(before.entry); err != nil {
				t.Fatal(err)
			}
			again := func() epmdproto.Alive2Resp {
				b, _ := plainNode("n").Append(nil)
				c := ts.dial(t)
				send(t, c, b)
				r, err := epmdproto.ReadAlive2Resp(c)
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			if r := again(); r.Result == 0 {
				t.Error("a living node has lost its name")
			}
			end(peer.(*net.TCPConn))
			if !testkit.Within(heartbeat.isHungUp) {
				t.Fatal("the end does not come through")
			}
			if r := again(); r.Result != 0 || r.Creation != before.entry.Creation()+1 && r.Creation != 4 {
				t.Errorf("%+v, after creation %d", r, before.entry.Creation())
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	ts := start(t, Options{})
	ts.register(t, plainNode("n"))
	for name, stream := range map[string]string{
		"length 0": "\x00\x00", "length 0 and more": "\x00\x00zn", "too long": "\x0b\xf2z", "longest length": "\xff\xffz",
		"bytes behind": "\x00\x02znX", "bytes behind NAMES": "\x00\x01nX", "unknown": "\x00\x01q", "unknown with body": "\x00\x04qabc",
		"no name": "\x00\x01z", "small ALIVE2": "\x00\x0dx\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"TLS": "\x16\x03\x01\x02\x00\x01\x00\x01", "HTTP": "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "STOP": "\x00\x02sn",
		"HANDOVER_REQ too long": "\x03\xfeh",
	} {
		c := ts.dial(t)
		send(t, c, []byte(stream))
		_ = c.CloseWrite() // ends what waits for more
		if got := readAll(t, c); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := ts.ask(t, request(epmdproto.OpPort2, "n")); len(got) < 2 || got[1] != 0 {
		t.Errorf("afterwards: %q", got)
	}
}

// TestByteByByte: a request that arrives in pieces is the same request.
func TestByteByByte(t *testing.T) {
	ts := start(t, Options{})
	ts.register(t, plainNode("n2"))
	c := ts.dial(t)
	_ = c.SetNoDelay(true)
	for _, b := range request(epmdproto.OpPort2, "n2") {
		send(t, c, []byte{b})
		// Not a wait for anything: it makes the pieces arrive apart mostly.
		time.Sleep(2 * time.Millisecond)
	}
	if got, want := readAll(t, c), string(epmdproto.AppendPort2Resp(nil, plainNode("n2"))); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestKillAndStop(t *testing.T) {
	ts := start(t, Options{})
	ts.register(t, plainNode("n"))
	for req, want := range map[string]string{"k": "NO", "sn": "", "s": ""} {
		if got := ts.ask(t, request(req[0], req[1:])); got != want {
			t.Errorf("%q: %q, want %q", req, got, want)
		}
	}
	ts.log.says(t, "KILL_REQ refused")
	ts.log.says(t, "needs -relaxed_command_check")

	relaxed := start(t, Options{RelaxedCommandCheck: true})
	heartbeat, _ := relaxed.register(t, plainNode("n"))
	relaxed.register(t, plainNode("m"))
	if got := relaxed.ask(t, request(epmdproto.OpStop, "x")); got != "NOEXISTSTOPPED" {
		t.Errorf("STOP of nobody: %q", got)
	}
	if got := relaxed.ask(t, request(epmdproto.OpStop, "n\x00junk")); got != "STOPPED" {
		t.Errorf("STOP: %q", got)
	}
	if got := readAll(t, heartbeat); got != "" || relaxed.names.Len() != 1 {
		t.Errorf("after STOP: %q, %d nodes", got, relaxed.names.Len())
	}
	if got := relaxed.ask(t, request(epmdproto.OpKill, "")); got != "OK" {
		t.Errorf("KILL: %q", got)
	}
	if !testkit.Within(func() bool { return !listening(relaxed.addr) }) {
		t.Error("still listening after KILL")
	}
}

func listening(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// TestNotLocal serves connections whose peer seems to be another host.
func TestNotLocal(t *testing.T) {
	ts := start(t, Options{RelaxedCommandCheck: true})
	ts.register(t, plainNode("n"))
	alive, _ := plainNode("m").Append(nil)
	for req, want := range map[string]string{
		string(alive): "", "\x00\x01d": "", "\x00\x01k": "", "\x00\x02sn": "",
		"\x00\x02zn": string(epmdproto.AppendPort2Resp(nil, plainNode("n"))), "\x00\x01n": ts.portWord() + "name n at port 1234\n",
	} {
		ours, theirs := remotePair(t, ts.Server)
		ts.tasks.Go(func() { ts.serve(ours) })
		send(t, theirs, []byte(req))
		if got := readAll(t, theirs); got != want {
			t.Errorf("%q from another host: %q, want %q", req, got, want)
		}
	}
	ts.log.says(t, "the peer is not on this host")
	if ts.names.Len() != 1 {
		t.Errorf("%d nodes", ts.names.Len())
	}
}

// TestPacketTimeout: a client may not be silent for longer before its request is
// complete. A heartbeat may be silent for ever.
func TestPacketTimeout(t *testing.T) {
	ts := start(t, Options{PacketTimeout: time.Second})
	ts.register(t, plainNode("n"))
	c, began := ts.dial(t), time.Now()
	send(t, c, []byte{0, 1})
	if got := readAll(t, c); got != "" || time.Since(began) < time.Second {
		t.Errorf("%q after %v", got, time.Since(began))
	}
	if ts.names.Len() != 1 {
		t.Error("the heartbeat timed out")
	}
}

// TestRequestTimeout: a request must be complete by then, however slowly it arrives.
func TestRequestTimeout(t *testing.T) {
	ts := start(t, Options{RequestTimeout: time.Second})
	ts.register(t, plainNode("n"))
	c := ts.dial(t)
	began := time.Now()
	for _, b := range request(epmdproto.OpPort2, strings.Repeat("n", 400)) {
		if _, err := c.Write([]byte{b}); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if got := readAll(t, c); got != "" {
		t.Errorf("%q", got)
	}
	if time.Since(began) < time.Second {
		t.Errorf("closed after %v", time.Since(began))
	}
	if ts.names.Len() != 1 {
		t.Error("the heartbeat timed out")
	}
}

// TestMaxClients: connections without a request take no room from local ones beyond the
// reserve, and none from nodes.
func TestMaxClients(t *testing.T) {
	ts := start(t, Options{MaxClients: 4, LocalReserve: 2, MaxWaiting: 4})
	ts.register(t, plainNode("n"))
	if !testkit.Within(func() bool { return ts.conns.clients.Load() == 0 }) {
		t.Error("a node counts as a client")
	}
	for range 4 {
		send(t, ts.dial(t), []byte{0})
	}
	if !testkit.Within(func() bool { return ts.conns.clients.Load() == 4 }) {
		t.Fatalf("%d clients", ts.conns.clients.Load())
	}
	if got := ts.ask(t, request(epmdproto.OpNames, "")); got != "" {
		t.Errorf("beyond the limit: %q", got)
	}
	if got := ts.ask(t, request(epmdproto.OpPort2, "n")); len(got) < 2 {
		t.Errorf("a lookup that needs no place: %q", got)
	}
}
