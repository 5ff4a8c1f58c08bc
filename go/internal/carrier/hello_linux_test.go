package carrier

import (
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/etf"
	"handover/go/internal/fdpass"
	"handover/go/internal/portproto"
	"handover/go/internal/testkit"
)

func frame(t *testing.T, term any) []byte {
	t.Helper()
	b, err := etf.Encode(term)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func TestHelloRefused(t *testing.T) {
	good := portproto.Hello{OSPid: 1, LogLevel: "info"}.Term().(etf.Tuple)
	for _, tc := range []struct {
		name   string
		first  []byte
		reason portproto.Reason
		detail string
	}{
		{"version 2", frame(t, etf.Tuple{good[0], 2, good[2]}), portproto.UnknownVersion, "version 2, this is version 1"},
		{"no map", frame(t, etf.Tuple{good[0], 1, etf.Atom("x")}), portproto.BadHello, "instead of a map"},
		{"no term", []byte{0, 0, 0, 1, 9}, portproto.BadHello, "bad term"},
		{"not hello", frame(t, etf.Atom("stop")), portproto.BadHello, "instead of hello"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := startBEAM(t, Options{})
			b.sayBytes(tc.first)
			r := expect[portproto.Refused](b)
			if r.Reason != tc.reason || !strings.Contains(r.Detail, tc.detail) {
				t.Errorf("%+v; want %s with %q", r, tc.reason, tc.detail)
			}
			if b.expectEnd() == nil {
				t.Error("ends as if all were well")
			}
		})
	}
}

func TestBadFrames(t *testing.T) {
	for _, in := range []string{"\x00\x00\x00\x00", "\x00\x01\x00\x01", "\xff\xff\xff\xff"} {
		b := startBEAM(t, Options{})
		b.sayBytes([]byte(in))
		if err := b.expectEnd(); !errors.Is(err, portproto.ErrFrame) {
			t.Errorf("%x: %v", in, err)
		}
	}
}

func TestBadMessageGoesOn(t *testing.T) {
	b := newBEAM(t, Options{})
	b.sayBytes(frame(t, etf.Tuple{etf.Atom("dance"), 1}))
	if e := b.expectLog("bad message from the BEAM"); len(e.Fields) == 0 || !strings.Contains(e.Fields[0].Value.(string), "dance") {
		t.Errorf("%+v", e)
	}
	b.sayBytes(frame(t, etf.Tuple{etf.Atom("connect"), 5, etf.Map{}}))
	if e := expect[portproto.Error](b); e.ID != 5 || e.Reason != portproto.BadRequest || !strings.Contains(e.Detail, "missing") {
		t.Errorf("%+v", e)
	}
}

func TestEndOfStdin(t *testing.T) {
	for name, prepare := range map[string]func() *beam{
		"before hello":                func() *beam { return startBEAM(t, Options{}) },
		"without fd socket":           func() *beam { b := startBEAM(t, Options{}); b.greet(portproto.Hello{}); return b },
		"while registered":            func() *beam { b, _, _ := registered(t, Options{}); return b },
		"with an open channel socket": func() *beam { b, _, h := registered(t, Options{}); askSocket(t, h); return b },
		"with a channel":              func() *beam { b, _, h := registered(t, Options{}); openChannel(t, h); return b },
	} {
		b := prepare()
		b.stdin.Close()
		if err := b.expectEnd(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEndOfStdinWhileDelivering: a request that waits for the fd socket does not delay the
// end.
func TestEndOfStdinWhileDelivering(t *testing.T) {
	b := startBEAM(t, Options{SendTimeout: time.Hour, FDConnectTimeout: time.Hour})
	b.greet(portproto.Hello{})
	asked := make(chan struct{})
	at := answering(t, afterRequest(func(c net.Conn) { close(asked); c.Read(make([]byte, 1)) }))
	b.say(portproto.Connect{ID: 1, Name: "n2", EPMD: at, Timeout: time.Hour})
	<-asked
	b.stdin.Close()
	if err := b.expectEnd(); err != nil {
		t.Error(err)
	}
}

func TestStop(t *testing.T) {
	b, _, heartbeat := registered(t, Options{StopTimeout: testkit.Patience})
	b.say(portproto.Stop{})
	// The carrier waits for EPMD to see it...
	if n, err := heartbeat.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatalf("%d, %v", n, err)
	}
	select {
	case err := <-b.ended:
		t.Fatalf("ended before EPMD had closed: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	heartbeat.Close() // ... and to close its end.
	if err := b.expectEnd(); err != nil {
		t.Error(err)
	}
}

// TestStopDeafEPMD: an EPMD that does not close delays stop for StopTimeout at most.
func TestStopDeafEPMD(t *testing.T) {
	b, _, _ := registered(t, Options{StopTimeout: time.Millisecond})
	b.say(portproto.Stop{})
	if err := b.expectEnd(); err != nil {
		t.Error(err)
	}
}

func TestStdoutBroken(t *testing.T) {
	b := newBEAM(t, Options{})
	b.stdout.Close()
	b.say(portproto.Cancel{ID: 1})
	b.sayBytes(frame(t, etf.Atom("dance"))) // makes it write a log event
	if err := b.expectEnd(); err == nil || !strings.Contains(err.Error(), "stdout") {
		t.Errorf("%v", err)
	}
}

func TestFDSocketClosed(t *testing.T) {
	b := newBEAM(t, Options{})
	b.fds.Close()
	if err := b.expectEnd(); err != nil {
		t.Errorf("%v", err)
	}
}

func TestFDSocketNotConnected(t *testing.T) {
	b := startBEAM(t, Options{FDConnectTimeout: time.Millisecond})
	b.greet(portproto.Hello{})
	if err := b.expectEnd(); err == nil || !strings.Contains(err.Error(), "did not connect") {
		t.Errorf("%v", err)
	}
}

// TestFDSocketClosesBehindBEAM: no process can connect to the fd socket after the BEAM has.
func TestFDSocketClosesBehindBEAM(t *testing.T) {
	b := startBEAM(t, Options{})
	name := b.greet(portproto.Hello{}).FDSocket
	if err := epmdproto.ValidSocketName(name); err != nil {
		t.Error(err)
	}
	c, err := fdpass.Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	b.fds = c
	testkit.WaitFor(t, "the fd socket to be closed", func() bool { return !isListening(name) })
}

// isListening reports whether a connection to the abstract socket is taken.
func isListening(name string) bool {
	c, err := fdpass.Dial(name)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// TestFDSocketStranger: another process than hello's os_pid is refused, and the BEAM can still
// connect.
func TestFDSocketStranger(t *testing.T) {
	b := startBEAM(t, Options{})
	name := b.greet(portproto.Hello{}).FDSocket
	stranger(t, 0, name)
	b.expectLog("refused a connection to the fd socket that is not from the BEAM")
	c, err := fdpass.Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	b.fds = c
	testkit.WaitFor(t, "the fd socket to be taken", func() bool { return !isListening(name) })
}
