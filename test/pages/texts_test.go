package pages

import (
	"go/scanner"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// literals are the texts in the sources, by file.
func literals(t *testing.T) (list []string) {
	t.Helper()
	for _, path := range glob(t, "go/cmd/*/*.go", "go/internal/*/*.go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		var s scanner.Scanner
		src := []byte(source(t, path))
		s.Init(token.NewFileSet().AddFile(path, -1, len(src)), src, nil, 0)
		for _, tok, lit := s.Scan(); tok != token.EOF; _, tok, lit = s.Scan() {
			if text, err := strconv.Unquote(lit); tok == token.STRING && err == nil {
				list = append(list, text)
			}
		}
	}
	for _, path := range glob(t, "erl/src/*.erl") {
		list = append(list, erlang(source(t, path))...)
	}
	return list
}

// erlang gives the strings of a module; those that stand side by side are one. Atoms
// too: reasons are printed as they are.
func erlang(src string) (list []string) {
	src = regexp.MustCompile(`(?m)^\s*%.*$`).ReplaceAllString(src, "")
	src = regexp.MustCompile(`"\s*\n\s*"`).ReplaceAllString(src, "")
	return append(all(`"((?:[^"\\]|\\.)*)"`, src), all(`\b([a-z]+_[a-z_]+)\b`, src)...)
}

// TestTexts: what the tables say that the programs say, they do say, piece by
// piece between the …
func TestTexts(t *testing.T) {
	said := literals(t)
	checked := 0
	nodes, _, epmd := tables(t)
	for _, row := range append(rows(nodes), rows(epmd)...) {
		texts := quoted(row[0])
		if reason := regexp.MustCompile("^`[a-z_]+`$"); reason.MatchString(row[0]) && len(row) == 3 {
			texts = append(texts, quoted(row[1])...)
		}
		if len(texts) == 0 {
			t.Errorf("a row without a text: %v", row)
		}
		for _, text := range texts {
			for _, piece := range strings.Split(text, "…") {
				piece = strings.TrimSpace(piece)
				if len(piece) < 4 { // "ms", ".", ")"
					continue
				}
				checked++
				if !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, piece) }) {
					t.Errorf("no program says %q", piece)
				}
			}
		}
	}
	if checked < 60 {
		t.Errorf("only %d texts found", checked)
	}
}

// tables are those of docs/OPERATIONS.md's troubleshooting: what nodes say, how
// they fail to start (TestStarts has that), what epmd says.
func tables(t *testing.T) (nodes, failing, epmd string) {
	t.Helper()
	section := load(t, "docs/OPERATIONS.md").section(t, "Troubleshooting")
	nodes, failing, ok1 := strings.Cut(section, "\nWhy a node does not start")
	failing, epmd, ok2 := strings.Cut(failing, "\nWhat epmd says")
	if !ok1 || !ok2 {
		t.Fatal("not the tables that were expected")
	}
	return nodes, failing, epmd
}

// TestEvents: each event of a node has a row, and each reason with its text; no row
// has another one. docs/CONFIGURATION.md's table has the same events.
func TestEvents(t *testing.T) {
	module := source(t, "erl/src/handover_log.erl")
	_, kinds, _ := strings.Cut(source(t, "erl/src/handover_event.erl"), "-type event() ::")
	kinds, _, _ = strings.Cut(kinds, ".")
	events := all(`(\w+)`, kinds)
	reasons := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^explain\((\w+)\) -> "(.*)";`).FindAllStringSubmatch(module, -1) {
		reasons[m[1]] = m[2]
	}
	var inTrouble, withReason []string
	nodes, _, _ := tables(t)
	for _, row := range rows(nodes) {
		name := strings.Trim(row[0], "`")
		switch text, isReason := reasons[name]; {
		case isReason:
			withReason = append(withReason, name)
			if row[1] != "`"+text+"`" {
				t.Errorf("%s is explained as %q, not %s", name, text, row[1])
			}
		case len(row) == 3:
			inTrouble = append(inTrouble, quoted(row[1])...)
		}
	}
	var known []string
	for reason := range reasons {
		known = append(known, reason)
	}
	differ(t, "reason", withReason, known)
	differ(t, "event (OPERATIONS.md)", inTrouble, events)
	var inConfiguration []string
	for _, row := range rows(load(t, "docs/CONFIGURATION.md").section(t, "Events")) {
		inConfiguration = append(inConfiguration, quoted(row[0])...)
	}
	differ(t, "event (CONFIGURATION.md)", inConfiguration, events)
}
