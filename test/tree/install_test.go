package tree

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"handover/go/internal/epmdconf"
)

const top = "../.."

// runMake runs a make target that installs to or removes from dest.
func runMake(t *testing.T, target, dest string) {
	t.Helper()
	if out, err := exec.Command("make", "-C", top, target, "PREFIX=/usr", "DESTDIR="+dest).CombinedOutput(); err != nil {
		t.Fatalf("make %s: %v: %s", target, err, out)
	}
}

// installToTemp runs make install and returns the DESTDIR. It skips the test if nothing was built.
func installToTemp(t *testing.T) string {
	t.Helper()
	for _, built := range []string{"priv/epmd", "_build/default/lib/handover/ebin/handover.app"} {
		if _, err := os.Stat(filepath.Join(top, built)); err != nil {
			t.Skipf("skipped: not built: %v", err)
		}
	}
	dest := t.TempDir()
	runMake(t, "install", dest)
	return dest
}

// listFiles returns the paths below dir of everything that is not a directory.
func listFiles(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			list = append(list, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestInstall checks that the installed files refer to each other by their final paths, and that uninstall removes all of them.
func TestInstall(t *testing.T) {
	dest := installToTemp(t)
	unit, err := os.ReadFile(dest + "/usr/lib/systemd/system/epmd.service")
	if err != nil {
		t.Fatal(err)
	}
	paths := regexp.MustCompile(`(?m)^(?:ExecStart|ExecReload)=(\S+)`).FindAllStringSubmatch(string(unit), -1)
	if len(paths) != 2 {
		t.Errorf("want ExecStart and ExecReload in the unit: %s", unit)
	}
	for _, p := range paths {
		if _, err := os.Stat(dest + p[1]); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(string(unit), " -config /etc/handover/epmd.toml\n") {
		t.Errorf("the unit reads no configuration: %s", unit)
	}
	if _, err := epmdconf.Load(dest + "/etc/handover/epmd.toml"); err != nil {
		t.Error(err)
	}
	links, err := filepath.Glob(dest + "/usr/lib/erlang/lib/handover-*/priv/*")
	if err != nil || len(links) != 2 {
		t.Fatal(links, err)
	}
	for _, link := range links {
		program, err := filepath.EvalSymlinks(link)
		if err != nil || program != dest+"/usr/bin/"+filepath.Base(link) {
			t.Errorf("%s leads to %s, %v", link, program, err)
		}
	}
	for _, page := range []string{"epmd", "handover"} {
		for _, file := range []string{"man/man1/" + page + ".1", "bash-completion/completions/" + page, "zsh/vendor-completions/_" + page} {
			if _, err := os.Stat(dest + "/usr/share/" + file); err != nil {
				t.Error(err)
			}
		}
	}
	runMake(t, "uninstall", dest)
	if remaining := listFiles(t, dest); len(remaining) > 0 {
		t.Errorf("make uninstall left %v", remaining)
	}
}

// TestConfigurationStays checks that install and uninstall keep a configuration that an operator has changed.
func TestConfigurationStays(t *testing.T) {
	dest := installToTemp(t)
	config, mine := dest+"/etc/handover/epmd.toml", "metrics = \"127.0.0.1:1\"\n"
	if err := os.WriteFile(config, []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"install", "uninstall"} {
		runMake(t, target, dest)
		if text, err := os.ReadFile(config); err != nil || string(text) != mine {
			t.Errorf("after make %s: %q, %v", target, text, err)
		}
	}
}

// TestUnits checks that systemd accepts the units, and that docs/EPMD.md has the score of systemd-analyze security.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skipf("skipped: %v (Debian: apt install systemd)", err)
	}
	dest := installToTemp(t)
	service := filepath.Join(dest, "usr/lib/systemd/system/epmd.service")
	// systemd-analyze verify needs the programs at the paths in the unit.
	text, err := os.ReadFile(service)
	if err == nil {
		err = os.WriteFile(service, []byte(strings.ReplaceAll(string(text), "=/usr/bin/", "="+dest+"/usr/bin/")), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", service, filepath.Join(filepath.Dir(service), "epmd.socket")).CombinedOutput()
	if err != nil || strings.Contains(string(out), "epmd.") {
		t.Errorf("verify: %v: %s", err, out)
	}
	out, err = exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", service).CombinedOutput()
	score := regexp.MustCompile(`exposure level for epmd.service: (\d+\.\d)`).FindSubmatch(out)
	if err != nil || score == nil {
		t.Fatalf("security: %v: %s", err, out)
	}
	docs, err := os.ReadFile(top + "/docs/EPMD.md")
	if err != nil || !strings.Contains(string(docs), "exposure level "+string(score[1])) {
		t.Errorf("the score is %s, but docs/EPMD.md does not have it (%v)", score[1], err)
	}
}
