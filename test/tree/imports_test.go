// Package tree tests what is true of the repository as a whole: imports, scripts, man pages, completions, the installation.
package tree

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const prefix = "handover/go/internal/"

// mayImport is docs/ARCHITECTURE.md's table: imports go one way.
var mayImport = map[string][]string{
	"epmdproto": {},
	"etf":       {},
	"fdpass":    {},
	"peercred":  {},
	"testkit":   {},
	"portproto": {"etf", "epmdproto"},
	"registry":  {"epmdproto"},
	"policy":    {},
	"status":    {"epmdproto"},
	"listen":    {"epmdproto"},
	"metrics":   {"status"},
	"doctor":    {"epmdproto"},
	"epmdconf":  {"policy"},
	"epmd":      {"registry", "fdpass", "peercred", "policy", "status", "epmdproto"},
	"carrier":   {"fdpass", "peercred", "portproto", "epmdproto"},
}

func TestImportsGoOneWay(t *testing.T) {
	list := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./go/internal/...")
	list.Dir = top
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		name, isOurs := strings.CutPrefix(fields[0], prefix)
		if !isOurs {
			continue
		}
		allowed, known := mayImport[name]
		if !known {
			t.Errorf("package %s is in no row of docs/ARCHITECTURE.md", name)
		}
		for _, path := range fields[1:] {
			if imported, ok := strings.CutPrefix(path, prefix); ok && !slices.Contains(allowed, imported) {
				t.Errorf("%s imports %s", name, imported)
			}
			if strings.HasPrefix(path, "github.com/okeuday/") && name != "etf" {
				t.Errorf("%s imports %s; etf is the only one that may", name, path)
			}
		}
	}
}
