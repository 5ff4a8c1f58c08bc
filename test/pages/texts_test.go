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

// sourceTexts returns the string literals in the sources of the Go programs and of the Erlang application.
func sourceTexts(t *testing.T) (list []string) {
	t.Helper()
	for _, path := range findFiles(t, "go/cmd/*/*.go", "go/internal/*/*.go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		var s scanner.Scanner
		src := []byte(readSource(t, path))
		s.Init(token.NewFileSet().AddFile(path, -1, len(src)), src, nil, 0)
		for _, tok, lit := s.Scan(); tok != token.EOF; _, tok, lit = s.Scan() {
			if text, err := strconv.Unquote(lit); tok == token.STRING && err == nil {
				list = append(list, text)
			}
		}
	}
	for _, path := range findFiles(t, "erl/src/*.erl") {
		list = append(list, erlangTexts(readSource(t, path))...)
	}
	return list
}

// erlangTexts returns the strings of a module, with adjacent ones joined, and its atoms, because programs print reasons as atoms.
func erlangTexts(src string) (list []string) {
	src = regexp.MustCompile(`(?m)^\s*%.*$`).ReplaceAllString(src, "")
	src = regexp.MustCompile(`"\s*\n\s*"`).ReplaceAllString(src, "")
	return append(allMatches(`"((?:[^"\\]|\\.)*)"`, src), allMatches(`\b([a-z]+_[a-z_]+)\b`, src)...)
}

// TestTexts checks that the texts in the troubleshooting tables are in the sources of the programs. It compares the pieces between
// the … separately.
func TestTexts(t *testing.T) {
	said := sourceTexts(t)
	checked := 0
	nodes, _, epmd := troubleshootingTables(t)
	for _, row := range append(tableRows(nodes), tableRows(epmd)...) {
		texts := codeSpans(row[0])
		if reason := regexp.MustCompile("^`[a-z_]+`$"); reason.MatchString(row[0]) && len(row) == 3 {
			texts = append(texts, codeSpans(row[1])...)
		}
		if len(texts) == 0 {
			t.Errorf("the row %v has no text", row)
		}
		for _, text := range texts {
			for _, piece := range strings.Split(text, "…") {
				piece = strings.TrimSpace(piece)
				if len(piece) < 4 { // "ms", ".", ")"
					continue
				}
				checked++
				if !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, piece) }) {
					t.Errorf("no program prints %q", piece)
				}
			}
		}
	}
	if checked < 60 {
		t.Errorf("only %d texts found", checked)
	}
}

// troubleshootingTables returns the three tables in docs/OPERATIONS.md: what nodes log, why nodes do not start (TestStarts tests
// that), and what epmd logs.
func troubleshootingTables(t *testing.T) (nodes, failing, epmd string) {
	t.Helper()
	section := loadPage(t, "docs/OPERATIONS.md").section(t, "Troubleshooting")
	nodes, failing, ok1 := strings.Cut(section, "\nWhy a node does not start")
	failing, epmd, ok2 := strings.Cut(failing, "\nWhat epmd says")
	if !ok1 || !ok2 {
		t.Fatal("docs/OPERATIONS.md does not have the three expected tables")
	}
	return nodes, failing, epmd
}

// TestEvents checks that the table of docs/OPERATIONS.md has each event of a node, and each reason with its text, and nothing
// else, and that the table of docs/CONFIGURATION.md has the same events.
func TestEvents(t *testing.T) {
	module := readSource(t, "erl/src/handover_log.erl")
	_, kinds, _ := strings.Cut(readSource(t, "erl/src/handover_event.erl"), "-type event() ::")
	kinds, _, _ = strings.Cut(kinds, ".")
	events := allMatches(`(\w+)`, kinds)
	reasons := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^explain\((\w+)\) -> "(.*)";`).FindAllStringSubmatch(module, -1) {
		reasons[m[1]] = m[2]
	}
	var inTrouble, withReason []string
	nodes, _, _ := troubleshootingTables(t)
	for _, row := range tableRows(nodes) {
		name := strings.Trim(row[0], "`")
		switch text, isReason := reasons[name]; {
		case isReason:
			withReason = append(withReason, name)
			if row[1] != "`"+text+"`" {
				t.Errorf("the text of %s is %q, but the page has %s", name, text, row[1])
			}
		case len(row) == 3:
			inTrouble = append(inTrouble, codeSpans(row[1])...)
		}
	}
	var known []string
	for reason := range reasons {
		known = append(known, reason)
	}
	compareNames(t, "reason", withReason, known)
	compareNames(t, "event (OPERATIONS.md)", inTrouble, events)
	var inConfiguration []string
	for _, row := range tableRows(loadPage(t, "docs/CONFIGURATION.md").section(t, "Events")) {
		inConfiguration = append(inConfiguration, codeSpans(row[0])...)
	}
	compareNames(t, "event (CONFIGURATION.md)", inConfiguration, events)
}
