package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// mainEnv makes the test binary the program.
const mainEnv = "EPMD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
		return
	}
	testkit.CleanEnvironment()
	os.Exit(m.Run())
}

// TestTranscript controls a daemon from start to end.
func TestTranscript(t *testing.T) {
	port := testkit.FreePort(t)
	expect := func(args, wantOut, wantErr string, wantCode int) {
		t.Helper()
		out, errOut, code := run(t, port, strings.Fields(args)...)
		wantOut = strings.ReplaceAll(wantOut, "PORT", strconv.Itoa(int(port)))
		if out != wantOut || !strings.Contains(errOut, wantErr) || wantErr == "" && errOut != "" || code != wantCode {
			t.Errorf("epmd %s: %d\nstdout %q\nstderr %q", args, code, out, errOut)
		}
	}
	expect("-names", "", "epmd: Cannot connect to local epmd\n", 1)
	expect("-started", "", "", 1)
	expect("-daemon -relaxed_command_check", "", "", 0)
	expect("-started", "", "", 0)
	expect("-daemon", "", "", 0)
	expect("", "", "", 0)
	expect("-d", "", "there is already a epmd running at port "+strconv.Itoa(int(port)), 0)
	expect("-names", "epmd: up and running on port PORT with data:\n", "", 0)
	heartbeat := register(t, port, "n")
	expect("-names", "epmd: up and running on port PORT with data:\nname n at port 1234\n", "", 0)
	expect("-stop x", "NOEXIST\n", "", 0)
	expect("-stop n", "STOPPED\n", "", 0)
	if b, err := io.ReadAll(heartbeat); len(b) != 0 || err != nil {
		t.Errorf("after -stop: %q, %v", b, err)
	}
	expect("-kill", "Killed\n", "", 0)
	expect("-kill", "", "epmd: Cannot connect to local epmd\n", 1)
}

func TestKillRefused(t *testing.T) {
	port := testkit.FreePort(t)
	cmd := foreground(t, port)
	register(t, port, "n")
	if out, _, code := run(t, port, "-kill"); out != "Killing not allowed - living nodes in database.\n" || code != 1 {
		t.Errorf("%d %q", code, out)
	}
	if out, _, code := run(t, port, "-stop", "n"); out != "epmd: local epmd responded with <>\n" || code != 1 {
		t.Errorf("%d %q", code, out)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// TestLogReaderGone: no name is lost if the reader of the log exits.
func TestLogReaderGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	port := testkit.FreePort(t)
	cmd := command(port, "-d")
	cmd.Stderr = w
	await(t, cmd, port)
	_ = w.Close()
	heartbeat := register(t, port, "n")
	_ = r.Close()
	c := dial(t, port)
	if _, err := c.Write(epmdproto.AppendRequest(nil, 'q', "")); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
		t.Errorf("an unknown request, which is logged: %q, %v", b, err)
	}
	if err := lookUp(port, "n"); err != nil {
		t.Error(err)
	}
	_ = heartbeat.Close()
}

// TestPortTaken: the error says that the port's listener is not an EPMD; the daemon's
// parent prints it too.
func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("220 mail\r\n"))
			_ = c.Close()
		}
	}()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	for _, args := range [][]string{nil, {"-daemon"}} {
		if _, errOut, code := run(t, port, args...); code != 1 || !strings.Contains(errOut, "is taken by something that is not an EPMD") {
			t.Errorf("epmd %v: %d %q", args, code, errOut)
		}
	}
}

// TestDaemonDetached: the daemon has its own session, no descriptor of its parent, and
// the directory "/".
func TestDaemonDetached(t *testing.T) {
	port := testkit.FreePort(t)
	leaked, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer leaked.Close()
	cmd := command(port, "-daemon")
	cmd.ExtraFiles = []*os.File{leaked, leaked, leaked}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer run(t, port, "-kill")
	pid := daemonOf(t, port)
	if dir, _ := os.Readlink("/proc/" + pid + "/cwd"); dir != "/" {
		t.Errorf("folder %q", dir)
	}
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	if fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])); fields[3] != pid {
		t.Errorf("session %s of process %s", fields[3], pid)
	}
	entries, err := os.ReadDir("/proc/" + pid + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, _ := os.Readlink("/proc/" + pid + "/fd/" + e.Name())
		if strings.HasPrefix(target, "pipe:") || target == "/dev/zero" || len(e.Name()) == 1 && e.Name() < "3" && target != "/dev/null" {
			t.Errorf("fd %s is %s", e.Name(), target)
		}
	}
}

// daemonOf finds the daemon by its environment.
func daemonOf(t *testing.T, port uint16) string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err == nil && bytes.Contains(env, fmt.Appendf(nil, "ERL_EPMD_PORT=%d\x00", port)) {
			return e.Name()
		}
	}
	t.Fatal("no daemon")
	return ""
}
