package fdpass

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendmsg is sendmsg(2) as it is: an empty message stays empty.
func sendmsg(s int, msg, oob []byte) error {
	var h unix.Msghdr
	var iov unix.Iovec
	if len(msg) > 0 {
		iov.Base = &msg[0]
	}
	iov.SetLen(len(msg))
	h.Iov, h.Iovlen = &iov, 1
	if len(oob) > 0 {
		h.Control = &oob[0]
		h.SetControllen(len(oob))
	}
	_, _, e := unix.Syscall(unix.SYS_SENDMSG, uintptr(s), uintptr(unsafe.Pointer(&h)), unix.MSG_NOSIGNAL)
	if e != 0 {
		return e
	}
	return nil
}
