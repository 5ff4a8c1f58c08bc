package peercred

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withoutProc hides /proc during the test.
func withoutProc(t *testing.T) {
	before := procNet
	procNet = t.TempDir() + "/"
	t.Cleanup(func() { procNet = before })
}

// unavailable checks that TCPOwner returns ErrUnavailable, and not ErrNotFound.
func unavailable(t *testing.T) {
	t.Helper()
	local, remote, end, err := ownPair()
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	_, err = TCPOwner(local, remote)
	for what, err := range map[string]error{"TCPOwner": err, "Available": Available()} {
		if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "load the module tcp_diag") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestNoModule: without the module tcp_diag sock_diag answers ENOENT to all.
func TestNoModule(t *testing.T) {
	before := exchangeDiag
	exchangeDiag = func([]byte) ([]byte, error) { return nil, unix.ENOENT }
	diagWorks.Store(false)
	t.Cleanup(func() { exchangeDiag = before })
	owners(t, TCPOwner)
	if err := Available(); err != nil {
		t.Error(err)
	}
	withoutProc(t)
	unavailable(t)
}

// TestNotFoundWithoutProc: /proc is not needed if sock_diag works.
func TestNotFoundWithoutProc(t *testing.T) {
	withoutProc(t)
	diagWorks.Store(false)
	owners(t, TCPOwner)
	if err := Available(); err != nil {
		t.Error(err)
	}
}

// TestNoFiles: an error that passes is not taken for a kernel without sock_diag.
func TestNoFiles(t *testing.T) {
	before := exchangeDiag
	exchangeDiag = func([]byte) ([]byte, error) { return nil, os.NewSyscallError("socket", unix.EMFILE) }
	t.Cleanup(func() { exchangeDiag = before })
	at := netip.MustParseAddrPort("127.0.0.1:1")
	if _, err := TCPOwner(at, at); !errors.Is(err, unix.EMFILE) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// TestNoNetlink: under a seccomp filter as RestrictAddressFamilies= sets it, the
// owner is found in /proc. The filter stays for good, so this is a process of its
// own.
func TestNoNetlink(t *testing.T) {
	const env = "PEERCRED_TEST_NO_NETLINK"
	if os.Getenv(env) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestNoNetlink$", "-test.v")
		cmd.Env = append(os.Environ(), env+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		} else if strings.Contains(string(out), "SKIP") {
			t.Skipf("skipped: %s", out)
		}
		return
	}
	if err := forbidNetlink(); err != nil {
		t.Skip("skipped: no seccomp here:", err)
	}
	if _, err := exchangeDiag(make([]byte, diagReqLen)); !errors.Is(err, unix.EAFNOSUPPORT) {
		t.Fatalf("the filter lets AF_NETLINK through: %v", err)
	}
	owners(t, TCPOwner)
	if err := Available(); err != nil {
		t.Error(err)
	}
	withoutProc(t)
	unavailable(t)
}

// forbidNetlink makes socket(AF_NETLINK, ...) fail in every thread from now on.
func forbidNetlink() error {
	const offNR, offArg0 = 0, 16 // in struct seccomp_data; little-endian
	load := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	equal := func(k uint32, otherwise uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: otherwise}
	}
	end := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	filter := []unix.SockFilter{
		load(offNR), equal(unix.SYS_SOCKET, 3),
		load(offArg0), equal(unix.AF_NETLINK, 1), end(unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)),
		end(unix.SECCOMP_RET_ALLOW),
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	return nil
}
