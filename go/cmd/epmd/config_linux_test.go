package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	epmdstatus "handover/go/internal/status"
	"handover/go/internal/testkit"
)

const (
	hereIP  = "198.51.100.1" // where the EPMD is asked
	thereIP = "198.51.100.2" // where the other host's questions come from
)

// twoHosts moves the test and its children to a network namespace with two addresses.
// For EPMD, a peer that connects from one to the other is on another host.
func twoHosts(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlock it: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("skipped: a network namespace takes root: %v", err)
	}
	for _, args := range []string{"link set lo up", "addr add " + hereIP + "/32 dev lo", "addr add " + thereIP + "/32 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
}

// askFrom sends a request to hereIP from an address, and reads until the close.
func askFrom(t *testing.T, from string, port uint16, req []byte) string {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: testkit.Patience}
	c, err := d.Dial("tcp4", net.JoinHostPort(hereIP, strconv.Itoa(int(port))))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err := c.Write(req); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func writeConfig(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestPolicyFile: a file applies from the start, a new one after SIGHUP, an invalid one
// never.
func TestPolicyFile(t *testing.T) {
	twoHosts(t)
	const port = epmdproto.DefaultPort // a namespace of our own
	file := filepath.Join(t.TempDir(), "epmd.toml")
	writeConfig(t, file, "allow.lookups = []\nallow.names = []\n")
	var stderr syncBuffer
	cmd := command(port, "-address", hereIP, "-config", file)
	cmd.Stderr = &stderr
	await(t, cmd, port)
	register(t, port, "n")
	lookup := epmdproto.AppendRequest(nil, epmdproto.OpPort2, "n")
	names := epmdproto.AppendRequest(nil, epmdproto.OpNames, "")
	if got := askFrom(t, thereIP, port, lookup); got != "w\x01" {
		t.Errorf("a refused lookup: %q", got)
	}
	if got := askFrom(t, thereIP, port, names); len(got) != 4 {
		t.Errorf("refused names: %q", got)
	}
	if got := askFrom(t, hereIP, port, names); !strings.Contains(got, "name n at port 1234\n") {
		t.Errorf("names of this host: %q", got)
	}
	hangUp := func(text, line string) {
		t.Helper()
		writeConfig(t, file, text)
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if !testkit.Within(func() bool { return strings.Contains(stderr.String(), line) }) {
			t.Fatalf("no %q in the log: %q", line, stderr.String())
		}
	}
	hangUp("[allow]\nlookups = [\"10/8\"]", `line 2: allow.lookups: \"10/8\" is not a network`)
	if got := askFrom(t, thereIP, port, lookup); got != "w\x01" {
		t.Errorf("after a bad file: %q", got)
	}
	hangUp("[allow]\nlookups = [\""+thereIP+"\"]", "SIGHUP: configuration read")
	if got := askFrom(t, thereIP, port, lookup); !strings.HasPrefix(got, "w\x00") {
		t.Errorf("an allowed lookup: %q", got)
	}
	if !strings.Contains(stderr.String(), `"request":"lookup","node":"n","reason":"source"`) {
		t.Errorf("the log: %q", stderr.String())
	}
}

// TestBadConfig: the errors that an operator reads. Nothing listens, and the daemon's
// parent prints the error too.
func TestBadConfig(t *testing.T) {
	port := testkit.FreePort(t)
	file := filepath.Join(t.TempDir(), "epmd.toml")
	for text, want := range map[string]string{
		"colour = 1\n":                     "epmd: configuration " + file + ": line 1: unknown key \"colour\"\n",
		"allow.lookups = [\"10.0.0.1/8\"]": "epmd: configuration " + file + ": line 1: allow.lookups: \"10.0.0.1/8\" has bits set after the first 8: did you mean 10.0.0.0/8?\n",
	} {
		writeConfig(t, file, text)
		for _, args := range [][]string{{"-config", file}, {"-daemon", "-config", file}} {
			if out, errOut, code := run(t, port, args...); out != "" || errOut != want || code != 1 {
				t.Errorf("epmd %q: %d %q %q", args, code, out, errOut)
			}
		}
	}
	for args, want := range map[string]string{
		"-config " + file + ".no":     "no such file",
		"-daemon -config epmd.toml":   "the path must be absolute",
		"-metrics localhost:9":        "-metrics: \"localhost:9\" is not an address",
		"-status --text":              "-status takes --json",
		"-status":                     "epmd: cannot connect to the local epmd: ",
		"-metrics":                    "usage",
		"-config":                     "-config needs a value",
		"-metrics 127.0.0.1:0 -names": "IP:PORT",
	} {
		if out, errOut, code := run(t, port, strings.Fields(args)...); out != "" || !strings.Contains(errOut, want) || code != 1 {
			t.Errorf("epmd %s: %d %q %q", args, code, out, errOut)
		}
	}
}

// TestStatusAndMetrics: the same numbers as text, as JSON and for Prometheus.
func TestStatusAndMetrics(t *testing.T) {
	port, metricsPort := testkit.FreePort(t), testkit.FreePort(t)
	foreground(t, port, "-metrics", fmt.Sprintf("127.0.0.1:%d", metricsPort))
	register(t, port, "n")
	c := dial(t, port)
	_, _ = c.Write(epmdproto.AppendRequest(nil, epmdproto.OpPort2, "x"))
	_, _ = io.ReadAll(c)
	out, errOut, code := run(t, port, "-status", "--json")
	var s epmdstatus.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != 0 || errOut != "" {
		t.Fatalf("%d %q %q %v", code, out, errOut, err)
	}
	if s.Port != int(port) || len(s.Nodes) != 1 || s.Nodes[0].Name != "n" || s.Requests["lookup"]["not_found"] != 1 || s.Requests["register"]["ok"] != 1 || s.Policy {
		t.Errorf("%s", out)
	}
	out, _, code = run(t, port, "-status")
	for _, want := range []string{fmt.Sprintf("epmd on port %d, pid %d", port, s.PID), "no policy", "nodes        1, 0 old names\n", "requests     lookup: 1 not_found\n", "takes no handovers"} {
		if !strings.Contains(out, want) || code != 0 {
			t.Errorf("no %q in %d %q", want, code, out)
		}
	}
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", metricsPort))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	page, err := io.ReadAll(r.Body)
	for _, want := range []string{"epmd_nodes 1\n", `epmd_requests_total{request="lookup",result="not_found"} 1`, `epmd_requests_total{request="register",result="ok"} 1`, "epmd_handover_seconds_count 0\n", "process_resident_memory_bytes "} {
		if err != nil || !bytes.Contains(page, []byte(want)) {
			t.Errorf("no %q: %v in\n%s", want, err, page)
		}
	}
}

// TestStatusOfStock: the error for an EPMD without status differs from that for no EPMD.
func TestStatusOfStock(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			_, _ = io.ReadFull(c, make([]byte, 3))
			_ = c.Close()
		}
	}()
	out, errOut, code := run(t, l.Addr().(*net.TCPAddr).AddrPort().Port(), "-status")
	if out != "" || errOut != "epmd: "+epmdstatus.ErrStock.Error()+"\n" || code != 1 {
		t.Errorf("%d %q %q", code, out, errOut)
	}
}
