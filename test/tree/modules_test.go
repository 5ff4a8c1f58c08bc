package tree

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	erlangComment = regexp.MustCompile(`(?m)(^|\s)%.*$`)
	remoteCall    = regexp.MustCompile(`\b(handover\w*):\w`) // or a fun or a type of another module
)

// TestModulesHaveNoCycles checks that no Erlang module uses, directly or through others, a module that uses it.
func TestModulesHaveNoCycles(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(top, "erl/src/*.erl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no modules: %v", err)
	}
	uses := make(map[string][]string)
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		module := strings.TrimSuffix(filepath.Base(file), ".erl")
		used := make(map[string]bool)
		for _, match := range remoteCall.FindAllSubmatch(erlangComment.ReplaceAll(source, nil), -1) {
			used[string(match[1])] = true
		}
		delete(used, module)
		uses[module] = slices.Sorted(maps.Keys(used))
	}
	const visiting, done = 1, 2
	state := make(map[string]int)
	var visit func(path []string)
	visit = func(path []string) {
		module := path[len(path)-1]
		switch state[module] {
		case visiting:
			t.Errorf("the modules have a cycle: %s", strings.Join(path[slices.Index(path, module):], " uses "))
			return
		case done:
			return
		}
		state[module] = visiting
		for _, used := range uses[module] {
			visit(append(path, used))
		}
		state[module] = done
	}
	for _, module := range slices.Sorted(maps.Keys(uses)) {
		visit([]string{module})
	}
}
