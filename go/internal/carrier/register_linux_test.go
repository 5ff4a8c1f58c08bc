package carrier

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/peercred"
	"handover/go/internal/portproto"
	"handover/go/internal/testkit"
)

// answering listens until the end of the test, and calls do with each connection.
func answering(t *testing.T, do func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go do(c)
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func afterRequest(do func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		defer c.Close()
		if _, err := readRequest(c); err == nil {
			do(c)
		}
	}
}

func TestRegisterFails(t *testing.T) {
	silent := answering(t, afterRequest(func(c net.Conn) { io.Copy(io.Discard, c) }))
	for _, tc := range []struct {
		name   string
		at     netip.AddrPort
		reason portproto.Reason
		detail string
	}{
		{"nothing listens", testkit.Loopback(testkit.FreePort(t)), portproto.EPMDUnreachable, "connection refused"},
		{"closes", answering(t, afterRequest(func(net.Conn) {})), portproto.EPMDClosed, "EOF"},
		{"closes in the middle", answering(t, afterRequest(func(c net.Conn) { c.Write([]byte("v\x00\x00")) })), portproto.EPMDClosed, "EOF"},
		{"resets", answering(t, func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() }), portproto.EPMDClosed, "reset"},
		{"not EPMD", answering(t, func(c net.Conn) { io.WriteString(c, "SSH-2.0-x\r\n"); io.Copy(io.Discard, c) }), portproto.EPMDBadAnswer, "opcode 83"},
		{"silent", silent, portproto.Timeout, "i/o timeout"},
		{"knows ALIVE2 only", answering(t, func(c net.Conn) {
			b, err := readRequest(c)
			if err == nil && b[0] == 'x' {
				c.Write([]byte("v\x00\x00\x00\x00\x01"))
			}
			io.Copy(io.Discard, c)
		}), portproto.Timeout, "i/o timeout"},
		{"unknown answer to the probe", answering(t, func(c net.Conn) {
			b, err := readRequest(c)
			if err == nil && b[0] == 'x' {
				c.Write([]byte("v\x00\x00\x00\x00\x01"))
			} else {
				c.Write([]byte("ok"))
			}
			io.Copy(io.Discard, c)
		}), portproto.EPMDBadAnswer, "opcode 111"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := Options{}
			if tc.reason == portproto.Timeout {
				o.RegisterTimeout = 50 * time.Millisecond
			}
			b := newBEAM(t, o)
			b.say(registerAt(tc.at))
			e := expect[portproto.Error](b)
			if e.ID != 1 || e.Reason != tc.reason || !strings.Contains(e.Detail, tc.detail) {
				t.Errorf("%+v; want %s with %q", e, tc.reason, tc.detail)
			}
			b.registersAt(newEPMD(t, false).addr)
		})
	}
}

// registersAt checks that the carrier can register after an attempt that failed. It repeats
// the request, since RegisterTimeout may be short for a busy machine.
func (b *beam) registersAt(addr netip.AddrPort) {
	b.t.Helper()
	r := registerAt(addr)
	for end := time.Now().Add(testkit.Patience); time.Now().Before(end); {
		r.ID++
		b.say(r)
		answer := expect[portproto.Event](b)
		for _, isLog := answer.(portproto.Log); isLog; _, isLog = answer.(portproto.Log) {
			answer = expect[portproto.Event](b)
		}
		if got, ok := answer.(portproto.Registered); ok && got.ID == r.ID {
			return
		}
		if e, ok := answer.(portproto.Error); !ok || e.Reason != portproto.Timeout {
			b.t.Fatalf("%+v", answer)
		}
	}
	b.t.Fatal("can't register")
}

func TestDuplicateName(t *testing.T) {
	b, e := newBEAM(t, Options{}), newEPMD(t, false)
	r := registerAt(e.addr)
	r.Name = "taken"
	b.say(r)
	if e := expect[portproto.Error](b); e.Reason != portproto.DuplicateName || !strings.Contains(e.Detail, `"taken"`) {
		t.Errorf("%+v", e)
	}
}

func TestRegisterTwice(t *testing.T) {
	b, e, _ := registered(t, Options{})
	r := registerAt(e.addr)
	r.ID = 2
	b.say(r)
	if e := expect[portproto.Error](b); e.ID != 2 || e.Reason != portproto.BadRequest {
		t.Errorf("%+v", e)
	}
}

func TestRegisterStock(t *testing.T) {
	b, e := newBEAM(t, Options{}), newEPMD(t, true)
	b.say(registerAt(e.addr))
	if r := expect[portproto.Registered](b); r.Kind != portproto.KindStock {
		t.Errorf("%+v", r)
	}
}

// TestRegisterWithoutOwners: if the kernel does not tell the users of connections, the node
// registers without handovers, and the log says what to change.
func TestRegisterWithoutOwners(t *testing.T) {
	b := newBEAM(t, Options{available: func() error { return peercred.ErrUnavailable }})
	e := newEPMD(t, false)
	b.say(registerAt(e.addr))
	log := b.expectLog("registering as a node that takes no handovers")
	if text := log.Fields[0].Value.(string); !strings.Contains(text, "tcp_diag") {
		t.Errorf("%q", text)
	}
	expect[portproto.Registered](b)
	if extra := <-e.extras; len(extra) > 0 {
		t.Errorf("it registered with %q", extra)
	}
}

// TestRegisterPassingError: an error that may pass does not make the node register without
// handovers.
func TestRegisterPassingError(t *testing.T) {
	b := newBEAM(t, Options{available: func() error { return unix.EMFILE }})
	e := newEPMD(t, false)
	b.say(registerAt(e.addr))
	expect[portproto.Registered](b)
	if extra := <-e.extras; string(extra) != "handover/1" {
		t.Errorf("it registered with %q", extra)
	}
}

// TestRegisterFullEPMD: an EPMD that is full closes each request without an answer, as the
// stock one closes HANDOVER_REQ. The carrier must not take it for a stock one.
func TestRegisterFullEPMD(t *testing.T) {
	b, e := newBEAM(t, Options{}), newEPMD(t, false)
	e.full.Store(true)
	b.say(registerAt(e.addr))
	if got := expect[portproto.Error](b); got.Reason != portproto.EPMDClosed || !strings.Contains(got.Detail, "too many connections") {
		t.Errorf("%+v", got)
	}
	e.full.Store(false)
	b.say(registerAt(e.addr))
	if r := expect[portproto.Registered](b); r.Kind != portproto.KindHandover {
		t.Errorf("%+v", r)
	}
}

// TestAskCorrectsKind: HANDOVER_ASK proves that an EPMD is not a stock one.
func TestAskCorrectsKind(t *testing.T) {
	b, e := newBEAM(t, Options{}), newEPMD(t, true)
	b.say(registerAt(e.addr))
	expect[portproto.Registered](b)
	askSocket(t, e.heartbeat())
	if up := expect[portproto.EPMDUp](b); up.Kind != portproto.KindHandover {
		t.Errorf("%+v", up)
	}
}

// TestEPMDStartedAgain: a carrier that may start EPMD starts it again after it has died.
func TestEPMDStartedAgain(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	b := newBEAMWith(t, Options{}, portproto.Hello{EPMD: script(t, "touch "+started)})
	e := newEPMD(t, false)
	b.say(registerAt(e.addr))
	expect[portproto.Registered](b)
	heartbeat := e.heartbeat()
	e.l.Close()
	heartbeat.Close()
	expect[portproto.EPMDDown](b)
	testkit.WaitFor(t, "EPMD to be started", func() bool { _, err := os.Stat(started); return err == nil })
	epmdAt(t, e.addr.String(), false)
	expect[portproto.EPMDUp](b)
}

func TestCancelRegister(t *testing.T) {
	asked := make(chan struct{}, 8)
	silent := answering(t, afterRequest(func(c net.Conn) { asked <- struct{}{}; io.Copy(io.Discard, c) }))
	b := newBEAM(t, Options{RegisterTimeout: testkit.Patience})
	b.say(registerAt(silent))
	<-asked
	b.say(portproto.Cancel{ID: 1})
	if e := expect[portproto.Error](b); e.Reason != portproto.Cancelled {
		t.Errorf("%+v", e)
	}
}

// TestEPMDRestart: the EPMD that comes back is of another kind.
func TestEPMDRestart(t *testing.T) {
	b, e, heartbeat := registered(t, Options{})
	e.l.Close()
	heartbeat.Close()
	if d := expect[portproto.EPMDDown](b); d.Detail == "" {
		t.Errorf("%+v", d)
	}
	b.expectLog("cannot register again yet")
	again := epmdAt(t, e.addr.String(), true)
	if u := expect[portproto.EPMDUp](b); u.Kind != portproto.KindStock {
		t.Errorf("%+v", u)
	}
	again.heartbeat().Close()
	expect[portproto.EPMDDown](b)
	expect[portproto.EPMDUp](b)
}

func TestHeartbeatGarbage(t *testing.T) {
	b, e, heartbeat := registered(t, Options{})
	io.WriteString(heartbeat, "\x00\x01z")
	if d := expect[portproto.EPMDDown](b); !strings.Contains(d.Detail, "00 01 7a") {
		t.Errorf("%+v", d)
	}
	expect[portproto.EPMDUp](b)
	e.heartbeat()
}

func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "epmd")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStartEPMDFails(t *testing.T) {
	const short, long = 300 * time.Millisecond, testkit.Patience / 2
	for _, tc := range []struct {
		name, program string
		timeout       time.Duration
		detail        string
	}{
		{"no such program", "/nonexistent/epmd", long, "no such file"},
		{"fails", script(t, "echo my words >&2; exit 3"), long, "exit status 3: my words"},
		{"stays in the foreground", script(t, "exec sleep 60"), short, "background in time"},
		{"nobody listens", script(t, "exit 0"), 2 * time.Second, "connection refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBEAMWith(t, Options{StartTimeout: tc.timeout}, portproto.Hello{EPMD: tc.program})
			b.say(registerAt(testkit.Loopback(testkit.FreePort(t))))
			e := expect[portproto.Error](b)
			if e.Reason != portproto.EPMDNotStarted || !strings.Contains(e.Detail, tc.detail) || !strings.Contains(e.Detail, tc.program) {
				t.Errorf("%+v; want %q", e, tc.detail)
			}
		})
	}
}

// TestStartEPMD: the program gets the port, and the carrier finds an EPMD that listens later.
func TestStartEPMD(t *testing.T) {
	at := testkit.Loopback(testkit.FreePort(t))
	said := filepath.Join(t.TempDir(), "said")
	program := script(t, fmt.Sprintf("echo $* > %s.tmp; mv %s.tmp %s", said, said, said))
	b := newBEAMWith(t, Options{}, portproto.Hello{EPMD: program})
	b.say(registerAt(at))
	testkit.WaitFor(t, "the program to run", func() bool { _, err := os.Stat(said); return err == nil })
	epmdAt(t, at.String(), false)
	expect[portproto.Registered](b)
	got, err := os.ReadFile(said)
	if want := fmt.Sprintf("-port %d -daemon\n", at.Port()); err != nil || string(got) != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

// TestNoStartElsewhere: EPMD is not started for an address of another host.
func TestNoStartElsewhere(t *testing.T) {
	said := filepath.Join(t.TempDir(), "said")
	b := newBEAMWith(t, Options{RegisterTimeout: time.Second}, portproto.Hello{EPMD: script(t, "touch "+said)})
	b.say(registerAt(netip.MustParseAddrPort("192.0.2.1:4369")))
	if e := expect[portproto.Error](b); e.Reason == portproto.EPMDNotStarted {
		t.Errorf("%+v", e)
	}
	if _, err := os.Stat(said); err == nil {
		t.Error("EPMD was started for an address of another host")
	}
}
