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

// The daemon is this program again, in a session of its own, with one pipe to
// tell its parent by that it listens: "ready", "running" (another EPMD does), or
// why not.
const (
	readyEnv     = "EPMD_READY_FD"
	readyFD      = 3
	readyWord    = "ready"
	runningWord  = "running"
	readyTimeout = 30 * time.Second
)

// errRunning: the daemon found an EPMD running and ended.
var errRunning = errors.New("there is already a epmd running")

// daemonize starts the daemon and returns when it listens, or why it does not.
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
		return fmt.Errorf("the daemon did not get ready in %v: %w", readyTimeout, err)
	}
	switch word := strings.TrimSpace(string(said)); word {
	case readyWord:
		return nil
	case runningWord:
		return errRunning
	case "":
		return errors.New("the daemon ended without a word")
	default:
		return errors.New(word)
	}
}

// readyPipe is the pipe to tell the parent by, in the daemon; else nil.
func readyPipe() *os.File {
	if os.Getenv(readyEnv) != fmt.Sprint(readyFD) {
		return nil
	}
	_ = os.Unsetenv(readyEnv)
	syscall.CloseOnExec(readyFD)
	signal.Ignore(syscall.SIGHUP)
	return os.NewFile(readyFD, "ready")
}

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
