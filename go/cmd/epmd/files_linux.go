package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// setCloexecFrom lets no program that this one starts inherit fds from first on:
// whatever our own parent leaked to us, the daemon shall not keep.
func setCloexecFrom(first uint) error {
	err := unix.CloseRange(first, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC)
	if err != nil && err != unix.ENOSYS {
		return fmt.Errorf("close_range: %w", err)
	}
	return nil
}

// memfd makes an empty file that is in no folder, close-on-exec.
func memfd() (*os.File, error) {
	fd, err := unix.MemfdCreate("epmd-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "epmd-state"), nil
}
