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

// TestSizing checks that epmd needs no more memory and open files than docs/OPERATIONS.md states, idle and with a thousand nodes.
func TestSizing(t *testing.T) {
	table := tableRows(loadPage(t, "docs/OPERATIONS.md").section(t, "Sizing"))
	port := testkit.FreePort(t)
	addr := testkit.Loopback(port).String()
	epmd := exec.Command(builtProgram(t, "epmd"), "-port", fmt.Sprint(port), "-address", "127.0.0.1")
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
	idleMiB, idleFiles := memoryAndFiles(t, epmd.Process.Pid)
	checkAtMost(t, "idle", idleMiB, table[0][1])
	checkAtMost(t, "idle files", idleFiles, table[0][2])
	for i := range 1000 {
		registerNode(t, addr, fmt.Sprint("node", i))
	}
	mib, files := memoryAndFiles(t, epmd.Process.Pid)
	checkAtMost(t, "a thousand nodes", mib-idleMiB, table[1][1])
	if files -= idleFiles; files < 1000 {
		t.Errorf("a thousand nodes: %d files, want at least 1000", files)
	}
	t.Logf("idle: %d MiB, %d files; a thousand nodes: %d MiB and %d files more", idleMiB, idleFiles, mib-idleMiB, files)
}

// registerNode registers a name until the test ends.
func registerNode(t *testing.T, addr, name string) {
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

// memoryAndFiles returns the resident memory of a process in MiB and its number of open files.
func memoryAndFiles(t *testing.T, pid int) (mib, files int) {
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

// checkAtMost checks that got is not more than the number at the beginning of the cell.
func checkAtMost(t *testing.T, what string, got int, cell string) {
	t.Helper()
	var most int
	if _, err := fmt.Sscan(cell, &most); err != nil {
		t.Fatalf("%q: %v", cell, err)
	}
	if got > most {
		t.Errorf("%s: %d, but the page has %s", what, got, cell)
	}
}
