package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// wakeAtParentsEnd has the kernel continue this process, should it be stopped
// (SIGSTOP) when the process that started it ends, which is with the BEAM: a
// stopped carrier can't see that, and would keep the node's name.
func wakeAtParentsEnd() error {
	err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGCONT), 0, 0, 0)
	return os.NewSyscallError("prctl", err)
}
