package carrier

import "golang.org/x/sys/unix"

// newSocket returns a non-blocking, close-on-exec TCP socket.
func newSocket(family int) (fd int, err error) {
	return unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}
