package tree

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"handover/go/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.CleanEnvironment()
	if os.Getenv(environmentEnv) != "" {
		fmt.Println(strings.Join(os.Environ(), "\n"))
		return
	}
	os.Exit(m.Run())
}

// environmentEnv makes this test program print the environment that testkit.CleanEnvironment leaves.
const environmentEnv = "HOUSE_TEST_ENVIRONMENT"

// TestCleanEnvironment checks that test/lib.sh and testkit.CleanEnvironment remove the same variables, both those of the user and
// those of a make that calls them, and no variable that the tests need.
func TestCleanEnvironment(t *testing.T) {
	kept := []string{"HOME=/h", "PATH=" + os.Getenv("PATH"), "GOFLAGS=-x=y z", "SOAKTIME=2s", environmentEnv + "=1", "LANG=C.UTF-8"}
	env := slices.Clone(kept)
	for _, name := range []string{"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "GNUMAKEFLAGS", "ERL_FLAGS", "ERL_LIBS", "ERL_EPMD_PORT",
		"ERL_EPMD_ADDRESS", "HANDOVER_LISTEN", "HANDOVER_PREBUILT", "RELEASE_NODE", "RELX_REPLACE_OS_VARS", "REBAR_BASE_DIR", "MIX_ENV", "QUIET",
		"NOTIFY_SOCKET", "LISTEN_FDS", "CDPATH", "TMPDIR", "PREFIX", "DESTDIR", "LC_ALL", "LANGUAGE"} {
		env = append(env, name+"=x y")
	}
	slices.Sort(kept)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []*exec.Cmd{exec.Command(self), exec.Command("sh", "-euc", ". test/lib.sh; exec env")} {
		cmd.Env, cmd.Dir = env, top
		out, err := cmd.CombinedOutput()
		remaining := strings.Split(strings.TrimSpace(string(out)), "\n")
		remaining = slices.DeleteFunc(remaining, func(v string) bool { return strings.HasPrefix(v, "PWD=") || strings.HasPrefix(v, "_=") })
		slices.Sort(remaining)
		if err != nil || !slices.Equal(remaining, kept) {
			t.Errorf("%v leaves\n%q, %v;\nwant\n%q", cmd.Args, remaining, err, kept)
		}
	}
}

// TestProgramsGetCleanEnvironment checks that every package whose tests start programs cleans the environment first, and so does
// every script that runs tests.
func TestProgramsGetCleanEnvironment(t *testing.T) {
	starts, cleans := map[string]bool{}, map[string]bool{} // by directory
	tests, err := filepath.Glob(top + "/go/*/*/*_test.go")
	if err != nil || tests == nil {
		t.Fatal(tests, err)
	}
	has := func(file, text string) bool {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(content), text)
	}
	for _, file := range tests {
		starts[filepath.Dir(file)] = starts[filepath.Dir(file)] || has(file, "exec.Command")
		cleans[filepath.Dir(file)] = cleans[filepath.Dir(file)] || has(file, "\ttestkit.CleanEnvironment()\n")
	}
	for dir := range starts {
		if starts[dir] && !cleans[dir] {
			t.Errorf("the tests of %s start programs, and no TestMain calls testkit.CleanEnvironment", dir)
		}
	}
	for _, script := range []string{".ci/run", "test/go.sh", "scripts/gates.sh", "test/journeys/lib.bash", "test/packages/deb-check.sh", "test/packages/dist-check.sh",
		"test/long/soak.sh", "ct/run.sh", "examples/two_hosts/demo.sh"} {
		if !has(top+"/"+script, "test/lib.sh\n") {
			t.Errorf("%s does not source test/lib.sh", script)
		}
	}
}
