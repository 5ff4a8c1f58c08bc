package carrier

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// process is a process that was there when it was found.
type process struct {
	pid   int
	stat  string // its file in /proc, "" if it can't be read
	start uint64 // when it started, in clock ticks since boot: pids are used again
}

func findProcess(pid int32) process {
	p := process{pid: int(pid), stat: fmt.Sprintf("/proc/%d/stat", pid)}
	var err error
	if _, _, p.start, err = p.look(); err != nil {
		p.stat = ""
	}
	return p
}

// exiting is PF_EXITING of linux/sched.h: the process can't come back.
const exiting = 0x4

// ending reports whether the process has ended or has begun to. Without /proc it
// knows of those only that are gone.
func (p process) ending() bool {
	if p.stat == "" {
		return unix.Kill(p.pid, 0) == unix.ESRCH
	}
	state, flags, start, err := p.look()
	return err != nil || start != p.start || state == 'Z' || state == 'X' || flags&exiting != 0
}

// look reads /proc/PID/stat (proc(5)): state, flags and starttime are the fields
// 3, 9 and 22. The name, field 2, is in parentheses and may have any character.
func (p process) look() (state byte, flags, start uint64, err error) {
	b, err := os.ReadFile(p.stat)
	if err != nil {
		return 0, 0, 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, 0, fmt.Errorf("carrier: %s has %d fields behind the name", p.stat, len(fields))
	}
	if flags, err = strconv.ParseUint(string(fields[6]), 10, 64); err == nil {
		start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	}
	return fields[0][0], flags, start, err
}
