package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"handover/go/internal/listen"
)

// The daemon is this program in a session of its own. It writes to a pipe to its
// parent: "ready" when it listens, "running" if another EPMD does, or an error.
const (
	readyEnv     = "EPMD_READY_FD"
	readyFD      = 3
	readyWord    = "ready"
	runningWord  = "running"
	readyTimeout = 30 * time.Second
)

// errRunning: the daemon has ended because another EPMD runs already.
var errRunning = errors.New("there is already a epmd running")

// daemonize starts the daemon and returns when the daemon listens or has failed.
func daemonize() error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	defer r.Close()
	if err := setCloexecFrom(readyFD); err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	cmd := exec.Command(programFile, os.Args[1:]...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", readyEnv, readyFD))
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	return awaitReady(r, cmd.Process)
}

func awaitReady(r *os.File, daemon *os.Process) error {
	if err := r.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		return fmt.Errorf("waiting for the daemon: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(r, 4096))
	if err != nil {
		_ = daemon.Kill()
		return fmt.Errorf("the daemon was not ready after %v: %w", readyTimeout, err)
	}
	switch word := strings.TrimSpace(string(said)); word {
	case readyWord:
		return nil
	case runningWord:
		return errRunning
	case "":
		return errors.New("the daemon ended without a message")
	default:
		return errors.New(word)
	}
}

// readyPipe returns the pipe to the parent, or nil if this process is not the daemon.
func readyPipe() *os.File {
	if os.Getenv(readyEnv) != fmt.Sprint(readyFD) {
		return nil
	}
	_ = os.Unsetenv(readyEnv)
	syscall.CloseOnExec(readyFD)
	signal.Ignore(syscall.SIGHUP)
	return os.NewFile(readyFD, "ready")
}

// reportReady tells the parent the result of listening. It is a no-op if ready is nil.
func reportReady(ready *os.File, err error) {
	if ready == nil {
		return
	}
	word := readyWord
	var inUse *listen.InUseError
	switch {
	case errors.As(err, &inUse) && inUse.EPMD:
		word = runningWord
	case err != nil:
		word = err.Error()
	}
	_, _ = ready.WriteString(word)
	_ = ready.Close()
}
