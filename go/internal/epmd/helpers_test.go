package epmd

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// testServer is a Server on a random port of 127.0.0.1.
type testServer struct {
	*Server
	addr string
	log  *logBuffer
}

// start runs a server until the end of the test, and fails the test if the server leaves
// a goroutine or an open file behind.
func start(t *testing.T, o Options, tweaks ...func(*Server)) *testServer {
	t.Helper()
	noLeaks(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ts := &testServer{addr: l.Addr().String(), log: &logBuffer{}}
	o.Port = l.Addr().(*net.TCPAddr).Port
	o.Log = zerolog.New(ts.log).Level(zerolog.DebugLevel)
	ts.Server = New(o)
	for _, tweak := range tweaks {
		tweak(ts.Server)
	}
	served := make(chan error, 1)
	go func() { served <- ts.Serve([]*net.TCPListener{l.(*net.TCPListener)}) }()
	t.Cleanup(func() {
		ts.Close()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(testkit.Patience):
			t.Error("Serve does not return")
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", ts.log)
		}
	})
	return ts
}

// noLeaks compares the open files and goroutines with those at the end of the test.
func noLeaks(t *testing.T) {
	// The runtime's poller, which stays for good, comes with the first socket.
	if l, err := net.Listen("tcp4", "127.0.0.1:0"); err == nil {
		_ = l.Close()
	}
	fds, goroutines := openFiles(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		if !testkit.Within(func() bool { return runtime.NumGoroutine() <= goroutines && openFiles(t) <= fds }) {
			stacks := make([]byte, 1<<16)
			t.Errorf("files: %d, then %d; goroutines: %d, then %d\n%s", fds, openFiles(t),
				goroutines, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		}
	})
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// says waits for a line of the log.
func (b *logBuffer) says(t *testing.T, what string) {
	t.Helper()
	if !testkit.Within(func() bool { return strings.Contains(b.String(), what) }) {
		t.Errorf("no log line with %q", what)
	}
}

func (ts *testServer) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", ts.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func send(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// ask sends b on a connection of its own and returns all that comes until the
// server's close.
func (ts *testServer) ask(t *testing.T, b []byte) string {
	t.Helper()
	c := ts.dial(t)
	defer c.Close()
	send(t, c, b)
	return readAll(t, c)
}

func readAll(t *testing.T, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("after %q: %v", b, err)
	}
	return string(b)
}

func request(op byte, arg string) []byte { return epmdproto.AppendRequest(nil, op, arg) }

// register makes a connection the heartbeat of a node.
func (ts *testServer) register(t *testing.T, r epmdproto.Alive2Req) (net.Conn, uint32) {
	t.Helper()
	c := ts.dial(t)
	b, err := r.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	send(t, c, b)
	resp, err := epmdproto.ReadAlive2Resp(c)
	if err != nil || resp.Result != 0 {
		t.Fatalf("registering %q: %+v, %v", r.Name, resp, err)
	}
	return c, resp.Creation
}

func plainNode(name string) epmdproto.Alive2Req {
	return epmdproto.Alive2Req{Port: 1234, NodeType: 77, Highest: 6, Lowest: 5, Name: name}
}

func peerOf(c net.Conn) netip.AddrPort {
	return netip.MustParseAddrPort(fmt.Sprint(c.LocalAddr()))
}

func firstOf[T, U any](v T, _ U) T { return v }
