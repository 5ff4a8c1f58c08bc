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
	"handover/go/internal/peercred"
)

// TestBadPlaces: what a node may answer to 'h', and what comes of it.
func TestBadPlaces(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return dir + "/" + name }
	plainFile(t, at("file"))
	if err := os.Symlink(at("file"), at("link")); err != nil {
		t.Fatal(err)
	}
	listenUnix(t, "unix", at("stream"))
	gone := listenUnix(t, "unixpacket", at("gone"))
	gone.SetUnlinkOnClose(false)
	_ = gone.Close()
	const noPlace, noNode = epmdproto.CannotPass, epmdproto.NoSuchNode
	for name, c := range map[string]struct {
		answer, log string
		result      epmdproto.Result
		leaves      bool // as it can't be followed any more
	}{
		"nothing to offer":  {framed(""), "no place to offer", noPlace, false},
		"relative":          {framed("s"), "is not absolute", noPlace, false},
		"abstract":          {framed("\x00abstract"), "has a NUL", noPlace, false},
		"dot dot":           {framed(dir + "/../s"), "has a .. element", noPlace, false},
		"108 bytes":         {framed("/" + strings.Repeat("p", 107)), "108 bytes, at most 107 fit", noPlace, false},
		"missing":           {framed(at("missing")), "no such file", noPlace, false},
		"a file":            {framed(at("file")), "is no socket", noPlace, false},
		"a directory":       {framed(dir), "is no socket", noPlace, false},
		"a symbolic link":   {framed(at("link")), "is a symbolic link", noPlace, false},
		"a stream socket":   {framed(at("stream")), "wrong type", noPlace, false},
		"nobody listens":    {framed(at("gone")), "connection refused", noPlace, false},
		"garbage":           {"XXXXXXXXXXXXXXX", "bad length on heartbeat", noPlace, true},
		"half, then nobody": {"\x00\x05/a", "", noNode, true},
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

// TestBadPlaceIsLoggedOnce: other hosts can ask for such a node as often as they
// like; the log does not grow with that.
func TestBadPlaceIsLoggedOnce(t *testing.T) {
	ts := start(t, Options{})
	n := ts.node(t, "n")
	for range 20 {
		c := ts.initiate(t, "n")
		n.asked()
		send(t, n.heartbeat, []byte(framed("relative")))
		refused(t, c, epmdproto.CannotPass)
	}
	ts.log.says(t, "no way to bring")
	if got := strings.Count(ts.log.String(), "no way to bring"); got != 1 {
		t.Errorf("%d lines", got)
	}
}

func plainFile(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func listenUnix(t *testing.T, network, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix(network, &net.UnixAddr{Net: network, Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestForeignSocket: a socket that neither the node's uid nor root owns, or
// listens at, gets nothing.
func TestForeignSocket(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root, to own sockets and processes as two users")
	}
	const app1, app2 = 65533, 65534
	for name, c := range map[string]struct {
		file int
		log  string
	}{
		"the file is another's":     {app2, "uid 65534 owns"},
		"the listener is another's": {app1, "uid 65534 listens"},
	} {
		t.Run(name, func(t *testing.T) {
			ts := start(t, Options{}, func(s *Server) {
				s.owner = func(_, _ netip.AddrPort) (uint32, error) { return app1, nil }
			})
			n := ts.node(t, "n")
			n.path = listenAs(t, app2)
			if err := os.Chown(n.path, c.file, -1); err != nil {
				t.Fatal(err)
			}
			c1 := ts.initiate(t, "n")
			n.asked()
			n.offer()
			refused(t, c1, epmdproto.CannotPass)
			ts.log.says(t, c.log)
		})
	}
}

// TestOwnerUnavailable: where the kernel does not tell whose the node is, the node
// gets nothing, and the log says what to change; it does not blame the node.
func TestOwnerUnavailable(t *testing.T) {
	ts := start(t, Options{}, func(s *Server) {
		s.owner = func(_, _ netip.AddrPort) (uint32, error) {
			return 0, fmt.Errorf("peercred: %w (no sock_diag)", peercred.ErrUnavailable)
		}
	})
	n := ts.node(t, "n")
	c := ts.initiate(t, "n")
	n.asked()
	n.offer()
	refused(t, c, epmdproto.CannotPass)
	ts.log.says(t, "load the module tcp_diag")
	ts.log.says(t, `"uid":"unknown"`)
	if strings.Contains(ts.log.String(), "has closed") {
		t.Error("the log says that the far end has closed")
	}
}

// listenEnv makes the test binary a process that listens at a path until the end
// of its stdin.
const listenEnv = "EPMD_TEST_LISTEN"

func TestMain(m *testing.M) {
	if path := os.Getenv(listenEnv); path != "" {
		if _, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: path}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("listening")
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// listenAs starts a process of that uid that listens, and returns where.
func listenAs(t *testing.T, uid uint32) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "epmd-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := dir + "/s"
	// Not os.Executable: it lies in a directory of the caller alone.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), listenEnv+"="+path)
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
	return path
}
