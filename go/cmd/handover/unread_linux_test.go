package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// startLimitedEPMD starts an EPMD with the given limit of open files, as a user of its own, and
// waits until it listens. Read the log only after the EPMD has ended.
func startLimitedEPMD(t *testing.T, port uint16, files int, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	args = append([]string{"-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, files), built(t, "epmd"), "-port", fmt.Sprint(port), "-address", "127.0.0.1"}, args...)
	cmd := exec.Command("sh", args...)
	log := new(bytes.Buffer)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: epmdUID, Gid: epmdUID}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill9(cmd) })
	testkit.WaitFor(t, "epmd to listen", func() bool {
		c, err := net.Dial("tcp4", testkit.Loopback(port).String())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return cmd, log
}

// TestTooManyReferences: the kernel limits how many descriptors a user without privileges, here
// EPMD's, has passed that are not read yet. Nodes of app1 that read nothing fill app1's share
// only, however many there are and however long they wait: app2's node gets its connections,
// and the log names app1.
func TestTooManyReferences(t *testing.T) {
	needRoot(t)
	port := testkit.FreePort(t)
	const files = 320
	cmd, log := startLimitedEPMD(t, port, files, "-d")
	socket := epmdproto.NewSocketName()
	ears := startFake(t, app2UID, port, "ears", socket, socket)
	// More in total than the kernel's limit.
	for round := range 4 {
		var waiting []net.Conn
		for i := range 2 {
			name := fmt.Sprintf("deaf%d-%d", round, i)
			socket := epmdproto.NewSocketName()
			startFake(t, app1UID, port, name, socket, socket)
			for range files/4 - 10 {
				waiting = append(waiting, initiateTo(t, port, name))
			}
		}
		c := initiateTo(t, port, "ears")
		testkit.WaitFor(t, "another user's node to get its connection", func() bool { return ears("got", round+1) })
		c.Close()
		// The passed connection stays open, unread by the node; epmd closes its copy.
		testkit.WaitFor(t, "epmd to be done with them", func() bool { return sockets(cmd.Process.Pid) < 30 })
		if last := waiting[len(waiting)-1]; round == 3 {
			answer := make([]byte, 2)
			if _, err := io.ReadFull(last, answer); err != nil || answer[1] != byte(epmdproto.Overloaded) {
				t.Errorf("app1's last: % x, %v", answer, err)
			}
		}
		for _, c := range waiting {
			c.Close()
		}
	}
	kill9(cmd)
	if strings.Contains(log.String(), "too many references") {
		t.Errorf("the kernel's bound was met: %s", log.String())
	}
	if unread := fmt.Sprintf(`"uid":"%d"`, app1UID); !strings.Contains(log.String(), "does not read the connections") || !strings.Contains(log.String(), unread) {
		t.Errorf("app1 is not named: %s", log.String())
	}
}

// sockets returns how many sockets a process has open.
func sockets(pid int) (count int) {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	for _, e := range entries {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name())); err == nil && strings.HasPrefix(to, "socket:") {
			count++
		}
	}
	return count
}
