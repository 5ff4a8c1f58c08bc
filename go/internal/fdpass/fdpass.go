// Package fdpass moves exactly one open file a message over a Unix socket of
// type SOCK_SEQPACKET, and says whether a file so received is a TCP connection
// that a node can adopt.
//
//	sender                          receiver
//	  msg, fd   == sendmsg ==>        msg, fd' (SCM_RIGHTS, close-on-exec)
//
// One owner per fd: [Send] leaves its fd with the caller; what [Receive]
// returns without an error is the caller's to close; where Receive fails it has
// closed everything that came with the message.
package fdpass

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// What is wrong with a message that [Receive] read. The message is consumed and
// every fd that came with it is closed; the connection stays usable.
var (
	// ErrNoFD: bytes, but no fd.
	ErrNoFD = errors.New("fdpass: message without a file descriptor")
	// ErrManyFDs: more fds than one.
	ErrManyFDs = errors.New("fdpass: message with more than one file descriptor")
	// ErrTruncated: longer than the buffer.
	ErrTruncated = errors.New("fdpass: message truncated")
	// ErrFiles: the kernel could not install the fd.
	ErrFiles = errors.New("fdpass: too many open files to receive another")
	// ErrEmpty: an fd without a byte of message.
	ErrEmpty = errors.New("fdpass: file descriptor in an empty message")
)

// Send sends msg (at least one byte) and fd as one message; where there is no
// room it waits until the deadline, which becomes c's write deadline. The caller
// keeps fd, and must keep it open during the call.
func Send(c *net.UnixConn, msg []byte, fd int, deadline time.Time) error {
	// Mostly there is room, and a deadline would cost more than the message.
	err := SendNow(c, msg, fd)
	if !errors.Is(err, unix.EAGAIN) {
		return err
	}
	if err = c.SetWriteDeadline(deadline); err == nil {
		_, _, err = c.WriteMsgUnix(msg, unix.UnixRights(fd), nil)
	}
	if err != nil {
		return fmt.Errorf("fdpass: send: %w", err)
	}
	return nil
}

// SendNow is Send without waiting: the error wraps EAGAIN where there is no room.
func SendNow(c *net.UnixConn, msg []byte, fd int) error {
	if len(msg) == 0 {
		return ErrEmpty
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("fdpass: send: %w", err)
	}
	// A whole message or none is written, which is what SOCK_SEQPACKET promises.
	closed := raw.Control(func(s uintptr) { _, err = unix.SendmsgN(int(s), msg, unix.UnixRights(fd), nil, unix.MSG_DONTWAIT) })
	if err = cmp.Or(closed, err); err != nil {
		return fmt.Errorf("fdpass: send: %w", err)
	}
	return nil
}

// Receive reads one message into buf: its length, and the one fd that came with
// it, close-on-exec. The deadline is c's read deadline. It returns io.EOF when
// the peer has closed; with any error fd is -1, and n still counts the bytes in
// buf, so that a refusal can name the message it refuses.
func Receive(c *net.UnixConn, buf []byte) (n, fd int, err error) {
	// CmsgLen and not CmsgSpace: the padding of the latter has room for a
	// second fd, which the kernel would then install without a word.
	oob := make([]byte, unix.CmsgLen(4))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	// The control data first: an fd may be installed whatever err says. A
	// zero-length message reads as io.EOF.
	fds, oobErr := parseRights(oob[:oobn])
	if err = checkMessage(n, len(fds), flags, errors.Join(err, oobErr)); err != nil {
		closeAll(fds)
		return n, -1, err
	}
	return n, fds[0], nil
}

// checkMessage judges what one recvmsg returned; nil says: bytes and exactly one fd.
func checkMessage(n, fds, flags int, err error) error {
	switch {
	case errors.Is(err, io.EOF) && fds == 0 && flags&unix.MSG_CTRUNC == 0:
		return io.EOF
	case errors.Is(err, io.EOF) || err == nil && n == 0:
		return ErrEmpty
	case err != nil:
		return fmt.Errorf("fdpass: receive: %w", err)
	case fds > 1 || fds == 1 && flags&unix.MSG_CTRUNC != 0:
		return ErrManyFDs
	case flags&unix.MSG_TRUNC != 0:
		return ErrTruncated
	case flags&unix.MSG_CTRUNC != 0:
		return ErrFiles
	case fds == 0:
		return ErrNoFD
	}
	return nil
}

// parseRights lists every fd in the control data, also when a part of it is bad.
func parseRights(oob []byte) (fds []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control data: %w", err)
	}
	for i := range msgs {
		if msgs[i].Header.Level != unix.SOL_SOCKET || msgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		got, rightsErr := unix.ParseUnixRights(&msgs[i])
		fds, err = append(fds, got...), errors.Join(err, rightsErr)
	}
	return fds, err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// VetError says what an fd is instead of a TCP connection that can be adopted.
type VetError struct {
	// Is: what it is, for a log line: "a UDP socket", "a listening TCP socket".
	Is string
	// TCP: it is a TCP connection all the same, whose far end can be told.
	TCP bool
	// Err: the system call's error, where one told.
	Err error
}

func (e *VetError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("fdpass: not a TCP connection: %s: %v", e.Is, e.Err)
	}
	return "fdpass: not a TCP connection to adopt: " + e.Is
}

func (e *VetError) Unwrap() error { return e.Err }
