package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
)

const (
	// mainEnv makes the test binary the program.
	mainEnv  = "EPMD_TEST_MAIN"
	patience = 20 * time.Second
)

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func command(port int, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, args...)
	// The race detector would sleep for a second at each exit.
	cmd.Env = append(os.Environ(), mainEnv+"=1", "GORACE=atexit_sleep_ms=0", "ERL_EPMD_ADDRESS=127.0.0.1", fmt.Sprint("ERL_EPMD_PORT=", port))
	return cmd
}

// run returns what the program prints, and its exit status.
func run(t *testing.T, port int, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := command(port, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func register(t *testing.T, port int, name string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp4", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	b, err := epmdproto.Alive2Req{Port: 1234, NodeType: 77, Highest: 6, Lowest: 5, Name: name}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if r, err := epmdproto.ReadAlive2Resp(c); err != nil || r.Result != 0 {
		t.Fatal(r, err)
	}
	return c
}

// TestTranscript drives a daemon from its start to its end.
func TestTranscript(t *testing.T) {
	port := freePort(t)
	expect := func(args, wantOut, wantErr string, wantCode int) {
		t.Helper()
		out, errOut, code := run(t, port, strings.Fields(args)...)
		wantOut = strings.ReplaceAll(wantOut, "PORT", strconv.Itoa(port))
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
	expect("-d", "", "there is already a epmd running at port "+strconv.Itoa(port), 0)
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
	port := freePort(t)
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

// foreground starts an EPMD and waits until it answers.
func foreground(t *testing.T, port int, args ...string) *exec.Cmd {
	t.Helper()
	cmd := command(port, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, _, code := run(t, port, "-started"); code == 0 {
			return cmd
		}
	}
	t.Fatal("epmd does not answer")
	return nil
}

// TestPortTaken: something that is not an EPMD is named, by the daemon's parent
// too.
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
	port := l.Addr().(*net.TCPAddr).Port
	for _, args := range [][]string{nil, {"-daemon"}} {
		if _, errOut, code := run(t, port, args...); code != 1 || !strings.Contains(errOut, "is taken by something that is not an EPMD") {
			t.Errorf("epmd %v: %d %q", args, code, errOut)
		}
	}
}

// TestDaemonDetached: a session of its own, no fd of its parent's, "/" as folder.
func TestDaemonDetached(t *testing.T) {
	port := freePort(t)
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
func daemonOf(t *testing.T, port int) string {
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

func TestArgs(t *testing.T) {
	env := map[string]string{"ERL_EPMD_PORT": "5000", "ERL_EPMD_ADDRESS": "192.0.2.1", "ERL_EPMD_RELAXED_COMMAND_CHECK": ""}
	getenv := func(key string) (string, bool) { v, ok := env[key]; return v, ok }
	o, err := parseArgs(strings.Fields("-d -debug -packet_timeout 5 -delay_accept 1 -delay_write 2 -daemon -systemd"), getenv)
	want := options{addresses: "192.0.2.1", port: 5000, debug: 2, daemon: true, systemd: true, relaxed: true,
		packetTimeout: 5 * time.Second, delayAccept: time.Second, delayWrite: 2 * time.Second}
	if err != nil || o != want {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err = parseArgs(strings.Fields("-address 192.0.2.2 -port 6000 -stop n"), getenv); err != nil ||
		o.addresses != "192.0.2.2" || o.port != 6000 || o.command != "-stop" || o.name != "n" {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range []string{"-port", "-port 0", "-port 65536", "-port x", "-port -1", "-packet_timeout 0", "-address",
		"-names -port 5", "-kill x", "-stop", "-stop a b", "-nonsense", "names"} {
		if _, err := parseArgs(strings.Fields(args), getenv); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
	env["ERL_EPMD_PORT"] = "nonsense"
	if _, err := parseArgs(nil, getenv); err == nil || !strings.Contains(err.Error(), "ERL_EPMD_PORT") {
		t.Errorf("a bad ERL_EPMD_PORT: %v", err)
	}
}
