// Package tree tests the repository as a whole: imports, scripts, man pages, completions and the installation.
package tree

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const packagePrefix = "handover/go/internal/"

// allowedImports is the table of Go packages in docs/ARCHITECTURE.md.
var allowedImports = map[string][]string{
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

// TestImportsGoOneWay checks that each package imports only the packages of this project that allowedImports lists for it.
func TestImportsGoOneWay(t *testing.T) {
	list := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./go/internal/...")
	list.Dir = top
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		name, isOurs := strings.CutPrefix(fields[0], packagePrefix)
		if !isOurs {
			continue
		}
		allowed, known := allowedImports[name]
		if !known {
			t.Errorf("package %s is not in the table of docs/ARCHITECTURE.md", name)
		}
		for _, path := range fields[1:] {
			if imported, ok := strings.CutPrefix(path, packagePrefix); ok && !slices.Contains(allowed, imported) {
				t.Errorf("%s imports %s, which docs/ARCHITECTURE.md does not allow", name, imported)
			}
			if strings.HasPrefix(path, "github.com/okeuday/") && name != "etf" {
				t.Errorf("%s imports %s; only etf may", name, path)
			}
		}
	}
}
