// Package testenv is what the tests of several packages share: an environment
// without the settings of whoever started them, and the files that this process
// has open. Only tests import it.
package testenv

import (
	"os"
	"regexp"
	"slices"
	"strings"
)

// settings are variables that change what make, rebar3, Erlang, a shell and our own
// programs do. test/lib.sh has the same list.
var settings = regexp.MustCompile(`^(MAKE.*|MFLAGS|GNUMAKEFLAGS|PREFIX|DESTDIR|ERL.*|HANDOVER.*|EPMD.*|RELEASE.*|RELX.*|REBAR.*|MIX.*|QUIET|DEBUG|` +
	`NOTIFY_SOCKET|LISTEN_.*|BASH_ENV|ENV|CDPATH|TMPDIR|LC_.*|LANGUAGE)$`)

// Clean removes from this process's environment, which every program that it
// starts inherits, the settings of whoever started the tests: a make above them,
// a shell with ERL_FLAGS. TestMain calls it.
func Clean() {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); settings.MatchString(name) {
			_ = os.Unsetenv(name)
		}
	}
	_ = os.Setenv("LANG", "C.UTF-8")
}

// Files are the open files of a process, each with its number and what it is.
type Files []string

// OpenFiles returns the files that this process has open. It needs Linux's /proc.
func OpenFiles() (Files, error) {
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files Files
	for _, e := range entries {
		// One is the directory itself, which is closed by now.
		if what, err := os.Readlink(dir + e.Name()); err == nil {
			files = append(files, e.Name()+" "+what)
		}
	}
	return files, nil
}

// Since returns the files that are open now and are not among f. Compare so, and
// wait until it is empty: a count also changes when a file of f is closed, as may
// happen at any time to what an earlier test has left to a goroutine.
func (f Files) Since() (Files, error) {
	now, err := OpenFiles()
	return slices.DeleteFunc(now, func(file string) bool { return slices.Contains(f, file) }), err
}
