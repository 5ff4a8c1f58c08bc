// Package pages holds the pages to what they say: links lead somewhere, names
// exist, texts are those of the programs, and commands do what stands below them.
//
// In README.md and docs/*.md a block in the language
//
//	console   is run, and what it prints is compared (console_linux_test.go says how)
//	nft, iptables, yaml   is loaded by a test of its own
//
// and any other block is only shown.
package pages

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"

	"handover/go/internal/testkit"
)

const top = "../.."

// theEPMD is the page about the daemon.
const theEPMD = "docs/EPMD.md"

// commandTimeout bounds each command of a page. Some build a release.
const commandTimeout = 5 * time.Minute

func TestMain(m *testing.M) {
	testkit.CleanEnvironment()
	os.Exit(m.Run())
}

// page is a Markdown file; its path is below the top of the repository.
type page struct {
	path string
	src  []byte
	doc  ast.Node
}

// block is a fenced block of code.
type block struct {
	page string
	line int
	info []string // language first
	text string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

func (b block) is(language string) bool { return len(b.info) > 0 && b.info[0] == language }

func (b block) has(word string) bool { return slices.Contains(b.info, word) }

func glob(t *testing.T, patterns ...string) (paths []string) {
	t.Helper()
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil || found == nil {
			t.Fatalf("%s: no such file, %v", pattern, err)
		}
		for _, path := range found {
			below, err := filepath.Rel(top, path)
			if err != nil {
				t.Fatal(err)
			}
			paths = append(paths, below)
		}
	}
	return paths
}

func load(t *testing.T, path string) page {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(top, path))
	if err != nil {
		t.Fatal(err)
	}
	markdown := goldmark.New(goldmark.WithExtensions(extension.Table))
	return page{path, src, markdown.Parser().Parse(text.NewReader(src))}
}

// manual is what users read: README.md and docs/*.md.
func manual(t *testing.T) (pages []page) {
	t.Helper()
	for _, path := range glob(t, "README.md", "docs/*.md") {
		pages = append(pages, load(t, path))
	}
	return pages
}

// each calls f with every node of the kind.
func each[N ast.Node](p page, f func(N)) {
	_ = ast.Walk(p.doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if wanted, ok := n.(N); ok && entering {
			f(wanted)
		}
		return ast.WalkContinue, nil
	})
}

func (p page) blocks() (list []block) {
	each(p, func(n *ast.FencedCodeBlock) {
		b := block{page: p.path, text: string(n.Lines().Value(p.src))}
		if n.Info != nil {
			b.info = strings.Fields(string(n.Info.Value(p.src)))
			b.line = 1 + strings.Count(string(p.src[:n.Info.Segment.Start]), "\n")
		}
		list = append(list, b)
	})
	return list
}

// codes are the spans of code in the text, and the words of the blocks as lines.
func (p page) codes() (list []string) {
	each(p, func(n *ast.CodeSpan) { list = append(list, plain(n, p.src)) })
	for _, b := range p.blocks() {
		for line := range strings.Lines(b.text) {
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}

func plain(n ast.Node, src []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if leaf, ok := n.(*ast.Text); ok && entering {
			b.Write(leaf.Segment.Value(src))
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

// anchors are the headings' as GitHub makes them.
func (p page) anchors() (list []string) {
	each(p, func(n *ast.Heading) {
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, plain(n, p.src))
		again := anchor
		for i := 1; slices.Contains(list, again); i++ {
			again = fmt.Sprint(anchor, "-", i)
		}
		list = append(list, again)
	})
	return list
}

// section is the text from a heading to the next one of any level.
func (p page) section(t *testing.T, heading string) string {
	t.Helper()
	found := regexp.MustCompile(`(?ms)^#+ ` + regexp.QuoteMeta(heading) + `\n(.*?)(?:^#+ |\z)`).FindSubmatch(p.src)
	if found == nil {
		t.Fatalf("%s has no section %q", p.path, heading)
	}
	return string(found[1])
}

// rows are the cells of the section's tables, without their headings.
func rows(section string) (list [][]string) {
	lines := strings.Split(section, "\n")
	for i, line := range lines {
		if !strings.HasPrefix(line, "| ") || i+1 < len(lines) && strings.HasPrefix(lines[i+1], "|--") {
			continue
		}
		line = strings.ReplaceAll(strings.Trim(line, "|"), `\|`, "\x00")
		var cells []string
		for _, cell := range strings.Split(line, "|") {
			cells = append(cells, strings.TrimSpace(strings.ReplaceAll(cell, "\x00", "|")))
		}
		list = append(list, cells)
	}
	return list
}

// quoted are the spans of code in a cell.
func quoted(cell string) (list []string) {
	for _, span := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
		list = append(list, span[1])
	}
	return list
}
