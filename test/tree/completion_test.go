package tree

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// namesAnswer is what `epmd -names` prints on a host with the nodes n1 and n2, and with hostile names: some would create the
// file if a shell evaluated them, one ends in a letter that not every program takes for one, and one looks like an option.
func namesAnswer(file string) string {
	lines := []string{"epmd: up and running on port 4369 with data:"}
	for i, name := range []string{"n1", "n2", "n$(touch${IFS}" + file + ")", "n`touch${IFS}" + file + "`", "n3;touch${IFS}" + file, "n*", "n4\u00e9", "-n5"} {
		lines = append(lines, fmt.Sprintf("name %s at port %d", name, i+1))
	}
	return strings.Join(lines, "\n")
}

// checkNotEvaluated fails the test if a hostile name of namesAnswer was evaluated, which has created the file.
func checkNotEvaluated(t *testing.T, file string) {
	t.Helper()
	if _, err := os.Stat(file); err == nil {
		t.Error("a node's name was run as a command")
		_ = os.Remove(file)
	}
}

// completeInBash returns what bash offers when the line was typed. words is the line as bash splits it: it splits at @ too. epmd
// -names prints namesAnswer, and the host has a long and a short name. If program is not a path, it is that epmd, which knows
// only -names.
func completeInBash(t *testing.T, program, line string, words ...string) []string {
	t.Helper()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skipf("skipped: %v", err)
	}
	file := filepath.Join(t.TempDir(), "evaluated")
	script := `NAMES=$4; epmd() { printf '%s\n' "$NAMES"; }
hostname() { [ "$1" = -f ] && echo h.example || echo h; }
timeout() { shift; "$@"; }
. "$1"; program=$2; COMP_LINE=$3; COMP_POINT=${#3}; shift 4
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_WORDBREAKS=$' \t\n"\'@><=;|&(:'
_${program##*/} "$program" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" 
printf '%s\n' "${COMPREPLY[@]}"`
	args := append([]string{"-c", script, "bash", "packaging/completions/bash/" + words[0], program, line, namesAnswer(file)}, words...)
	cmd := exec.Command("bash", args...)
	cmd.Dir = top
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	checkNotEvaluated(t, file)
	return strings.Fields(string(out))
}

// TestBashCompletion checks that bash offers the commands and options of the usage texts, and the nodes that epmd lists.
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
		if got := completeInBash(t, "./priv/"+words[0], line, words...); !slices.Equal(got, want) {
			t.Errorf("%q: %q; want %q", line, got, want)
		}
	}
	handover := readUsage(t, "handover")
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

	flags := readUsage(t, "epmd").flags
	delete(flags, "--json") // only after -status
	check(sorted(flags), "epmd -", "epmd", "-")
	check([]string{"--json"}, "epmd -status ", "epmd", "-status", "")
	check([]string{"README.md"}, "epmd -config README.m", "epmd", "-config", "README.m")
	check(nil, "epmd -port ", "epmd", "-port", "")
	if got := completeInBash(t, "epmd", "epmd -stop ", "epmd", "-stop", ""); !slices.Equal(got, []string{"n1", "n2"}) {
		t.Errorf("epmd -stop: %q", got)
	}
}

// TestZshCompletion checks that zsh can parse the completions, and that they do not evaluate names of nodes.
func TestZshCompletion(t *testing.T) {
	if _, err := exec.LookPath("zsh"); err != nil {
		t.Skipf("skipped: %v (Debian: apt install zsh)", err)
	}
	scripts, err := filepath.Glob(top + "/packaging/completions/zsh/_*")
	if err != nil || len(scripts) != 2 {
		t.Fatal(scripts, err)
	}
	for _, script := range scripts {
		if out, err := exec.Command("zsh", "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", script, err, out)
		}
		text, err := os.ReadFile(script)
		if want := "#compdef " + strings.TrimPrefix(filepath.Base(script), "_") + "\n"; err != nil || !strings.HasPrefix(string(text), want) {
			t.Errorf("%s: the first line is not %q, %v", script, want, err)
		}
	}
	for _, c := range []struct {
		script, words string
		want          []string
	}{
		{"_epmd", "epmd -stop ''", []string{"n1", "n2"}},
		{"_handover", "./priv/handover doctor ''", []string{"n1@h.example", "n2@h.example", "n1@h", "n2@h"}},
	} {
		file := filepath.Join(t.TempDir(), "evaluated")
		cmd := exec.Command("zsh", "-fc", `NAMES=$2; epmd() { print -rl -- $NAMES; }
hostname() { [ "$1" = -f ] && echo h.example || echo h; }
timeout() { shift; "$@"; }
compadd() { print -rl -- "${@:2}"; }
words=(`+c.words+`); CURRENT=3; . "$1"`, "zsh", "packaging/completions/zsh/"+c.script, namesAnswer(file))
		cmd.Dir = top
		if out, err := cmd.CombinedOutput(); err != nil || !slices.Equal(strings.Fields(string(out)), c.want) {
			t.Errorf("%s: %q, %v", c.words, out, err)
		}
		checkNotEvaluated(t, file)
	}
}
