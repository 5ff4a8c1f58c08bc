// Package testkit has what the tests of several packages share: a clean environment,
// waiting, free ports, and the open files of this process. Only tests import it.
package testkit

import (
	"os"
	"regexp"
	"strings"
)

// settings matches the variables that change what make, rebar3, Erlang, a shell and our own
// programs do. test/lib.sh has the same list.
var settings = regexp.MustCompile(`^(MAKE.*|MFLAGS|GNUMAKEFLAGS|PREFIX|DESTDIR|ERL.*|HANDOVER.*|EPMD.*|RELEASE.*|RELX.*|REBAR.*|MIX.*|QUIET|DEBUG|` +
	`NOTIFY_SOCKET|LISTEN_.*|BASH_ENV|ENV|CDPATH|TMPDIR|LC_.*|LANGUAGE)$`)

// CleanEnvironment removes the caller's settings, such as those of make or ERL_FLAGS,
// from the environment of this process, which the programs that it starts inherit. Each
// TestMain of a package whose tests start programs must call it.
func CleanEnvironment() {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); settings.MatchString(name) {
			_ = os.Unsetenv(name)
		}
	}
	_ = os.Setenv("LANG", "C.UTF-8")
}
