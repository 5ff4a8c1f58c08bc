package house

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// complete is what a shell offers behind a line that was typed. The words are bash's:
// it splits at @ too. The nodes n1 and n2 run on a host of two names.
func complete(t *testing.T, line string, words ...string) []string {
	t.Helper()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skipf("skipped: %v", err)
	}
	script := `epmd() { printf '%s\n' 'epmd: up and running on port 4369 with data:' 'name n1 at port 1' 'name n2 at port 2'; }
hostname() { [ "$1" = -f ] && echo h.example || echo h; }
timeout() { shift; "$@"; }
. "$1"; program=$2; COMP_LINE=$3; COMP_POINT=${#3}; shift 3
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_WORDBREAKS=$' \t\n"\'@><=;|&(:'
_${program##*/} "$program" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" 
printf '%s\n' "${COMPREPLY[@]}"`
	args := append([]string{"-c", script, "bash", "completions/bash/" + words[0], "./priv/" + words[0], line}, words...)
	cmd := exec.Command("bash", args...)
	cmd.Dir = top
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return strings.Fields(string(out))
}

// TestBashCompletion: commands and options are those of the usage text, whatever it
// says; nodes are those that epmd knows.
func TestBashCompletion(t *testing.T) {
	sorted := func(set map[string]bool) (list []string) {
		for word := range set {
			list = append(list, word)
		}
		slices.Sort(list)
		return list
	}
	check := func(want []string, line string, words ...string) {
		t.Helper()
		if got := complete(t, line, words...); !slices.Equal(got, want) {
			t.Errorf("%q: %q; want %q", line, got, want)
		}
	}
	handover := said(t, "handover")
	check(sorted(handover.commands), "handover ", "handover", "")
	check([]string{"status"}, "handover st", "handover", "st")
	check([]string{"--json"}, "handover status --", "handover", "status", "--")
	check(nil, "handover version ", "handover", "version", "")
	check([]string{"n1@h", "n1@h.example"}, "handover doctor n1", "handover", "doctor", "n1")
	check([]string{"h", "h.example"}, "handover doctor n1@", "handover", "doctor", "n1", "@")
	check([]string{"h.example"}, "handover doctor --json n2@h.", "handover", "doctor", "--json", "n2", "@", "h.")
	if handover.commands["doctor"] {
		check([]string{"--timeout"}, "handover doctor --t", "handover", "doctor", "--t")
	}

	flags := said(t, "epmd").flags
	delete(flags, "--json") // behind -status only
	check(sorted(flags), "epmd -", "epmd", "-")
	check([]string{"--json"}, "epmd -status ", "epmd", "-status", "")
	check([]string{"README.md"}, "epmd -config README.m", "epmd", "-config", "README.m")
	check(nil, "epmd -port ", "epmd", "-port", "")
}

// TestZshCompletion: zsh can read it.
func TestZshCompletion(t *testing.T) {
	if _, err := exec.LookPath("zsh"); err != nil {
		t.Skipf("skipped: %v (Debian: apt install zsh)", err)
	}
	scripts, err := filepath.Glob(top + "/completions/zsh/_*")
	if err != nil || len(scripts) != 2 {
		t.Fatal(scripts, err)
	}
	for _, script := range scripts {
		if out, err := exec.Command("zsh", "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", script, err, out)
		}
		text, err := os.ReadFile(script)
		if want := "#compdef " + strings.TrimPrefix(filepath.Base(script), "_") + "\n"; err != nil || !strings.HasPrefix(string(text), want) {
			t.Errorf("%s: its first line is not %q, %v", script, want, err)
		}
	}
}
