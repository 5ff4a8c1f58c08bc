package tree

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestContributingMap compares the table "Where things live" of CONTRIBUTING.md with the repository: each path in it exists, and
// each file in git is below one of the paths, except the files at the top, go.mod and go.sum.
func TestContributingMap(t *testing.T) {
	text, err := os.ReadFile(top + "/CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "## Where things live")
	section, _, _ = strings.Cut(section, "\n\n`go.mod`")
	var listed []string
	for _, row := range regexp.MustCompile(`(?m)^\| (`+"`"+`[^|]*) \|`).FindAllStringSubmatch(section, -1) {
		for _, path := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			listed = append(listed, path[1])
			if _, err := os.Stat(filepath.Join(top, path[1])); err != nil {
				t.Errorf("CONTRIBUTING.md lists %s: %v", path[1], err)
			}
		}
	}
	git := exec.Command("git", "ls-files")
	git.Dir = top
	files, err := git.Output()
	if err != nil || len(listed) == 0 {
		t.Fatal(err, listed)
	}
	missing := make(map[string]bool)
	for file := range strings.Lines(string(files)) {
		file = strings.TrimSuffix(file, "\n")
		if name := filepath.Base(file); name == "go.mod" || name == "go.sum" {
			continue
		}
		isListed := slices.ContainsFunc(listed, func(path string) bool { return file == path || strings.HasPrefix(file, path+"/") })
		if !isListed && strings.Contains(file, "/") {
			missing[filepath.Dir(file)] = true
		}
	}
	for dir := range missing {
		t.Errorf("CONTRIBUTING.md has no row for %s", dir)
	}
}
