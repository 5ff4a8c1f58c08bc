package pages

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// readSource returns the text of a file of the repository.
func readSource(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// allMatches returns the first group of each match, sorted and without duplicates.
func allMatches(pattern, text string) (list []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// compareNames fails the test if the pages and the programs do not have the same names.
func compareNames(t *testing.T, what string, inPages, inCode []string) {
	t.Helper()
	for _, name := range inPages {
		if !slices.Contains(inCode, name) {
			t.Errorf("%s `%s` is in a page but not in the programs", what, name)
		}
	}
	for _, name := range inCode {
		if !slices.Contains(inPages, name) {
			t.Errorf("%s `%s` is in the programs but in no page", what, name)
		}
	}
	if len(inCode) == 0 {
		t.Errorf("no %s found in the programs; is this test wrong?", what)
	}
}

// configKeys returns the configuration keys in handover_config.erl.
func configKeys(t *testing.T) []string {
	t.Helper()
	_, list, _ := strings.Cut(readSource(t, "erl/src/handover_config.erl"), "-define(KEYS, [")
	list, _, _ = strings.Cut(list, "]).")
	return allMatches(`\{(\w+), `, list)
}

// environmentVariables returns the variables HANDOVER_… that the application, the scripts or the tests read.
func environmentVariables(t *testing.T) (names []string) {
	t.Helper()
	for _, key := range configKeys(t) {
		names = append(names, "HANDOVER_"+strings.ToUpper(key))
	}
	for _, path := range findFiles(t, "scripts/*.sh", "test/*.sh", "test/*/*.sh", ".ci/run", "ct/*.sh", "erl/rebar.config", "rebar.config") {
		names = append(names, allMatches(`\b(HANDOVER_[A-Z_]+)\b`, readSource(t, path))...)
	}
	return names
}

// TestKeys checks that the table of docs/CONFIGURATION.md has each key, and that no page uses an unknown key or variable.
func TestKeys(t *testing.T) {
	var documented []string
	for _, row := range tableRows(loadPage(t, "docs/CONFIGURATION.md").section(t, "Keys")) {
		documented = append(documented, codeSpans(row[0])...)
	}
	slices.Sort(documented)
	compareNames(t, "key", slices.Compact(documented), configKeys(t))
	known := environmentVariables(t)
	for _, p := range append(manualPages(t), loadPage(t, "CONTRIBUTING.md")) {
		for _, code := range p.codeLines() {
			for _, key := range allMatches(`-handover (\w+)`, code) {
				if !slices.Contains(configKeys(t), key) {
					t.Errorf("%s: -handover %s: unknown key", p.path, key)
				}
			}
			for _, name := range allMatches(`\b(HANDOVER_[A-Z_]+)\b`, code) {
				if isMessage := strings.HasPrefix(name, "HANDOVER_RE"); !isMessage && !slices.Contains(known, name) {
					t.Errorf("%s: nothing reads the variable %s", p.path, name)
				}
			}
		}
	}
}

// TestMake checks that each make target in a page is in the Makefile.
func TestMake(t *testing.T) {
	targets := allMatches(`(?m)^([a-z]+):`, readSource(t, "Makefile"))
	for _, p := range append(manualPages(t), loadPage(t, "CONTRIBUTING.md")) {
		for _, code := range p.codeLines() {
			for _, target := range allMatches(`^(?:sudo )?make ([a-z]+)`, code) {
				if !slices.Contains(targets, target) {
					t.Errorf("%s: make %s: unknown target", p.path, target)
				}
			}
		}
	}
}
