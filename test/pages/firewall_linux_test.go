package pages

import (
	"os/exec"
	"strings"
	"testing"
)

// onlyBlock returns the one code block of the language in docs/OPERATIONS.md.
func onlyBlock(t *testing.T, language string) (found block) {
	t.Helper()
	n := 0
	for _, b := range loadPage(t, "docs/OPERATIONS.md").codeBlocks() {
		if b.is(language) {
			found, n = b, n+1
		}
	}
	if n != 1 {
		t.Fatalf("docs/OPERATIONS.md has %d blocks of %s, want one", n, language)
	}
	return found
}

// TestNftables loads the nftables rules of docs/OPERATIONS.md on both hosts.
func TestNftables(t *testing.T) {
	rules := onlyBlock(t, "nft").text
	testFirewall(t, func(h *hosts, host int) { h.mustRun(t, host, rules, "nft", "-f", "-") })
}

// TestIptables loads the iptables rules of docs/OPERATIONS.md on both hosts.
func TestIptables(t *testing.T) {
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skipf("skipped: %v (Debian: apt install iptables)", err)
	}
	rules := onlyBlock(t, "iptables").text
	testFirewall(t, func(h *hosts, host int) { h.mustRun(t, host, rules, "sh", "-eu") })
}

// testFirewall checks rules that loadRules loads on a host. Without them, nodes without handover connect, so it is the rules that
// block them later. With the rules, EPMD still answers, these nodes cannot connect, and nodes with handover can, over IPv4 and
// IPv6.
func testFirewall(t *testing.T, loadRules func(h *hosts, host int)) {
	h := newHosts(t)
	for host := range 2 {
		h.mustRun(t, 1+host, "", "nft", "flush", "ruleset")
		h.mustRun(t, 1+host, "", "epmd", "-daemon")
	}
	stock := []string{"-start_epmd", "false", "-kernel", "net_setuptime", "3"}
	h.startNode(t, 2, "stock", stock...)
	h.checkPing(t, "stock@host2", "pong", stock...)

	for host := range 2 {
		loadRules(h, 1+host)
	}
	names := h.mustRun(t, 1, "", "erl", "-noinput", "-eval", `{ok, Names} = erl_epmd:names("host2"), io:format("~p", [Names]), halt().`)
	if !strings.Contains(names, `"stock"`) {
		t.Errorf("EPMD cannot be reached through these rules: %s", names)
	}
	h.checkPing(t, "stock@host2", "pang", stock...)
	h.startNode(t, 2, "n2", handoverArgs()...)
	h.checkPing(t, "n2@host2", "pong", handoverArgs("-handover", "fallback", "false")...)
	if out, err := h.run(t, 1, "", "cat", "/proc/net/if_inet6"); err != nil || out == "" {
		t.Log("IPv6 is not tested: this kernel has none")
		return
	}
	h.startNode(t, 2, "n6", "-proto_dist", "handover_tcp6", "-start_epmd", "false")
	h.checkPing(t, "n6@host2", "pong", "-proto_dist", "handover_tcp6", "-start_epmd", "false", "-handover", "fallback", "false")
}
