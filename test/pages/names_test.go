package pages

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func source(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// all gives the first group of each match, once, sorted.
func all(pattern, text string) (list []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func differ(t *testing.T, what string, inPages, inCode []string) {
	t.Helper()
	for _, name := range inPages {
		if !slices.Contains(inCode, name) {
			t.Errorf("%s `%s` is in a page and not in the programs", what, name)
		}
	}
	for _, name := range inCode {
		if !slices.Contains(inPages, name) {
			t.Errorf("%s `%s` is in the programs and in no page", what, name)
		}
	}
	if len(inCode) == 0 {
		t.Errorf("no %s found in the programs: are they read as they should be?", what)
	}
}

// keys are those of handover_config.erl.
func keys(t *testing.T) []string {
	t.Helper()
	_, list, _ := strings.Cut(source(t, "erl/src/handover_config.erl"), "-define(KEYS, [")
	list, _, _ = strings.Cut(list, "]).")
	return all(`\{(\w+), `, list)
}

// environment are the variables of handover's that the programs read, those of
// scripts and tests included.
func environment(t *testing.T) (names []string) {
	t.Helper()
	for _, key := range keys(t) {
		names = append(names, "HANDOVER_"+strings.ToUpper(key))
	}
	for _, path := range glob(t, "scripts/*.sh", "test/*.sh", "test/*/*.sh", ".ci/run", "ct/*.sh", "erl/rebar.config", "rebar.config") {
		names = append(names, all(`\b(HANDOVER_[A-Z_]+)\b`, source(t, path))...)
	}
	return names
}

// TestKeys: each key is in the table, and no other is used on any page.
func TestKeys(t *testing.T) {
	var documented []string
	for _, row := range rows(load(t, "docs/CONFIGURATION.md").section(t, "Keys")) {
		documented = append(documented, quoted(row[0])...)
	}
	slices.Sort(documented)
	differ(t, "key", slices.Compact(documented), keys(t))
	known := environment(t)
	for _, p := range append(manual(t), load(t, "CONTRIBUTING.md")) {
		for _, code := range p.codes() {
			for _, key := range all(`-handover (\w+)`, code) {
				if !slices.Contains(keys(t), key) {
					t.Errorf("%s: -handover %s: no such key", p.path, key)
				}
			}
			for _, name := range all(`\b(HANDOVER_[A-Z_]+)\b`, code) {
				if isMessage := strings.HasPrefix(name, "HANDOVER_RE"); !isMessage && !slices.Contains(known, name) {
					t.Errorf("%s: nothing reads the variable %s", p.path, name)
				}
			}
		}
	}
}

// TestMake: every make target of a page is in the Makefile.
func TestMake(t *testing.T) {
	targets := all(`(?m)^([a-z]+):`, source(t, "Makefile"))
	for _, p := range append(manual(t), load(t, "CONTRIBUTING.md")) {
		for _, code := range p.codes() {
			for _, target := range all(`^(?:sudo )?make ([a-z]+)`, code) {
				if !slices.Contains(targets, target) {
					t.Errorf("%s: make %s: no such target", p.path, target)
				}
			}
		}
	}
}
