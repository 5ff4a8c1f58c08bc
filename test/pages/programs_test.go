package pages

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"handover/go/internal/testkit"
)

// program is one of priv/.
func program(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(top, "priv", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("skipped: not built: %v", err)
	}
	return path
}

// usage is what the program says when it does not know what to do.
func usage(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program(t, name), args...).CombinedOutput()
	if err == nil {
		t.Fatalf("%s %v works", name, args)
	}
	return string(out)
}

// TestCommandLine: the page has every option and command of the programs' usage,
// and no page calls them with another one.
func TestCommandLine(t *testing.T) {
	section := load(t, theEPMD).section(t, "Command line")
	option := `(?:^|[ \[|` + "`" + `])(--?[a-z_]+)\b`
	inUsage := all(`(?m)`+option, usage(t, "epmd", "-usage"))
	differ(t, "option", all(option, strings.Join(quoted(section), "\n`")), inUsage)
	differ(t, "variable", all(`\b(ERL_EPMD_\w+)`, section), all(`\b(ERL_EPMD_\w+)`, usage(t, "epmd", "-usage")))
	commands := all(`(?m)^(?:usage:)? +handover ([a-z]+)`, usage(t, "handover"))
	differ(t, "command of handover", all("`handover ([a-z]+)", section), commands)
	for _, p := range append(manual(t), load(t, "CONTRIBUTING.md")) {
		for _, code := range p.codes() {
			for _, call := range all(`^(?:\S*\$ )?(?:priv/)?(epmd -.*)`, code) {
				for _, used := range all(option, call) {
					if !slices.Contains(inUsage, used) {
						t.Errorf("%s: %s: epmd has no option %s", p.path, code, used)
					}
				}
			}
			for _, used := range all(`^(?:\S*\$ )?(?:priv/)?handover ([a-z]+)\b`, code) {
				if !slices.Contains(commands, used) {
					t.Errorf("%s: %s: handover has no command %s", p.path, code, used)
				}
			}
		}
	}
}

// TestMetrics: the table has what a running epmd serves: the names, and the values
// of their labels.
func TestMetrics(t *testing.T) {
	served := scrape(t)
	documented := map[string]map[string][]string{} // metric, label, values
	remark := regexp.MustCompile(`\((?:[^()]|\([^()]*\))*\)`)
	for _, row := range rows(load(t, theEPMD).section(t, "Seeing what it does")) {
		labels := map[string][]string{}
		for _, part := range strings.Split(remark.ReplaceAllString(row[1], ""), ";") {
			if label, values, ok := strings.Cut(strings.TrimSpace(part), "`: "); ok {
				labels[strings.Trim(label, "`")] = all(`(\w+)`, values)
			}
		}
		for _, name := range quoted(row[0]) {
			documented[name] = labels
		}
	}
	delete(documented, "process_*")
	names := all(`(?m)^# TYPE (epmd_\w+) `, served)
	differ(t, "metric", slices.Sorted(maps.Keys(documented)), names)
	for _, name := range names {
		lines := strings.Join(all(`(?m)^(`+name+`\{.*)$`, served), "\n")
		for label, values := range documented[name] {
			for _, value := range all(label+`="([^"]*)"`, lines) {
				if !slices.Contains(values, value) {
					t.Errorf("%s: no %s=%q in the page", name, label, value)
				}
			}
		}
		// a result of requests is there when it was counted first
		for _, label := range all(`(\w+)="`, lines) {
			if _, there := documented[name][label]; !there && label != "le" {
				t.Errorf("%s: no label %s in the page", name, label)
			}
			if name != "epmd_requests_total" && label != "le" {
				differ(t, name+" "+label, documented[name][label], all(label+`="([^"]*)"`, lines))
			}
		}
	}
}

// scrape gets the metrics of an epmd of its own.
func scrape(t *testing.T) string {
	t.Helper()
	addr := testkit.Loopback(testkit.FreePort(t)).String()
	epmd := exec.Command(program(t, "epmd"), "-port", fmt.Sprint(testkit.FreePort(t)), "-address", "127.0.0.1", "-metrics", addr)
	epmd.Stderr = os.Stderr
	if err := epmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = epmd.Process.Kill(); _ = epmd.Wait() }()
	var page []byte
	testkit.WaitFor(t, "the metrics", func() bool {
		r, err := http.Get("http://" + addr + "/metrics")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		page, err = io.ReadAll(r.Body)
		return err == nil
	})
	return string(page)
}
