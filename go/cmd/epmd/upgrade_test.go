package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// installed returns a copy of the program that a test may replace.
func installed(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "epmd")
	install(t, path)
	return path
}

// install puts a new file at path, as a package manager does.
func install(t *testing.T, path string) {
	t.Helper()
	self, err := os.Executable()
	if err == nil {
		var program []byte
		if program, err = os.ReadFile(self); err == nil {
			err = os.WriteFile(path+".new", program, 0o755)
		}
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// installScript puts a shell script at path.
func installScript(t *testing.T, path, script string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", []byte(script), 0o755), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

func startInstalled(t *testing.T, path string, port uint16, args ...string) (*exec.Cmd, *syncBuffer) {
	t.Helper()
	cmd := command(port, args...)
	cmd.Path, cmd.Args[0] = path, path
	stderr := &syncBuffer{}
	cmd.Stderr = stderr
	await(t, cmd, port)
	return cmd, stderr
}

// upgrade runs `epmd -upgrade`.
func upgrade(t *testing.T, port uint16) {
	t.Helper()
	if out, errOut, code := run(t, port, "-upgrade"); out != "Upgraded\n" || code != 0 {
		t.Fatalf("-upgrade: %d, %q, %q", code, out, errOut)
	}
}

// running returns the file that a process executes.
func running(t *testing.T, pid int) string {
	t.Helper()
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func lookUpOnce(port uint16, name string) error {
	c, err := net.Dial("tcp4", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err := c.Write(epmdproto.AppendRequest(nil, epmdproto.OpPort2, name)); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err == nil && (len(b) < 2 || b[1] != 0 || !strings.Contains(string(b), name)) {
		err = fmt.Errorf("the answer is %q", b)
	}
	return err
}

// TestUpgradeUnderLoad: 10,000 lookups of 200 nodes while the program is replaced
// again and again. No lookup fails, no node notices, the process stays the same.
func TestUpgradeUnderLoad(t *testing.T) {
	const nodes, lookups, clients = 200, 10_000, 16
	port, path := testkit.FreePort(t), installed(t)
	cmd, stderr := startInstalled(t, path, port)
	var heartbeats []net.Conn
	for i := range nodes {
		heartbeats = append(heartbeats, register(t, port, fmt.Sprint("node", i)))
	}
	names, _, _ := run(t, port, "-names")
	var next, upgrades atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := next.Add(1); i <= lookups; i = next.Add(1) {
				if err := lookUpOnce(port, fmt.Sprint("node", i%nodes)); err != nil {
					t.Errorf("lookup %d, after %d upgrades: %v", i, upgrades.Load(), err)
				}
			}
		})
	}
	for upgrades.Load() < 3 || next.Load() <= lookups {
		install(t, path)
		upgrade(t, port)
		upgrades.Add(1)
		if got := running(t, cmd.Process.Pid); got != path {
			t.Fatalf("the process runs %q", got)
		}
	}
	wg.Wait()
	t.Logf("%d lookups across %d upgrades", lookups, upgrades.Load())
	if after, _, _ := run(t, port, "-names"); after != names {
		t.Errorf("-names was\n%s, is\n%s", names, after)
	}
	for i, c := range heartbeats {
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("node %d notices: %d, %v", i, n, err)
		}
	}
	if s := stderr.String(); s != "" {
		t.Errorf("the log: %s", s)
	}
	for _, c := range heartbeats {
		_ = c.Close()
	}
	if !testkit.Within(func() bool { out, _, _ := run(t, port, "-names"); return strings.Count(out, "\n") == 1 }) {
		t.Error("names stick")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// TestUpgradeToNothing: files that an EPMD cannot be upgraded to. The old program goes on
// and reports the reason, to the client and in the log.
func TestUpgradeToNothing(t *testing.T) {
	port, path := testkit.FreePort(t), installed(t)
	_, stderr := startInstalled(t, path, port)
	heartbeat := register(t, port, "n")
	for script, want := range map[string]string{
		"#!/bin/sh\necho no libc >&2; exit 3\n": `exit status 3: "no libc"`,
		"#!/bin/sh\nexit 0\n":                   "did not say that it is ready",
		"not a program":                         "exec format error",
		"#!/bin/sh\nkill -SEGV $$\n":            "segmentation fault",
		"#!/bin/sh\nexec yes\n":                 "printed more than 65536 bytes",
		"#!/bin/sh\nyes >&2\n":                  "printed more than 65536 bytes",
	} {
		installScript(t, path, script)
		out, errOut, code := run(t, port, "-upgrade")
		if out != "" || code != 1 || !strings.Contains(errOut, "epmd: not upgraded: trying out "+path) || !strings.Contains(errOut, want) {
			t.Errorf("%q: %d, %q, %q", script, code, out, errOut)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, errOut, code := run(t, port, "-upgrade"); code != 1 || !strings.Contains(errOut, "no such file") {
		t.Errorf("%d, %q", code, errOut)
	}
	if got := strings.Count(stderr.String(), "going on as before"); got != 7 {
		t.Errorf("%d lines in the log: %s", got, stderr.String())
	}
	if err := lookUpOnce(port, "n"); err != nil {
		t.Error(err)
	}
	install(t, path)
	upgrade(t, port)
	_ = heartbeat.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := heartbeat.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the node notices: %v", err)
	}
}

// TestUpgradeBroken: a file that passes the trial and cannot be executed a moment later.
// By then the old program has stopped serving, and it resumes from its own state.
func TestUpgradeBroken(t *testing.T) {
	port, path := testkit.FreePort(t), installed(t)
	_, stderr := startInstalled(t, path, port)
	heartbeat := register(t, port, "n")
	half := dial(t, port)
	req := epmdproto.AppendRequest(nil, epmdproto.OpPort2, "n")
	if _, err := half.Write(req[:2]); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		installScript(t, path, "#!/bin/sh\nprintf ready; rm \"$0\"\n")
		if _, errOut, code := run(t, port, "-upgrade"); code != 1 || !strings.Contains(errOut, "epmd: not upgraded: exec "+path) {
			t.Errorf("-upgrade: %d, %q", code, errOut)
		}
		if got := strings.Count(stderr.String(), "exec "+path+": no such file"); got != i+1 {
			t.Errorf("the log: %s", stderr.String())
		}
	}
	if _, err := half.Write(req[2:]); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(half); err != nil || len(b) < 2 || b[1] != 0 {
		t.Errorf("%q, %v", b, err)
	}
	_ = heartbeat.Close()
	if !testkit.Within(func() bool { return lookUpOnce(port, "n") != nil }) {
		t.Error("the name sticks")
	}
}
