package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// setCloexecFrom makes all descriptors from first on close-on-exec, so that the daemon
// does not inherit what our own parent leaked to us.
func setCloexecFrom(first uint) error {
	err := unix.CloseRange(first, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC)
	if err != nil && err != unix.ENOSYS {
		return fmt.Errorf("close_range: %w", err)
	}
	return nil
}

// memfd returns an empty close-on-exec file that is in no directory.
func memfd() (*os.File, error) {
	fd, err := unix.MemfdCreate("epmd-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "epmd-state"), nil
}
