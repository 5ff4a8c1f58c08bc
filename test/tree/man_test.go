package tree

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// told is what a program says of itself, or its man page of it.
type told struct{ commands, flags, variables map[string]bool }

var usages = map[string]*regexp.Regexp{
	// behind a space, a bracket or a bar
	"flags":     regexp.MustCompile(`(?:^|[\s\[|])(--?[a-z][a-z0-9_-]*)`),
	"variables": regexp.MustCompile(`\b([A-Z]+(?:_[A-Z]+)+)\b`),
	"commands":  regexp.MustCompile(`(?m)^(?:usage:|      ) handover ([a-z]+)`),
}

// In mdoc, `Fl -json` is --json. The page's commands of epmd are flags.
var macros = map[string]*regexp.Regexp{
	"flags":     regexp.MustCompile(`\bFl ([a-z0-9_-]+)`),
	"variables": regexp.MustCompile(`\bEv ([A-Z_]+)`),
	"commands":  regexp.MustCompile(`\bCm ([a-z]+)`),
}

func find(text string, patterns map[string]*regexp.Regexp, hyphen string) told {
	set := func(what, prefix string) map[string]bool {
		found := map[string]bool{}
		for _, match := range patterns[what].FindAllStringSubmatch(text, -1) {
			found[prefix+match[1]] = true
		}
		return found
	}
	return told{set("commands", ""), set("flags", hyphen), set("variables", "")}
}

// said runs the built program with a wrong option, which prints its usage.
func said(t *testing.T, program string) told {
	t.Helper()
	path := top + "/priv/" + program
	if _, err := os.Stat(path); err != nil {
		t.Skipf("skipped: not built: %v", err)
	}
	out, err := exec.Command(path, "-wrong").CombinedOutput()
	var exit *exec.ExitError
	_, usage, found := strings.Cut(string(out), "usage: "+program+" ")
	if !errors.As(err, &exit) || !found {
		t.Fatalf("%s -wrong: %v: %s", program, err, out)
	}
	return find("usage: "+program+" "+usage, usages, "")
}

// manPage is what is written in it, but for its comments.
func manPage(t *testing.T, program string) (told, string) {
	t.Helper()
	text, err := os.ReadFile(top + "/packaging/man/" + program + ".1")
	if err != nil {
		t.Fatal(err)
	}
	page := regexp.MustCompile(`(?m)^\.\\".*\n`).ReplaceAllString(string(text), "")
	return find(page, macros, "-"), page
}

// TestManPages: a man page tells what the program's usage tells, and nothing else.
func TestManPages(t *testing.T) {
	for _, program := range []string{"epmd", "handover"} {
		usage := said(t, program)
		page, text := manPage(t, program)
		for what, sets := range map[string][2]map[string]bool{
			"command":              {usage.commands, page.commands},
			"flag":                 {usage.flags, page.flags},
			"environment variable": {usage.variables, page.variables},
		} {
			missing := func(in, from map[string]bool, where string) {
				for word := range in {
					if !from[word] {
						t.Errorf("%s: the %s %s is not in its %s", program, what, word, where)
					}
				}
			}
			missing(sets[0], sets[1], "man page")
			missing(sets[1], sets[0], "usage text")
		}
		if len(usage.flags) == 0 || len(usage.variables) == 0 {
			t.Errorf("%s: no flag or variable found in its usage", program)
		}
		for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "ENVIRONMENT", "SIGNALS", "FILES", "EXIT STATUS", "EXAMPLES", "SEE ALSO"} {
			if !strings.Contains(text, "\n.Sh "+section+"\n") {
				t.Errorf("%s: no section %s", program, section)
			}
		}
	}
}
