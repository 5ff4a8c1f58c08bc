// Package pages tests the documentation: the links, the names of options, keys and metrics, the texts that it quotes from the
// programs, and the commands that it shows.
//
// In README.md and docs/*.md, blocks in these languages are tested:
//
//	console               is run, and the output is compared (console_linux_test.go explains the format)
//	nft, iptables, yaml   is loaded by a test of its own
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

// epmdPage is the page about the daemon.
const epmdPage = "docs/EPMD.md"

// commandTimeout is the deadline of each command in a page. Some commands build a release.
const commandTimeout = 5 * time.Minute

func TestMain(m *testing.M) {
	testkit.CleanEnvironment()
	os.Exit(m.Run())
}

// A page is a Markdown file. path is relative to the top of the repository.
type page struct {
	path string
	src  []byte
	doc  ast.Node
}

// A block is a fenced block of code.
type block struct {
	page string
	line int
	info []string // the words after ```; the first is the language
	text string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// is reports whether the block is in the language.
func (b block) is(language string) bool { return len(b.info) > 0 && b.info[0] == language }

// has reports whether the word follows the language.
func (b block) has(word string) bool { return slices.Contains(b.info, word) }

// findFiles returns the files of the repository that match the patterns. A pattern without a match ends the test.
func findFiles(t *testing.T, patterns ...string) (paths []string) {
	t.Helper()
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil || found == nil {
			t.Fatalf("no file matches %s (%v)", pattern, err)
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

func loadPage(t *testing.T, path string) page {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(top, path))
	if err != nil {
		t.Fatal(err)
	}
	markdown := goldmark.New(goldmark.WithExtensions(extension.Table))
	return page{path, src, markdown.Parser().Parse(text.NewReader(src))}
}

// manualPages returns the pages for users: README.md and docs/*.md.
func manualPages(t *testing.T) (pages []page) {
	t.Helper()
	for _, path := range findFiles(t, "README.md", "docs/*.md") {
		pages = append(pages, loadPage(t, path))
	}
	return pages
}

// forEachNode calls f with each node of type N.
func forEachNode[N ast.Node](p page, f func(N)) {
	_ = ast.Walk(p.doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if wanted, ok := n.(N); ok && entering {
			f(wanted)
		}
		return ast.WalkContinue, nil
	})
}

func (p page) codeBlocks() (list []block) {
	forEachNode(p, func(n *ast.FencedCodeBlock) {
		b := block{page: p.path, text: string(n.Lines().Value(p.src))}
		if n.Info != nil {
			b.info = strings.Fields(string(n.Info.Value(p.src)))
			b.line = 1 + strings.Count(string(p.src[:n.Info.Segment.Start]), "\n")
		}
		list = append(list, b)
	})
	return list
}

// codeLines returns the code spans of the text and the lines of the code blocks.
func (p page) codeLines() (list []string) {
	forEachNode(p, func(n *ast.CodeSpan) { list = append(list, plainText(n, p.src)) })
	for _, b := range p.codeBlocks() {
		for line := range strings.Lines(b.text) {
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}

// plainText returns the text of a node without markup.
func plainText(n ast.Node, src []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if leaf, ok := n.(*ast.Text); ok && entering {
			b.Write(leaf.Segment.Value(src))
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

// anchors returns the anchors that GitHub gives the headings.
func (p page) anchors() (list []string) {
	forEachNode(p, func(n *ast.Heading) {
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, plainText(n, p.src))
		unique := anchor
		for i := 1; slices.Contains(list, unique); i++ {
			unique = fmt.Sprint(anchor, "-", i)
		}
		list = append(list, unique)
	})
	return list
}

// section returns the text between a heading and the next heading of any level.
func (p page) section(t *testing.T, heading string) string {
	t.Helper()
	found := regexp.MustCompile(`(?ms)^#+ ` + regexp.QuoteMeta(heading) + `\n(.*?)(?:^#+ |\z)`).FindSubmatch(p.src)
	if found == nil {
		t.Fatalf("%s has no section %q", p.path, heading)
	}
	return string(found[1])
}

// tableRows returns the cells of the tables in a section, without the rows of headings.
func tableRows(section string) (list [][]string) {
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

// codeSpans returns the code spans in a cell of a table.
func codeSpans(cell string) (list []string) {
	for _, span := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
		list = append(list, span[1])
	}
	return list
}
