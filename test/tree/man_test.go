package tree

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// usageWords are the commands, flags and environment variables in a usage text or a man page.
type usageWords struct{ commands, flags, variables map[string]bool }

// usagePatterns find the words in a usage text.
var usagePatterns = map[string]*regexp.Regexp{
	// after a space, a bracket or a bar
	"flags":     regexp.MustCompile(`(?:^|[\s\[|])(--?[a-z][a-z0-9_-]*)`),
	"variables": regexp.MustCompile(`\b([A-Z]+(?:_[A-Z]+)+)\b`),
	"commands":  regexp.MustCompile(`(?m)^(?:usage:|      ) handover ([a-z]+)`),
}

// manPatterns find the words in a man page. In mdoc, `Fl -json` is --json. The commands of epmd are flags.
var manPatterns = map[string]*regexp.Regexp{
	"flags":     regexp.MustCompile(`\bFl ([a-z0-9_-]+)`),
	"variables": regexp.MustCompile(`\bEv ([A-Z_]+)`),
	"commands":  regexp.MustCompile(`\bCm ([a-z]+)`),
}

// findWords returns what the patterns match in text. It puts hyphen before each flag.
func findWords(text string, patterns map[string]*regexp.Regexp, hyphen string) usageWords {
	set := func(what, prefix string) map[string]bool {
		found := map[string]bool{}
		for _, match := range patterns[what].FindAllStringSubmatch(text, -1) {
			found[prefix+match[1]] = true
		}
		return found
	}
	return usageWords{set("commands", ""), set("flags", hyphen), set("variables", "")}
}

// readUsage returns the words of the usage text, which the built program prints for an unknown option.
func readUsage(t *testing.T, program string) usageWords {
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
	return findWords("usage: "+program+" "+usage, usagePatterns, "")
}

// readManPage returns the words of a man page, and its text without comments.
func readManPage(t *testing.T, program string) (usageWords, string) {
	t.Helper()
	text, err := os.ReadFile(top + "/packaging/man/" + program + ".1")
	if err != nil {
		t.Fatal(err)
	}
	page := regexp.MustCompile(`(?m)^\.\\".*\n`).ReplaceAllString(string(text), "")
	return findWords(page, manPatterns, "-"), page
}

// TestManPages compares each man page with the program's usage text: both have the same commands, flags and variables.
func TestManPages(t *testing.T) {
	for _, program := range []string{"epmd", "handover"} {
		usage := readUsage(t, program)
		page, text := readManPage(t, program)
		for what, sets := range map[string][2]map[string]bool{
			"command":              {usage.commands, page.commands},
			"flag":                 {usage.flags, page.flags},
			"environment variable": {usage.variables, page.variables},
		} {
			checkSubset := func(in, from map[string]bool, where string) {
				for word := range in {
					if !from[word] {
						t.Errorf("%s: the %s %s is not in its %s", program, what, word, where)
					}
				}
			}
			checkSubset(sets[0], sets[1], "man page")
			checkSubset(sets[1], sets[0], "usage text")
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
