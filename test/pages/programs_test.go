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

// builtProgram returns the path of a program in priv/. It skips the test if the program is not built.
func builtProgram(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(top, "priv", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("skipped: not built: %v", err)
	}
	return path
}

// usageText returns what the program prints when it is called with wrong arguments.
func usageText(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(builtProgram(t, name), args...).CombinedOutput()
	if err == nil {
		t.Fatalf("%s %v succeeded", name, args)
	}
	return string(out)
}

// TestCommandLine checks that docs/EPMD.md has each option and command of the usage texts, and that no page uses an unknown one.
func TestCommandLine(t *testing.T) {
	section := loadPage(t, epmdPage).section(t, "Command line")
	option := `(?:^|[ \[|` + "`" + `])(--?[a-z_]+)\b`
	inUsage := allMatches(`(?m)`+option, usageText(t, "epmd", "-usage"))
	compareNames(t, "option", allMatches(option, strings.Join(codeSpans(section), "\n`")), inUsage)
	compareNames(t, "variable", allMatches(`\b(ERL_EPMD_\w+)`, section), allMatches(`\b(ERL_EPMD_\w+)`, usageText(t, "epmd", "-usage")))
	commands := allMatches(`(?m)^(?:usage:)? +handover ([a-z]+)`, usageText(t, "handover"))
	compareNames(t, "command of handover", allMatches("`handover ([a-z]+)", section), commands)
	for _, p := range append(manualPages(t), loadPage(t, "CONTRIBUTING.md")) {
		for _, code := range p.codeLines() {
			for _, call := range allMatches(`^(?:\S*\$ )?(?:priv/)?(epmd -.*)`, code) {
				for _, used := range allMatches(option, call) {
					if !slices.Contains(inUsage, used) {
						t.Errorf("%s: %s: epmd has no option %s", p.path, code, used)
					}
				}
			}
			for _, used := range allMatches(`^(?:\S*\$ )?(?:priv/)?handover ([a-z]+)\b`, code) {
				if !slices.Contains(commands, used) {
					t.Errorf("%s: %s: handover has no command %s", p.path, code, used)
				}
			}
		}
	}
}

// TestMetrics compares the table of metrics with those of a running epmd: their names, and the values of their labels.
func TestMetrics(t *testing.T) {
	served := scrapeMetrics(t)
	documented := map[string]map[string][]string{} // metric, label, values
	remark := regexp.MustCompile(`\((?:[^()]|\([^()]*\))*\)`)
	for _, row := range tableRows(loadPage(t, epmdPage).section(t, "Log, status and metrics")) {
		labels := map[string][]string{}
		for _, part := range strings.Split(remark.ReplaceAllString(row[1], ""), ";") {
			if label, values, ok := strings.Cut(strings.TrimSpace(part), "`: "); ok {
				labels[strings.Trim(label, "`")] = allMatches(`(\w+)`, values)
			}
		}
		for _, name := range codeSpans(row[0]) {
			documented[name] = labels
		}
	}
	delete(documented, "process_*")
	names := allMatches(`(?m)^# TYPE (epmd_\w+) `, served)
	compareNames(t, "metric", slices.Sorted(maps.Keys(documented)), names)
	for _, name := range names {
		lines := strings.Join(allMatches(`(?m)^(`+name+`\{.*)$`, served), "\n")
		for label, values := range documented[name] {
			for _, value := range allMatches(label+`="([^"]*)"`, lines) {
				if !slices.Contains(values, value) {
					t.Errorf("%s: the page has no %s=%q", name, label, value)
				}
			}
		}
		// epmd_requests_total has a result only after the first such request
		for _, label := range allMatches(`(\w+)="`, lines) {
			if _, exists := documented[name][label]; !exists && label != "le" {
				t.Errorf("%s: the page has no label %s", name, label)
			}
			if name != "epmd_requests_total" && label != "le" {
				compareNames(t, name+" "+label, documented[name][label], allMatches(label+`="([^"]*)"`, lines))
			}
		}
	}
}

// scrapeMetrics starts an epmd and returns its metrics.
func scrapeMetrics(t *testing.T) string {
	t.Helper()
	addr := testkit.Loopback(testkit.FreePort(t)).String()
	epmd := exec.Command(builtProgram(t, "epmd"), "-port", fmt.Sprint(testkit.FreePort(t)), "-address", "127.0.0.1", "-metrics", addr)
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
