package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"handover/go/internal/portproto"
	"handover/go/internal/testkit"
)

// TestUpgrade: a carrier does not notice an upgrade of its EPMD, and handovers succeed after it
// and during it.
func TestUpgrade(t *testing.T) {
	port := testkit.FreePort(t)
	epmd := startEPMD(t, port)
	n := startNode(t, "")
	n.register(port)
	handOver(t, n, port, 0)
	for i := range 5 {
		upgraded := make(chan error, 1)
		go func() {
			out, err := exec.Command(built(t, "epmd"), "-port", fmt.Sprint(port), "-upgrade").CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			upgraded <- err
		}()
		for j, done := 0, false; !done; j++ {
			select {
			case err := <-upgraded:
				if done = true; err != nil {
					t.Fatal(err)
				}
			default:
			}
			handOver(t, n, port, i+j%100)
		}
	}
	if err := epmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		handOver(t, n, port, i)
	}
	for {
		select {
		case e := <-n.events:
			switch e.(type) {
			case portproto.EPMDDown, portproto.EPMDUp, portproto.Registered:
				t.Errorf("the node notices: %#v", e)
			}
			continue
		default:
		}
		break
	}
}

// TestSandbox: with the restrictions of packaging/systemd/epmd.service, set by hand, nodes of
// another user still get their connections.
func TestSandbox(t *testing.T) {
	needRoot(t)
	port := testkit.FreePort(t)
	sandbox := `for m in $(cut -d " " -f 5 /proc/self/mountinfo); do
		case $m in /proc*|/dev*|/sys*) ;; *) mount -o remount,bind,ro "$m" || exit 1 ;; esac
	done
	! touch /tmp/handover-test-ro 2>/dev/null || exit 2
	exec setpriv --reuid 64501 --regid 64501 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$0" "$@"`
	var log strings.Builder
	cmd := exec.Command("unshare", "--mount", "sh", "-c", sandbox, built(t, "epmd"), "-port", fmt.Sprint(port), "-address", "127.0.0.1")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	testkit.WaitFor(t, "epmd to listen", func() bool {
		select {
		case err := <-ended:
			if strings.Contains(log.String(), "permission") || strings.Contains(log.String(), "not permitted") {
				t.Skipf("skipped: no mount namespaces here: %s", log.String())
			}
			t.Fatalf("%v: %s", err, log.String())
		default:
		}
		return exec.Command(built(t, "epmd"), "-port", fmt.Sprint(port), "-names").Run() == nil
	})
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)); err != nil ||
		!strings.Contains(string(status), "Uid:\t64501") || !strings.Contains(string(status), "CapBnd:\t0000000000000000") {
		t.Errorf("not in the sandbox: %s, %v", status, err)
	}
	n := startNode(t, "")
	n.register(port)
	handOver(t, n, port, 1)
	out, err := exec.Command("setpriv", "--reuid", "64501", "--clear-groups", built(t, "epmd"), "-port", fmt.Sprint(port), "-upgrade").CombinedOutput()
	if err != nil {
		t.Errorf("-upgrade: %v: %s", err, out)
	}
	handOver(t, n, port, 2)
}
