package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmd"
)

// An upgrade is an exec of the file that this program was started from, with the
// same arguments, in the same process: whoever supervises the pid notices nothing.
// Before that the file is tried out as a child. The state travels in a memfd,
// which upgradeEnv names: "FD,trial", "FD,daemon" or "FD,foreground".
const (
	upgradeEnv   = "EPMD_UPGRADE"
	trialMode    = "trial"
	trialTimeout = 10 * time.Second
)

// programFile is the path that this program was started by, symbolic links and all, so
// that an upgrade finds what they lead to by then.
var programFile = programPath()

func programPath() string {
	self, err := os.Executable()
	path, lookErr := exec.LookPath(os.Args[0])
	if lookErr != nil {
		return self
	}
	path, absErr := filepath.Abs(path)
	mine, mineErr := os.Stat(path)
	running, runningErr := os.Stat("/proc/self/exe")
	if cmp.Or(err, absErr, mineErr, runningErr) == nil && os.SameFile(mine, running) {
		return path
	}
	return self
}

// predecessor is what the program before this one in the same process left.
type predecessor struct {
	state *epmd.State
	mode  string
}

// readPredecessor returns what is left, or nil where this program was simply started.
func readPredecessor() (*predecessor, error) {
	value, there := os.LookupEnv(upgradeEnv)
	if !there {
		return nil, nil
	}
	_ = os.Unsetenv(upgradeEnv)
	number, mode, _ := strings.Cut(value, ",")
	fd, err := strconv.Atoi(number)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%q: an upgrade sets it; nothing else should", upgradeEnv, value)
	}
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	state, err := epmd.ReadState(f)
	if err != nil {
		return nil, err
	}
	return &predecessor{state, mode}, nil
}

// stateFile returns an open file with the state, at its beginning, close-on-exec.
func stateFile(st *epmd.State) (*os.File, error) {
	f, err := memfd()
	if err != nil {
		return nil, err
	}
	if err = st.Write(f); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("writing the state: %w", err)
	}
	return f, nil
}

// runTrial runs the program file with the state, without its open files, and returns
// nil when that would have gone on.
func runTrial(st *epmd.State) error {
	f, err := stateFile(st)
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(context.Background(), trialTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, programFile, os.Args[1:]...)
	cmd.WaitDelay = time.Second
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d,%s", upgradeEnv, readyFD, trialMode))
	stdout, stderr := &firstBytes{tooMuch: cancel}, &firstBytes{tooMuch: cancel}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = cmd.Run()
	if err == nil && string(stdout.kept) != readyWord {
		err = errors.New("it did not say that it is ready: not an epmd that can be upgraded to?")
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("not ready after %v", trialTimeout)
	}
	if stdout.full || stderr.full {
		err = fmt.Errorf("it printed more than %d bytes: not an epmd that can be upgraded to?", maxTrialOutput)
	}
	if err != nil {
		return fmt.Errorf("trying out %s: %w: %.200q", programFile, err, bytes.TrimSpace(stderr.kept))
	}
	return nil
}

// maxTrialOutput is how much a program that is tried out may print, on stdout and
// stderr each.
const maxTrialOutput = 64 << 10

// firstBytes keeps maxTrialOutput of what is written, and calls tooMuch at the next.
type firstBytes struct {
	kept    []byte
	full    bool
	tooMuch func()
}

// Write fails when there is too much, so that nobody writes on.
func (f *firstBytes) Write(b []byte) (int, error) {
	room := maxTrialOutput - len(f.kept)
	f.kept = append(f.kept, b[:min(len(b), room)]...)
	if len(b) <= room {
		return len(b), nil
	}
	f.full = true
	f.tooMuch()
	return room, errors.New("too much output")
}

// execSuccessor puts the program file in the place of this program. It returns only
// when that failed; the state is good for going on then.
func execSuccessor(st *epmd.State, daemon bool) error {
	f, err := stateFile(st)
	if err != nil {
		return err
	}
	defer f.Close()
	mode := "foreground"
	if daemon {
		mode = "daemon"
	}
	// A second SIGUSR2 must not find a program that has no handler yet.
	signal.Ignore(unix.SIGUSR2)
	fd := int(f.Fd())
	inherited := append(st.FDs(), fd)
	setCloexec(inherited, 0)
	env := append(os.Environ(), fmt.Sprintf("%s=%d,%s", upgradeEnv, fd, mode))
	err = syscall.Exec(programFile, append([]string{os.Args[0]}, os.Args[1:]...), env)
	setCloexec(inherited, unix.FD_CLOEXEC)
	return fmt.Errorf("exec %s: %w", programFile, err)
}

// setCloexec sets whether an exec closes the files.
func setCloexec(fds []int, flag int) {
	for _, fd := range fds {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag)
	}
}
