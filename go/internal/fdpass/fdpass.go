// Package fdpass passes exactly one descriptor per message over a Unix socket of type
// SOCK_SEQPACKET, and checks whether a received descriptor is a TCP connection that a node
// can adopt.
//
//	sender                          receiver
//	  msg, fd   == sendmsg ==>        msg, fd' (SCM_RIGHTS, close-on-exec)
//
// Each descriptor has one owner. After [Send] the caller still owns fd. After a nil error of
// [Receive] the caller must close the descriptor that it returns. If Receive fails, it has
// closed every descriptor that came with the message.
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

// Errors of [Receive]: the message is consumed, every descriptor that came with it is closed,
// and the connection stays usable.
var (
	// ErrNoFD: the message has no descriptor.
	ErrNoFD = errors.New("fdpass: message without a file descriptor")
	// ErrManyFDs: the message has more than one descriptor.
	ErrManyFDs = errors.New("fdpass: message with more than one file descriptor")
	// ErrTruncated: the message is longer than the buffer.
	ErrTruncated = errors.New("fdpass: message truncated")
	// ErrFiles: the kernel could not install the descriptor.
	ErrFiles = errors.New("fdpass: too many open files to receive another")
	// ErrEmpty: a descriptor came without a byte of message.
	ErrEmpty = errors.New("fdpass: file descriptor in an empty message")
)

// Send sends msg (at least one byte) and fd as one message. If there is no room it waits, until
// the deadline at most, and sets c's write deadline for that. The caller owns fd and must keep
// it open during the call.
func Send(c *net.UnixConn, msg []byte, fd int, deadline time.Time) error {
	// Usually there is room, and setting a deadline would cost more than the send.
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

// SendNow is like Send but never waits. The error wraps EAGAIN if there is no room.
func SendNow(c *net.UnixConn, msg []byte, fd int) error {
	if len(msg) == 0 {
		return ErrEmpty
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("fdpass: send: %w", err)
	}
	// SOCK_SEQPACKET sends the whole message or nothing.
	closed := raw.Control(func(s uintptr) { _, err = unix.SendmsgN(int(s), msg, unix.UnixRights(fd), nil, unix.MSG_DONTWAIT) })
	if err = cmp.Or(closed, err); err != nil {
		return fmt.Errorf("fdpass: send: %w", err)
	}
	return nil
}

// Receive reads one message into buf, and returns its length and the one descriptor that came
// with it, which is close-on-exec. It waits until c's read deadline. The error is io.EOF if the
// peer has closed. After any error fd is -1, but n is the number of bytes in buf, so that the
// caller can refuse the message by its ID.
func Receive(c *net.UnixConn, buf []byte) (n, fd int, err error) {
	// CmsgLen and not CmsgSpace, whose padding has room for a second descriptor, which the
	// kernel would install silently.
	oob := make([]byte, unix.CmsgLen(4))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	// The control data first: a descriptor may be installed despite an error. A message of
	// length zero reads as io.EOF.
	fds, oobErr := parseRights(oob[:oobn])
	if err = checkMessage(n, len(fds), flags, errors.Join(err, oobErr)); err != nil {
		closeAll(fds)
		return n, -1, err
	}
	return n, fds[0], nil
}

// checkMessage returns nil if one recvmsg returned bytes and exactly one descriptor.
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

// parseRights returns every descriptor in the control data, even if a part of it is bad.
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

// VetError describes a descriptor that is not a TCP connection that a node can adopt.
type VetError struct {
	// What describes the descriptor, for a log line: "a UDP socket", "a listening TCP socket".
	What string
	// TCP is true if the descriptor is a TCP connection after all, but one that no node can
	// adopt. Then the caller can send its far end a refusal.
	TCP bool
	// Err is the error of the system call that failed, or nil.
	Err error
}

func (e *VetError) Error() string {
	text := "fdpass: not a TCP connection that a node can adopt: " + e.What
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", text, e.Err)
	}
	return text
}

func (e *VetError) Unwrap() error { return e.Err }
