package pages

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestStarts: nodes that can't start say what docs/OPERATIONS.md has of them.
func TestStarts(t *testing.T) {
	_, failing, _ := tables(t)
	h := newHosts(t)
	noEPMD := filepath.Join(h.dir, "lib")
	h.must(t, 1, "", "sh", "-ec", "mkdir lib; cd lib; mkdir -p handover/priv; "+
		"cp -r "+absolute(t, "_build/default/lib/handover/ebin")+" handover; cp "+absolute(t, "priv/handover")+" handover/priv")
	var said strings.Builder
	// the first, while there is no EPMD
	said.WriteString(h.start(t, "epmd_not_started", []string{"ERL_LIBS=" + noEPMD}))
	h.must(t, 1, "", "epmd", "-daemon")
	h.background(t, h.command(t, 1, append([]string{"erl", "-noinput", "-sname", "n1@host1"}, overHandover()...)...))
	h.registered(t, 1, "n1")
	said.WriteString(h.start(t, "seems to be in use", nil))
	said.WriteString(h.start(t, "unknown key", nil, "-handover", "lisen", "false"))
	said.WriteString(h.start(t, "it must be", []string{"HANDOVER_LISTEN=maybe"}))
	for _, row := range rows(failing) {
		for _, text := range quoted(row[0]) {
			for _, piece := range strings.Split(text, "…") {
				if !strings.Contains(said.String(), strings.TrimSpace(piece)) {
					t.Errorf("no node says %q; they said:\n%s", piece, said.String())
				}
			}
		}
	}
}

// start starts the node n1 on host1, which ends as it can't start, and returns what
// it says; text is among it.
func (h *hosts) start(t *testing.T, text string, env []string, args ...string) string {
	t.Helper()
	cmd := h.command(t, 1, append(append([]string{"erl", "-noinput", "-sname", "n1@host1"}, overHandover()...), args...)...)
	cmd.Env = append(append(cmd.Env, "ERL_CRASH_DUMP=/dev/null"), env...)
	said, err := output(t, cmd, "")
	if err == nil || !strings.Contains(said, text) {
		t.Errorf("%v, %v: %v, without %q:\n%s", env, args, err, text, said)
	}
	return said
}
