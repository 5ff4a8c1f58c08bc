package tree

import (
	"os"
	"regexp"
	"testing"
)

// TestVersions checks that each file that contains the version has that of erl/src/handover.app.src.
func TestVersions(t *testing.T) {
	versions := map[string]string{
		"erl/src/handover.app.src":   `\{vsn, "(.*)"\}`,
		"go/cmd/handover/main.go":    `fallbackVersion = "(.*)"`,
		"packaging/debian/changelog": `\Ahandover \((.*)-[0-9]+\)`,
	}
	for file, pattern := range versions {
		text, err := os.ReadFile(top + "/" + file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(pattern).FindStringSubmatch(string(text))
		if found == nil {
			t.Fatalf("no version found in %s", file)
		}
		versions[file] = found[1]
	}
	for file, version := range versions {
		if want := versions["erl/src/handover.app.src"]; version != want {
			t.Errorf("%s has version %s; erl/src/handover.app.src has %s", file, version, want)
		}
	}
}
