package pages

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReliability checks that each test that docs/RELIABILITY.md names exists, and that each fault names a test or the reason why
// there is none.
func TestReliability(t *testing.T) {
	page := readSource(t, "docs/RELIABILITY.md")
	faults, _, _ := strings.Cut(page, "## The matrix")
	named := regexp.MustCompile("`((\\w+_SUITE)(:(\\w+))?|Test\\w+|(\\w+)|go/[a-z/]+)`")
	if len(tableRows(faults)) < 10 {
		t.Fatalf("only %d rows found", len(tableRows(faults)))
	}
	for _, row := range tableRows(faults) {
		suite, found := "", strings.HasPrefix(row[len(row)-1], "no test")
		for _, m := range named.FindAllStringSubmatch(row[len(row)-1], -1) {
			found = true
			if m[2] != "" {
				suite = m[2]
			}
			if !isTest(t, m[1], suite, m[4]+m[5]) {
				t.Errorf("the test %s does not exist (%s)", m[1], row[0])
			}
		}
		if !found {
			t.Errorf("%q names no test", row[0])
		}
	}
}

// isTest reports whether text is the name of a suite, a case of a suite, a Go test, or a package with tests.
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
