package fdpass

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/testkit"
)

// pair returns the two ends of a SOCK_SEQPACKET connection.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fdConn(t, fds[0]), fdConn(t, fds[1])
}

func fdConn(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "pair")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

func openFiles(t *testing.T) testkit.Files {
	t.Helper()
	files, err := testkit.OpenFiles()
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// sendRaw sends messages that Send refuses: with any number of descriptors, or empty.
func sendRaw(t *testing.T, c *net.UnixConn, msg []byte, fds ...int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	var sendErr error
	if err := raw.Control(func(s uintptr) {
		// Not SendmsgN: it puts a byte into an empty message.
		sendErr = sendmsg(int(s), msg, oob)
	}); err != nil || sendErr != nil {
		t.Fatal(err, sendErr)
	}
}

func TestSendReceive(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := Send(a, []byte("hello"), int(r.Fd()), time.Time{}); err != nil {
		t.Fatal(err)
	}
	r.Close()
	buf := make([]byte, 64)
	n, fd, err := Receive(b, buf)
	if err != nil || string(buf[:n]) != "hello" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	defer unix.Close(fd)
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("not close-on-exec: %x, %v", flags, err)
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Errorf("the fd is not the pipe's reading end: %v", err)
	}
}

func TestReceiveRefuses(t *testing.T) {
	big := make([]byte, 65)
	for _, tc := range []struct {
		name string
		msg  []byte
		fds  int
		want error
		n    int
	}{
		{"no fd", []byte("abc"), 0, ErrNoFD, 3},
		{"two fds", []byte("abc"), 2, ErrManyFDs, 3},
		{"253 fds", []byte("abc"), 253, ErrManyFDs, 3},
		{"empty with an fd", nil, 1, ErrEmpty, 0},
		{"empty with two", nil, 2, ErrEmpty, 0},
		{"too long", big, 1, ErrTruncated, 64},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := pair(t)
			fds := make([]int, tc.fds)
			before := openFiles(t)
			sendRaw(t, a, tc.msg, fds...)
			n, fd, err := Receive(b, make([]byte, 64))
			if !errors.Is(err, tc.want) || n != tc.n || fd != -1 {
				t.Errorf("%d, %d, %v; want %d, -1, %v", n, fd, err, tc.n, tc.want)
			}
			if left, err := before.Since(); err != nil || len(left) > 0 {
				t.Errorf("left open: %v, %v", left, err)
			}
			stillWorks(t, a, b)
		})
	}
}

func stillWorks(t *testing.T, a, b *net.UnixConn) {
	t.Helper()
	if err := Send(a, []byte{1}, 0, time.Time{}); err != nil {
		t.Fatal(err)
	}
	_, fd, err := Receive(b, make([]byte, 64))
	if err != nil {
		t.Fatalf("after a bad message: %v", err)
	}
	_ = unix.Close(fd)
}

func TestReceiveEOF(t *testing.T) {
	a, b := pair(t)
	a.Close()
	if _, fd, err := Receive(b, make([]byte, 8)); err != io.EOF || fd != -1 {
		t.Errorf("%d, %v; want -1, EOF", fd, err)
	}
}

func TestReceiveDeadline(t *testing.T) {
	_, b := pair(t)
	b.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, _, err := Receive(b, make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v; want a deadline", err)
	}
}

// At the limit of open files the kernel drops the descriptor and only sets MSG_CTRUNC.
func TestReceiveAtFileLimit(t *testing.T) {
	a, b := pair(t)
	if err := Send(a, []byte("abc"), 0, time.Time{}); err != nil {
		t.Fatal(err)
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	n, fd, err := Receive(b, make([]byte, 8))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if n != 3 || fd != -1 || !errors.Is(err, ErrFiles) {
		t.Errorf("%d, %d, %v; want 3, -1, ErrFiles", n, fd, err)
	}
}

func TestSendRefusesEmpty(t *testing.T) {
	a, _ := pair(t)
	if err := Send(a, nil, 0, time.Time{}); !errors.Is(err, ErrEmpty) {
		t.Errorf("%v", err)
	}
}
