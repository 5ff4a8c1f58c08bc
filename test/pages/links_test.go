package pages

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/yuin/goldmark/ast"
)

// TestLinks checks that each link within the repository leads to an existing file, and to an existing heading if it names one.
// It does not check links to other sites.
func TestLinks(t *testing.T) {
	checked := 0
	for _, path := range findFiles(t, "*.md", "docs/*.md", "bench/*.md") {
		p := loadPage(t, path)
		forEachNode(p, func(n *ast.Link) { checked += checkLink(t, p, string(n.Destination)) })
		forEachNode(p, func(n *ast.Image) { checked += checkLink(t, p, string(n.Destination)) })
	}
	if checked < 20 {
		t.Errorf("only %d links found; is this test wrong?", checked)
	}
}

// checkLink checks one link and returns 1, or returns 0 for a link to another site.
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
		t.Errorf("%s: broken link %s: %v", p.path, link, err)
		return 1
	}
	if anchor != "" && !slices.Contains(loadPage(t, to).anchors(), anchor) {
		t.Errorf("%s: %s has no heading #%s", p.path, to, anchor)
	}
	return 1
}
