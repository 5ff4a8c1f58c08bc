package pages

import (
	"os/exec"
	"strings"
	"testing"
)

// theBlock is the only one of that language in docs/OPERATIONS.md.
func theBlock(t *testing.T, language string) (found block) {
	t.Helper()
	n := 0
	for _, b := range load(t, "docs/OPERATIONS.md").blocks() {
		if b.is(language) {
			found, n = b, n+1
		}
	}
	if n != 1 {
		t.Fatalf("docs/OPERATIONS.md has %d blocks of %s, not one", n, language)
	}
	return found
}

// TestNftables and TestIptables load the rules of docs/OPERATIONS.md on both hosts.
func TestNftables(t *testing.T) {
	rules := theBlock(t, "nft").text
	firewall(t, func(h *hosts, host int) { h.must(t, host, rules, "nft", "-f", "-") })
}

func TestIptables(t *testing.T) {
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skipf("skipped: %v (Debian: apt install iptables)", err)
	}
	rules := theBlock(t, "iptables").text
	firewall(t, func(h *hosts, host int) { h.must(t, host, rules, "sh", "-eu") })
}

// firewall: without rules the stock nodes connect, which shows that it is the
// rules that keep them apart; with them EPMD still answers, stock's port does not,
// and handover connects, over IPv4 and IPv6.
func firewall(t *testing.T, load func(h *hosts, host int)) {
	h := newHosts(t)
	for host := range 2 {
		h.must(t, 1+host, "", "nft", "flush", "ruleset")
		h.must(t, 1+host, "", "epmd", "-daemon")
	}
	stock := []string{"-start_epmd", "false", "-kernel", "net_setuptime", "3"}
	h.node(t, 2, "stock", stock...)
	h.ping(t, "stock@host2", "pong", stock...)

	for host := range 2 {
		load(h, 1+host)
	}
	names := h.must(t, 1, "", "erl", "-noinput", "-eval", `{ok, Names} = erl_epmd:names("host2"), io:format("~p", [Names]), halt().`)
	if !strings.Contains(names, `"stock"`) {
		t.Errorf("EPMD behind these rules: %s", names)
	}
	h.ping(t, "stock@host2", "pang", stock...)
	h.node(t, 2, "n2", overHandover()...)
	h.ping(t, "n2@host2", "pong", overHandover("-handover", "fallback", "false")...)
	if out, err := h.run(t, 1, "", "cat", "/proc/net/if_inet6"); err != nil || out == "" {
		t.Log("no IPv6 in this kernel")
		return
	}
	h.node(t, 2, "n6", "-proto_dist", "handover_tcp6", "-start_epmd", "false")
	h.ping(t, "n6@host2", "pong", "-proto_dist", "handover_tcp6", "-start_epmd", "false", "-handover", "fallback", "false")
}
