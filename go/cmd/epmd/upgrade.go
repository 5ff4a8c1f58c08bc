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

// An upgrade executes the file that this program was started from, with the same
// arguments and in the same process, so a supervisor of the pid notices nothing. Before
// that a child process tries the file out. The state is in a memfd, which upgradeEnv
// names: "FD,trial", "FD,daemon" or "FD,foreground".
const (
	upgradeEnv   = "EPMD_UPGRADE"
	trialMode    = "trial"
	trialTimeout = 10 * time.Second
)

// programFile is the path that this program was started by, with its symbolic links, so
// that an upgrade executes what they lead to at that time.
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

// predecessor is what the previous program in this process left.
type predecessor struct {
	state *epmd.State
	mode  string
}

// readPredecessor returns nil if this program does not resume after an upgrade.
func readPredecessor() (*predecessor, error) {
	value, there := os.LookupEnv(upgradeEnv)
	if !there {
		return nil, nil
	}
	_ = os.Unsetenv(upgradeEnv)
	number, mode, _ := strings.Cut(value, ",")
	fd, err := strconv.Atoi(number)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%q: only an upgrade may set this variable", upgradeEnv, value)
	}
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	state, err := epmd.ReadState(f)
	if err != nil {
		return nil, err
	}
	return &predecessor{state, mode}, nil
}

// stateFile returns a close-on-exec file with the state, positioned at its beginning.
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

// runTrial runs the program file as a child process with the state, which has no open
// files. It returns nil if the program can resume from the state.
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

// maxTrialOutput is how many bytes a trial may print, on stdout and on stderr each.
const maxTrialOutput = 64 << 10

// firstBytes keeps the first maxTrialOutput bytes, and calls tooMuch if more are written.
type firstBytes struct {
	kept    []byte
	full    bool
	tooMuch func()
}

// Write returns an error if there is too much, so that the caller stops writing.
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

// execSuccessor replaces this program by the program file. It returns only if that
// failed; then a server of this program can resume from the state.
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
	// A second SIGUSR2 would end the new program before it has a handler.
	signal.Ignore(unix.SIGUSR2)
	fd := int(f.Fd())
	inherited := append(st.FDs(), fd)
	setCloexec(inherited, 0)
	env := append(os.Environ(), fmt.Sprintf("%s=%d,%s", upgradeEnv, fd, mode))
	err = syscall.Exec(programFile, append([]string{os.Args[0]}, os.Args[1:]...), env)
	setCloexec(inherited, unix.FD_CLOEXEC)
	return fmt.Errorf("exec %s: %w", programFile, err)
}

// setCloexec sets the descriptor flag of fds: 0, or unix.FD_CLOEXEC.
func setCloexec(fds []int, flag int) {
	for _, fd := range fds {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag)
	}
}
