package pages

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"handover/go/internal/testkit"
)

// TestRollout tests each cell of the table in docs/OPERATIONS.md about which nodes reach each other, and through which port.
// Between the two kinds of EPMD it does what the move of a host does: handover's epmd replaces OTP's, and the running nodes
// register again.
func TestRollout(t *testing.T) {
	table := tableRows(loadPage(t, "docs/OPERATIONS.md").section(t, "Moving a cluster, node by node"))
	if len(table) != 2 {
		t.Fatalf("the table has %d rows, want 2", len(table))
	}
	stockEPMD, err := exec.LookPath("epmd")
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	h := newHosts(t)
	for host := range 2 {
		h.mustRun(t, 1+host, "", "nft", "flush", "ruleset")
	}
	stock := []string{"-start_epmd", "false"}
	ours := handoverArgs("-handover", "start_epmd", "false")
	handovers, column := absolutePath(t, "priv/epmd"), 1
	h.mustRun(t, 1, "", handovers, "-daemon")
	h.startEPMD(t, stockEPMD)
	h.startNode(t, 2, "stock", stock...)
	h.startNode(t, 2, "ours", ours...)
	for _, epmd := range []string{stockEPMD, handovers} {
		if epmd != stockEPMD {
			h.mustRun(t, 2, "", "sh", "-c", "kill $(cat epmd.pid)")
			h.startEPMD(t, epmd)
			testkit.WaitFor(t, "the nodes' registration with the new epmd", func() bool {
				names, _ := h.run(t, 2, "", "epmd", "-names")
				return strings.Contains(names, "name stock ") && strings.Contains(names, "name ours ")
			})
		}
		for _, to := range []string{"stock@host2", "ours@host2"} {
			for i, from := range [][]string{stock, ours} {
				if got, want := h.linkPort(t, to, from...), table[i][column]; got != want {
					t.Errorf("from %v to %s with %s: port %s, but the table has %s", from, to, epmd, got, want)
				}
			}
			column++
		}
	}
}

// startEPMD starts an epmd on host2 and writes its pid to epmd.pid.
func (h *hosts) startEPMD(t *testing.T, epmd string) {
	t.Helper()
	h.mustRun(t, 2, "", "sh", "-c", epmd+" </dev/null >epmd.log 2>&1 & echo $! >epmd.pid")
	testkit.WaitFor(t, epmd, func() bool { _, err := h.run(t, 2, "", "epmd", "-names"); return err == nil })
}

// linkPort connects a node on host1 to the node and returns the remote port of the link: "4369", or "own" for the node's own
// port. If the connect fails, it returns the output.
func (h *hosts) linkPort(t *testing.T, to string, args ...string) string {
	t.Helper()
	eval := fmt.Sprintf(`pong = net_adm:ping('%[1]s'), {ok, {_, Port}} = inet:peername(proplists:get_value('%[1]s', erlang:system_info(dist_ctrl))), `+
		`io:format("~nport ~b", [Port]), halt().`, to)
	out := h.mustRun(t, 1, "", append([]string{"erl", "-noinput", "-sname", "n1@host1", "-eval", eval}, args...)...)
	_, port, _ := strings.Cut(out, "\nport ")
	switch port {
	case "4369":
		return port
	case "":
		return out
	}
	return "own"
}
