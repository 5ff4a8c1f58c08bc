package pages

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"handover/go/internal/testkit"
)

// TestRollout tries every cell of docs/OPERATIONS.md's table of who reaches whom
// how, and between its rows what a move does: one epmd takes the other's place and
// the nodes that run register again.
func TestRollout(t *testing.T) {
	table := rows(load(t, "docs/OPERATIONS.md").section(t, "Moving a cluster, node by node"))
	if len(table) != 2 {
		t.Fatalf("a table of %d rows", len(table))
	}
	stockEPMD, err := exec.LookPath("epmd")
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	h := newHosts(t)
	for host := range 2 {
		h.must(t, 1+host, "", "nft", "flush", "ruleset")
	}
	stock := []string{"-start_epmd", "false"}
	ours := overHandover("-handover", "start_epmd", "false")
	handovers, column := absolute(t, "priv/epmd"), 1
	h.must(t, 1, "", handovers, "-daemon")
	h.daemon(t, stockEPMD)
	h.node(t, 2, "stock", stock...)
	h.node(t, 2, "ours", ours...)
	for _, epmd := range []string{stockEPMD, handovers} {
		if epmd != stockEPMD {
			h.must(t, 2, "", "sh", "-c", "kill $(cat epmd.pid)")
			h.daemon(t, epmd)
			testkit.WaitFor(t, "the nodes' registration with the new epmd", func() bool {
				names, _ := h.run(t, 2, "", "epmd", "-names")
				return strings.Contains(names, "name stock ") && strings.Contains(names, "name ours ")
			})
		}
		for _, to := range []string{"stock@host2", "ours@host2"} {
			for i, from := range [][]string{stock, ours} {
				if got, want := h.linkPort(t, to, from...), table[i][column]; got != want {
					t.Errorf("%v to %s at %s: %s, the table says %s", from, to, epmd, got, want)
				}
			}
			column++
		}
	}
}

// daemon starts an epmd on host2 whose pid is in epmd.pid.
func (h *hosts) daemon(t *testing.T, epmd string) {
	t.Helper()
	h.must(t, 2, "", "sh", "-c", epmd+" </dev/null >epmd.log 2>&1 & echo $! >epmd.pid")
	testkit.WaitFor(t, epmd, func() bool { _, err := h.run(t, 2, "", "epmd", "-names"); return err == nil })
}

// linkPort is where the link from a node on host1 goes: to 4369, or to the node's
// own port.
func (h *hosts) linkPort(t *testing.T, to string, args ...string) string {
	t.Helper()
	eval := fmt.Sprintf(`pong = net_adm:ping('%[1]s'), {ok, {_, Port}} = inet:peername(proplists:get_value('%[1]s', erlang:system_info(dist_ctrl))), `+
		`io:format("~nport ~b", [Port]), halt().`, to)
	out := h.must(t, 1, "", append([]string{"erl", "-noinput", "-sname", "n1@host1", "-eval", eval}, args...)...)
	_, port, _ := strings.Cut(out, "\nport ")
	switch port {
	case "4369":
		return port
	case "":
		return out
	}
	return "own"
}
