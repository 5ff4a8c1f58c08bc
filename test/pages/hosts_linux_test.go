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

// hosts are the two of ct/hosts.sh, with a home for the nodes' cookie and a
// folder where commands run.
type hosts struct {
	prefix, dir string
}

func script(args ...string) error {
	if out, err := exec.Command(filepath.Join(top, "ct/hosts.sh"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("hosts.sh: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// newHosts makes two hosts, which end with the test and all that runs there.
func newHosts(t *testing.T) *hosts {
	t.Helper()
	for _, built := range []string{"priv/epmd", "_build/default/lib/handover/ebin/handover.app"} {
		if _, err := os.Stat(filepath.Join(top, built)); err != nil {
			t.Skipf("skipped: not built: %v", err)
		}
	}
	if err := script("check"); err != nil {
		t.Skipf("skipped: %v", err)
	}
	h := &hosts{prefix: fmt.Sprintf("pages-%d-%d", os.Getpid(), time.Now().UnixMilli()%100_000), dir: t.TempDir()}
	err := os.WriteFile(filepath.Join(h.dir, ".erlang.cookie"), []byte("pages"), 0o400)
	if err != nil {
		t.Fatal(err)
	}
	if err := script("up", h.prefix); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := script("down", h.prefix); err != nil {
			t.Error(err)
		}
	})
	return h
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(filepath.Join(top, path))
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// command is one on host 1 or 2.
func (h *hosts) command(t *testing.T, host int, args ...string) *exec.Cmd {
	t.Helper()
	args = append([]string{"netns", "exec", fmt.Sprintf("%s-host%d", h.prefix, host)}, args...)
	cmd := exec.CommandContext(t.Context(), "ip", args...)
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), "HOME="+h.dir, "PATH="+absolute(t, "priv")+":"+os.Getenv("PATH")+":/usr/sbin:/sbin",
		"ERL_LIBS="+absolute(t, "_build/default/lib"))
	return cmd
}

// run gives what the command prints, on both ways.
func (h *hosts) run(t *testing.T, host int, stdin string, args ...string) (string, error) {
	t.Helper()
	return output(t, h.command(t, host, args...), stdin)
}

// must is run where it has to work.
func (h *hosts) must(t *testing.T, host int, stdin string, args ...string) string {
	t.Helper()
	out, err := h.run(t, host, stdin, args...)
	if err != nil {
		t.Fatalf("host%d, %v: %v: %s", host, args, err, out)
	}
	return out
}

// output runs the command, for commandTimeout at most. It does not wait for a daemon that
// the command leaves behind and that keeps its output open.
func output(t *testing.T, cmd *exec.Cmd, stdin string) (string, error) {
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
	late := time.AfterFunc(commandTimeout, func() { _ = cmd.Cancel() })
	err := cmd.Wait()
	if !late.Stop() {
		err = fmt.Errorf("not done after %v", commandTimeout)
	}
	if err == exec.ErrWaitDelay {
		err = nil
	}
	return out.String(), err
}

// background runs it until the test's end, and shows what it said if that failed.
func (h *hosts) background(t *testing.T, cmd *exec.Cmd) {
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

// node starts one and waits until its host's EPMD has it.
func (h *hosts) node(t *testing.T, host int, name string, args ...string) {
	t.Helper()
	h.background(t, h.command(t, host, append([]string{"erl", "-noinput", "-sname", fmt.Sprintf("%s@host%d", name, host)}, args...)...))
	h.registered(t, host, name)
}

func (h *hosts) registered(t *testing.T, host int, name string) {
	t.Helper()
	testkit.WaitFor(t, "node "+name, func() bool {
		names, err := h.run(t, host, "", "epmd", "-names")
		return err == nil && strings.Contains(names, "name "+name+" at port")
	})
}

// ping is from a node on host1.
func (h *hosts) ping(t *testing.T, node, want string, args ...string) {
	t.Helper()
	h.pingAs(t, "n1@host1", node, want, args...)
}

func (h *hosts) pingAs(t *testing.T, from, node, want string, args ...string) {
	t.Helper()
	names := "-sname"
	if strings.Contains(from, ".") {
		names = "-name"
	}
	eval := fmt.Sprintf("io:format(\"~s\", [net_adm:ping('%s')]), halt().", node)
	args = append([]string{"erl", "-noinput", names, from, "-eval", eval}, args...)
	if out := h.must(t, 1, "", args...); !strings.Contains(out, want) {
		t.Errorf("%v is not %s: %s", args, want, out)
	}
}

// overHandover are the arguments of a node that is reached through EPMD alone.
func overHandover(more ...string) []string {
	return append([]string{"-proto_dist", "handover_tcp", "-start_epmd", "false"}, more...)
}
