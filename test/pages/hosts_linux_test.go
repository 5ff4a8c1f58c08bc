package pages

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"handover/go/internal/testkit"
)

// hosts are the two hosts of ct/hosts.sh.
type hosts struct {
	prefix string // of the names of their network namespaces
	dir    string // the home and working directory of all commands, with the cookie of the nodes
}

// hostsScript runs ct/hosts.sh.
func hostsScript(args ...string) error {
	if out, err := exec.Command(filepath.Join(top, "ct/hosts.sh"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("hosts.sh: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// newHosts creates two hosts. They are removed when the test ends, and everything that runs there is killed.
func newHosts(t *testing.T) *hosts {
	t.Helper()
	for _, built := range []string{"priv/epmd", "_build/default/lib/handover/ebin/handover.app"} {
		if _, err := os.Stat(filepath.Join(top, built)); err != nil {
			t.Skipf("skipped: not built: %v", err)
		}
	}
	if err := hostsScript("check"); err != nil {
		t.Skipf("skipped: %v", err)
	}
	h := &hosts{prefix: fmt.Sprintf("pages-%d-%d", os.Getpid(), time.Now().UnixMilli()%100_000), dir: t.TempDir()}
	err := os.WriteFile(filepath.Join(h.dir, ".erlang.cookie"), []byte("pages"), 0o400)
	if err != nil {
		t.Fatal(err)
	}
	if err := hostsScript("up", h.prefix); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := hostsScript("down", h.prefix); err != nil {
			t.Error(err)
		}
	})
	return h
}

// absolutePath returns the absolute path of a path in the repository.
func absolutePath(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(filepath.Join(top, path))
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// command returns a command that runs on host 1 or 2.
func (h *hosts) command(t *testing.T, host int, args ...string) *exec.Cmd {
	t.Helper()
	args = append([]string{"netns", "exec", fmt.Sprintf("%s-host%d", h.prefix, host)}, args...)
	cmd := exec.CommandContext(t.Context(), "ip", args...)
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), "HOME="+h.dir, "PATH="+absolutePath(t, "priv")+":"+os.Getenv("PATH")+":/usr/sbin:/sbin",
		"ERL_LIBS="+absolutePath(t, "_build/default/lib"))
	return cmd
}

// run runs a command on a host and returns its output, stdout and stderr.
func (h *hosts) run(t *testing.T, host int, stdin string, args ...string) (string, error) {
	t.Helper()
	return runCommand(t, h.command(t, host, args...), stdin)
}

// mustRun is like run, but a command that fails ends the test.
func (h *hosts) mustRun(t *testing.T, host int, stdin string, args ...string) string {
	t.Helper()
	out, err := h.run(t, host, stdin, args...)
	if err != nil {
		t.Fatalf("host%d, %v: %v: %s", host, args, err, out)
	}
	return out
}

// runCommand runs the command, for at most commandTimeout, and returns its output. If the command leaves a daemon running that
// keeps the output open, it does not wait for the daemon.
func runCommand(t *testing.T, cmd *exec.Cmd, stdin string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer context.AfterFunc(t.Context(), func() { _ = cmd.Cancel() })()
	timeout := time.AfterFunc(commandTimeout, func() { _ = cmd.Cancel() })
	err := cmd.Wait()
	if !timeout.Stop() {
		err = fmt.Errorf("stopped after %v", commandTimeout)
	}
	if err == exec.ErrWaitDelay {
		err = nil
	}
	return out.String(), err
}

// startBackground starts the command, which runs until the test ends. If the test fails, it logs the output.
func (h *hosts) startBackground(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%v: %s", cmd.Args[4:], out.String())
		}
	})
}

// startNode starts a node on a host and waits until it has registered.
func (h *hosts) startNode(t *testing.T, host int, name string, args ...string) {
	t.Helper()
	h.startBackground(t, h.command(t, host, append([]string{"erl", "-noinput", "-sname", fmt.Sprintf("%s@host%d", name, host)}, args...)...))
	h.waitRegistered(t, host, name)
}

// waitRegistered waits until the EPMD of the host lists the name.
func (h *hosts) waitRegistered(t *testing.T, host int, name string) {
	t.Helper()
	testkit.WaitFor(t, "node "+name, func() bool {
		names, err := h.run(t, host, "", "epmd", "-names")
		return err == nil && strings.Contains(names, "name "+name+" at port")
	})
}

// checkPing pings node from the node n1 on host1 and compares the result, pong or pang, with want.
func (h *hosts) checkPing(t *testing.T, node, want string, args ...string) {
	t.Helper()
	h.checkPingFrom(t, "n1@host1", node, want, args...)
}

// checkPingFrom is like checkPing, from a node on host1 with the given name.
func (h *hosts) checkPingFrom(t *testing.T, from, node, want string, args ...string) {
	t.Helper()
	names := "-sname"
	if strings.Contains(from, ".") {
		names = "-name"
	}
	eval := fmt.Sprintf("io:format(\"~s\", [net_adm:ping('%s')]), halt().", node)
	args = append([]string{"erl", "-noinput", names, from, "-eval", eval}, args...)
	if out := h.mustRun(t, 1, "", args...); !strings.Contains(out, want) {
		t.Errorf("%v does not print %s: %s", args, want, out)
	}
}

// handoverArgs returns the arguments of a node with handover, followed by more.
func handoverArgs(more ...string) []string {
	return append([]string{"-proto_dist", "handover_tcp", "-start_epmd", "false"}, more...)
}
