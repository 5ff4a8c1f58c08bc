package pages

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestStarts makes nodes fail to start and checks that they print the texts in docs/OPERATIONS.md.
func TestStarts(t *testing.T) {
	_, failing, _ := troubleshootingTables(t)
	h := newHosts(t)
	noEPMD := filepath.Join(h.dir, "lib")
	h.mustRun(t, 1, "", "sh", "-ec", "mkdir lib; cd lib; mkdir -p handover/priv; "+
		"cp -r "+absolutePath(t, "_build/default/lib/handover/ebin")+" handover; cp "+absolutePath(t, "priv/handover")+" handover/priv")
	var printed strings.Builder
	// first, while no EPMD is running
	printed.WriteString(h.startFailing(t, "epmd_not_started", []string{"ERL_LIBS=" + noEPMD}))
	h.mustRun(t, 1, "", "epmd", "-daemon")
	h.startBackground(t, h.command(t, 1, append([]string{"erl", "-noinput", "-sname", "n1@host1"}, handoverArgs()...)...))
	h.waitRegistered(t, 1, "n1")
	printed.WriteString(h.startFailing(t, "seems to be in use", nil))
	printed.WriteString(h.startFailing(t, "unknown key", nil, "-handover", "lisen", "false"))
	printed.WriteString(h.startFailing(t, "it must be", []string{"HANDOVER_LISTEN=maybe"}))
	for _, row := range tableRows(failing) {
		for _, text := range codeSpans(row[0]) {
			for _, piece := range strings.Split(text, "…") {
				if !strings.Contains(printed.String(), strings.TrimSpace(piece)) {
					t.Errorf("no node printed %q; the output was:\n%s", piece, printed.String())
				}
			}
		}
	}
}

// startFailing starts the node n1 on host1, which must fail and print text, and returns its output.
func (h *hosts) startFailing(t *testing.T, text string, env []string, args ...string) string {
	t.Helper()
	cmd := h.command(t, 1, append(append([]string{"erl", "-noinput", "-sname", "n1@host1"}, handoverArgs()...), args...)...)
	cmd.Env = append(append(cmd.Env, "ERL_CRASH_DUMP=/dev/null"), env...)
	printed, err := runCommand(t, cmd, "")
	if err == nil || !strings.Contains(printed, text) {
		t.Errorf("%v, %v: error %v, and the output does not contain %q:\n%s", env, args, err, text, printed)
	}
	return printed
}
