package pages

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReliability: each test that docs/RELIABILITY.md names is there, and each row
// of the faults names one or says why there is none.
func TestReliability(t *testing.T) {
	page := source(t, "docs/RELIABILITY.md")
	faults, _, _ := strings.Cut(page, "## The matrix")
	named := regexp.MustCompile("`((\\w+_SUITE)(:(\\w+))?|Test\\w+|(\\w+)|go/[a-z/]+)`")
	if len(rows(faults)) < 10 {
		t.Fatalf("%d rows", len(rows(faults)))
	}
	for _, row := range rows(faults) {
		suite, found := "", strings.HasPrefix(row[len(row)-1], "no test")
		for _, m := range named.FindAllStringSubmatch(row[len(row)-1], -1) {
			found = true
			if m[2] != "" {
				suite = m[2]
			}
			if !isTest(t, m[1], suite, m[4]+m[5]) {
				t.Errorf("no test %s (%s)", m[1], row[0])
			}
		}
		if !found {
			t.Errorf("%q names no test", row[0])
		}
	}
}

// isTest: text is a suite, a case of a suite, a Go test or a package with tests.
func isTest(t *testing.T, text, suite, name string) bool {
	t.Helper()
	switch {
	case strings.HasPrefix(text, "Test"):
		return exec.Command("grep", "-rq", "--include=*_test.go", "^func "+text+"(", filepath.Join(top, "go"), filepath.Join(top, "test")).Run() == nil
	case strings.HasPrefix(text, "go/"):
		tests, err := filepath.Glob(filepath.Join(top, text, "*_test.go"))
		return err == nil && len(tests) > 0
	}
	body, err := os.ReadFile(filepath.Join(top, "ct", suite+".erl"))
	return err == nil && (name == "" || strings.Contains(string(body), "\n"+name+"("))
}
