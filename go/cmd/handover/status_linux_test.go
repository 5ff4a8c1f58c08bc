package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"handover/go/internal/portproto"
	epmdstatus "handover/go/internal/status"
	"handover/go/internal/testkit"
)

// TestStatus: `handover status` prints what the programs did. The handover to an unknown name is
// the carrier's request that finds out which kind of EPMD it is.
func TestStatus(t *testing.T) {
	port := testkit.FreePort(t)
	ask := func(port string, args ...string) (string, error) {
		cmd := exec.Command(built(t, "handover"), append([]string{"status"}, args...)...)
		cmd.Env = append(os.Environ(), "ERL_EPMD_PORT="+port)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	here := fmt.Sprint(port)
	if out, err := ask(here); err == nil || !strings.HasPrefix(out, "handover: cannot connect to the local epmd: ") {
		t.Errorf("without an EPMD: %q, %v", out, err)
	}
	if out, err := ask("x"); err == nil || out != "handover: ERL_EPMD_PORT needs a number from 1 to 65535, not \"x\"\n" {
		t.Errorf("a bad port: %q, %v", out, err)
	}
	if out, err := ask(here, "--xml"); err == nil || out != usage {
		t.Errorf("a bad option: %q, %v", out, err)
	}
	startEPMD(t, port)
	n := startNode(t, "")
	n.register(port)
	for i := range 3 {
		handOver(t, n, port, i)
	}
	var s epmdstatus.Status
	testkit.WaitFor(t, "three acknowledged handovers", func() bool {
		out, err := ask(here, "--json")
		if err != nil || json.Unmarshal([]byte(out), &s) != nil {
			t.Fatalf("%q, %v", out, err)
		}
		return s.Handovers["ok"] == 3
	})
	if s.Channels.Open != 1 || s.HandoverSeconds.Count() != 3 || s.HandoverSeconds.Sum <= 0 || len(s.Nodes) != 1 || s.Nodes[0].Channel != "open" {
		t.Errorf("%+v", s)
	}
	if out, err := ask(here); err != nil || !strings.Contains(out, "handovers    1 no_such_node, 3 ok\n             half within ") {
		t.Errorf("%q, %v", out, err)
	}
	n.say(portproto.Stop{})
	if err := n.cmd.Wait(); err != nil {
		t.Errorf("after stop: %v", err)
	}
}
