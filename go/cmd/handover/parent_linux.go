package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// wakeAtParentsEnd makes the kernel continue this process if it is stopped (SIGSTOP) when its
// parent ends, which ends with the BEAM. Otherwise a stopped carrier would not notice that, and
// would keep the node registered.
func wakeAtParentsEnd() error {
	err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGCONT), 0, 0, 0)
	return os.NewSyscallError("prctl", err)
}
