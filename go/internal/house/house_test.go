// Package house holds what is true of the tree as a whole.
package house

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
	"delayline": {},
	"house":     {},
	"pages":     {},
	"testenv":   {},
	"portproto": {"etf", "epmdproto"},
	"registry":  {"epmdproto"},
	"policy":    {},
	"status":    {"epmdproto"},
	"metrics":   {"status"},
	"doctor":    {"epmdproto"},
	"epmdconf":  {"policy"},
	"epmd":      {"registry", "fdpass", "peercred", "policy", "status", "epmdproto"},
	"carrier":   {"fdpass", "peercred", "portproto", "epmdproto"},
}

func TestImportsGoOneWay(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "handover/go/internal/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		name, isOurs := strings.CutPrefix(fields[0], prefix)
		if !isOurs || strings.HasPrefix(name, "bench") {
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
