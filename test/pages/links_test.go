package pages

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/yuin/goldmark/ast"
)

// TestLinks: every link within the repository leads to a file, and to a heading
// where it names one. Those to other places are not followed.
func TestLinks(t *testing.T) {
	checked := 0
	for _, path := range glob(t, "*.md", "docs/*.md", "bench/*.md") {
		p := load(t, path)
		each(p, func(n *ast.Link) { checked += checkLink(t, p, string(n.Destination)) })
		each(p, func(n *ast.Image) { checked += checkLink(t, p, string(n.Destination)) })
	}
	if checked < 20 {
		t.Errorf("only %d links found: are they read as they should be?", checked)
	}
}

// checkLink returns how many links it has looked at.
func checkLink(t *testing.T, p page, link string) int {
	t.Helper()
	if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
		return 0
	}
	path, anchor, _ := strings.Cut(link, "#")
	to := p.path
	if path != "" {
		to = filepath.Join(filepath.Dir(p.path), path)
	}
	if _, err := os.Stat(filepath.Join(top, to)); err != nil {
		t.Errorf("%s: dead link %s: %v", p.path, link, err)
		return 1
	}
	if anchor != "" && !slices.Contains(load(t, to).anchors(), anchor) {
		t.Errorf("%s: %s has no heading #%s", p.path, to, anchor)
	}
	return 1
}
