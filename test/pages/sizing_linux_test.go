package pages

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// TestSizing: epmd holds no more than docs/OPERATIONS.md says, idle and with a
// thousand nodes.
func TestSizing(t *testing.T) {
	table := rows(load(t, "docs/OPERATIONS.md").section(t, "Sizing"))
	port := testkit.FreePort(t)
	addr := testkit.Loopback(port).String()
	epmd := exec.Command(program(t, "epmd"), "-port", fmt.Sprint(port), "-address", "127.0.0.1")
	epmd.Stderr = os.Stderr
	if err := epmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = epmd.Process.Kill(); _ = epmd.Wait() }()
	testkit.WaitFor(t, "epmd to listen", func() bool {
		c, err := net.Dial("tcp4", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	idleMiB, idleFiles := held(t, epmd.Process.Pid)
	atMost(t, "idle", idleMiB, table[0][1])
	atMost(t, "idle files", idleFiles, table[0][2])
	for i := range 1000 {
		register(t, addr, fmt.Sprint("node", i))
	}
	mib, files := held(t, epmd.Process.Pid)
	atMost(t, "a thousand nodes", mib-idleMiB, table[1][1])
	if files -= idleFiles; files < 1000 {
		t.Errorf("a thousand nodes: %d files", files)
	}
	t.Logf("idle: %d MiB, %d files; a thousand nodes: %d MiB and %d files more", idleMiB, idleFiles, mib-idleMiB, files)
}

// register holds a name until the test ends.
func register(t *testing.T, addr, name string) {
	t.Helper()
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(testkit.Patience))
	request, err := epmdproto.Alive2Req{Port: 1234, NodeType: 77, Highest: 6, Lowest: 5, Name: name}.Append(nil)
	if err == nil {
		_, err = c.Write(request)
	}
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// held is what a process holds: memory in MiB, open files.
func held(t *testing.T, pid int) (mib, files int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	rss := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil || rss == nil {
		t.Fatal(err)
	}
	kib, err := strconv.Atoi(string(rss[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kib / 1024, len(fds)
}

// atMost: the cell begins with a number, and got is not more.
func atMost(t *testing.T, what string, got int, cell string) {
	t.Helper()
	var most int
	if _, err := fmt.Sscan(cell, &most); err != nil {
		t.Fatalf("%q: %v", cell, err)
	}
	if got > most {
		t.Errorf("%s: %d, the page says %s", what, got, cell)
	}
}
