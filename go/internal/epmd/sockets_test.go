package epmd

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/peercred"
	"handover/go/internal/testkit"
)

// TestBadSockets: bad answers to 'h', and the results.
func TestBadSockets(t *testing.T) {
	stream, err := net.Listen("unix", "@"+epmdproto.NewSocketName())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	streamName := strings.TrimPrefix(stream.Addr().String(), "@")
	const noSocket, noNode = epmdproto.CannotPass, epmdproto.NoSuchNode
	for name, c := range map[string]struct {
		answer, log string
		result      epmdproto.Result
		leaves      bool // as it can't be followed any more
	}{
		"no socket":         {framed(""), "cannot open a socket", noSocket, false},
		"a path":            {framed("/tmp/handover-1000/s"), "hexadecimal digits", noSocket, false},
		"another's name":    {framed("\x00/org/kernel/linux/storage/multipathd"[:37]), "hexadecimal digits", noSocket, false},
		"nobody listens":    {framed(epmdproto.NewSocketName()), "connection refused", noSocket, false},
		"a stream socket":   {framed(streamName), "connect", noSocket, false},
		"too long":          {framed(epmdproto.NewSocketName() + "0"), "bad length on heartbeat", noSocket, true},
		"garbage":           {"XXXXXXXXXXXXXXX", "bad length on heartbeat", noSocket, true},
		"half, then nobody": {"\x00\x29hand", "", noNode, true},
	} {
		t.Run(name, func(t *testing.T) {
			ts := start(t, Options{})
			n := ts.node(t, "n")
			c1 := ts.initiate(t, "n")
			n.asked()
			send(t, n.heartbeat, []byte(c.answer))
			if name == "half, then nobody" {
				_ = n.heartbeat.Close()
			}
			refused(t, c1, c.result)
			ts.log.says(t, c.log)
			if c.leaves {
				ts.log.says(t, `"message":"unregistered"`)
			}
			if left := ts.names.Len() == 0; left != c.leaves {
				t.Errorf("the node has left: %v", left)
			}
		})
	}
}

// TestBadSocketIsLoggedOnce: other hosts cannot fill the log by asking for such a node
// again and again.
func TestBadSocketIsLoggedOnce(t *testing.T) {
	ts := start(t, Options{})
	n := ts.node(t, "n")
	for range 20 {
		c := ts.initiate(t, "n")
		n.asked()
		send(t, n.heartbeat, []byte(framed("relative")))
		refused(t, c, epmdproto.CannotPass)
	}
	ts.log.says(t, "cannot open a channel")
	if got := strings.Count(ts.log.String(), "cannot open a channel"); got != 1 {
		t.Errorf("%d lines", got)
	}
}

func listenUnix(t *testing.T, name string) *net.UnixListener {
	t.Helper()
	l, err := fdpass.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestForeignSocket: a socket of another user than the node's gets nothing, even if that
// user is root.
func TestForeignSocket(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root, to own sockets and processes as two users")
	}
	const app = 65533
	for _, listener := range []uint32{65534, 0} {
		ts := start(t, Options{}, func(s *Server) {
			s.users.tcpOwner = func(_, _ netip.AddrPort) (uint32, error) { return app, nil }
		})
		n := ts.node(t, "n")
		n.socket = listenAs(t, listener)
		c1 := ts.initiate(t, "n")
		n.asked()
		n.sendSocketName()
		refused(t, c1, epmdproto.CannotPass)
		ts.log.says(t, fmt.Sprintf("uid %d listens", listener))
	}
}

// TestOwnerUnavailable: if the kernel does not report the node's user, the node gets
// nothing, and the log says what to change.
func TestOwnerUnavailable(t *testing.T) {
	ts := start(t, Options{}, func(s *Server) {
		s.users.tcpOwner = func(_, _ netip.AddrPort) (uint32, error) {
			return 0, fmt.Errorf("peercred: %w (no sock_diag)", peercred.ErrUnavailable)
		}
	})
	n := ts.node(t, "n")
	c := ts.initiate(t, "n")
	n.asked()
	n.sendSocketName()
	refused(t, c, epmdproto.CannotPass)
	ts.log.says(t, "load the module tcp_diag")
	ts.log.says(t, `"uid":"unknown"`)
	if strings.Contains(ts.log.String(), "has closed") {
		t.Error("the log says that the far end has closed")
	}
}

// listenEnv makes the test binary a process that listens on an abstract socket
// until the end of its stdin.
const listenEnv = "EPMD_TEST_LISTEN"

func TestMain(m *testing.M) {
	if name := os.Getenv(listenEnv); name != "" {
		if _, err := fdpass.Listen(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("listening")
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	testkit.CleanEnvironment()
	os.Exit(m.Run())
}

// listenAs starts a process of that uid that listens, and returns the socket's
// name.
func listenAs(t *testing.T, uid uint32) string {
	t.Helper()
	name := epmdproto.NewSocketName()
	// Not os.Executable: it lies in a directory of the caller alone.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), listenEnv+"="+name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Dir, cmd.Stderr = "/", os.Stderr
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("the listener says %q, %v", line, err)
	}
	return name
}
