package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

func command(port uint16, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, args...)
	// The race detector would sleep for a second at each exit.
	cmd.Env = append(os.Environ(), mainEnv+"=1", "GORACE=atexit_sleep_ms=0", "ERL_EPMD_ADDRESS=127.0.0.1", fmt.Sprint("ERL_EPMD_PORT=", port))
	return cmd
}

// run returns the program's output and its exit status.
func run(t *testing.T, port uint16, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := command(port, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func dial(t *testing.T, port uint16) net.Conn {
	t.Helper()
	// Without keep-alive, as nodes do it: with 10,000 connections the probes can be lost,
	// which ends healthy connections.
	d := net.Dialer{KeepAlive: -1}
	c, err := d.Dial("tcp4", testkit.Loopback(port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(testkit.Patience))
	return c
}

func sendAlive2(c net.Conn, name string) error {
	b, err := epmdproto.Alive2Req{Port: 1234, NodeType: 77, Highest: 6, Lowest: 5, Name: name}.Append(nil)
	if err == nil {
		_, err = c.Write(b)
	}
	return err
}

func register(t *testing.T, port uint16, name string) net.Conn {
	t.Helper()
	c := dial(t, port)
	if err := sendAlive2(c, name); err != nil {
		t.Fatal(err)
	}
	if r, err := epmdproto.ReadAlive2Resp(c); err != nil || r.Result != 0 {
		t.Fatal(r, err)
	}
	return c
}

// foreground starts an EPMD and waits until it answers.
func foreground(t *testing.T, port uint16, args ...string) *exec.Cmd {
	t.Helper()
	cmd := command(port, args...)
	await(t, cmd, port)
	return cmd
}

// await starts an EPMD and returns when it answers.
func await(t *testing.T, cmd *exec.Cmd, port uint16) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	if !testkit.Within(func() bool { _, _, code := run(t, port, "-started"); return code == 0 }) {
		t.Fatal("epmd does not answer")
	}
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
