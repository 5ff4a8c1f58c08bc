package carrier

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// process is a process that was running when findProcess was called. The caller of
// findProcess must call close.
type process struct {
	pid  int
	stat *os.File // /proc/PID/stat, which stays bound to this process; nil if it could not be opened
}

func findProcess(pid int32) process {
	p := process{pid: int(pid)}
	if f, err := os.Open(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		p.stat = f
	}
	return p
}

func (p process) close() {
	if p.stat != nil {
		_ = p.stat.Close()
	}
}

// exiting is PF_EXITING of linux/sched.h: the process is ending for good.
const exiting = 0x4

// isEnding reports whether the process has ended or is ending, which cannot be undone. Without
// /proc it notices only that the process has ended. It returns false if the check fails.
func (p process) isEnding() bool {
	if p.stat == nil {
		return unix.Kill(p.pid, 0) == unix.ESRCH
	}
	// State and flags are the fields 3 and 9 of proc(5). The name, field 2, is in parentheses
	// and may have any character.
	var b [512]byte
	n, err := p.stat.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return errors.Is(err, unix.ESRCH)
	}
	var state byte
	var flags uint64
	var skipped int
	_, err = fmt.Sscanf(string(b[bytes.LastIndexByte(b[:n], ')')+1:n]), " %c %d %d %d %d %d %d", &state, &skipped, &skipped, &skipped, &skipped, &skipped, &flags)
	return err == nil && (state == 'Z' || state == 'X' || flags&exiting != 0)
}
