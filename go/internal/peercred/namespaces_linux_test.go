package peercred

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace runs the test that calls it again, in a process of its own with attr,
// and arg for it. It returns the arg in that process, and "" in the first one.
func inNamespace(t *testing.T, attr *syscall.SysProcAttr, arg string) string {
	t.Helper()
	const env = "PEERCRED_TEST_IN_NAMESPACE"
	if inside := os.Getenv(env); inside != "" {
		return inside
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), env+"="+arg)
	cmd.Dir = "/"
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || strings.Contains(string(out), "--- SKIP"):
		t.Skipf("skipped: no such namespace here: %v %s", err, out)
	case err != nil || !strings.Contains(string(out), "--- PASS"):
		t.Errorf("%v: %s", err, out)
	}
	return ""
}

// TestProcOfProcessesOnly: owners are found without sock_diag in a /proc as ProcSubset=pid of
// handover's own unit makes it.
func TestProcOfProcessesOnly(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root, to mount /proc")
	}
	if inNamespace(t, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}, "1") == "" {
		return
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, "subset=pid"); err != nil {
		t.Skip("skipped: no /proc with subset=pid here:", err)
	}
	if _, err := os.Stat("/proc/sys"); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("/proc has more than processes:", err)
	}
	exchangeDiag = func([]byte) ([]byte, error) { return nil, unix.EAFNOSUPPORT }
	owners(t, TCPOwner)
	if err := Available(); err != nil {
		t.Error(err)
	}
}

// TestUnmapped: in a user namespace that maps one user, only that user is recognized.
func TestUnmapped(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root, to have two users")
	}
	name := fmt.Sprintf("peercred-test-%d", os.Getpid())
	there := os.Getenv("PEERCRED_TEST_IN_NAMESPACE")
	if there == "" {
		unixAddr, tcpAddr := greet(listen(t, "unixpacket", "@"+name)), greet(listen(t, "tcp4", "127.0.0.1:0"))
		const user = 64510
		only := []syscall.SysProcIDMap{{ContainerID: 0, HostID: user, Size: 1}}
		inNamespace(t, &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER, UidMappings: only, GidMappings: only, Credential: &syscall.Credential{NoSetGroups: true},
		}, strings.TrimPrefix(unixAddr, "@")+" "+tcpAddr)
		return
	}
	unixName, tcpAddr, _ := strings.Cut(there, " ")
	c, err := net.Dial("unixpacket", "@"+unixName)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if cred, err := Unix(c.(*net.UnixConn)); !errors.Is(err, ErrUnmapped) {
		t.Errorf("a Unix socket of root's outside: %+v, %v", cred, err)
	}
	d, err := net.Dial("tcp4", tcpAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := bufio.NewReader(d).ReadByte(); err != nil { // it is accepted
		t.Fatal(err)
	}
	local, remote := ends(d)
	for what, ask := range map[string]ownerFunc{"TCPOwner": TCPOwner, "TCPOwner by /proc": func(local, remote netip.AddrPort) (uint32, error) {
		before := exchangeDiag
		defer func() { exchangeDiag = before }()
		exchangeDiag = func([]byte) ([]byte, error) { return nil, unix.EAFNOSUPPORT }
		return TCPOwner(local, remote)
	}} {
		if uid, err := ask(remote, local); !errors.Is(err, ErrUnmapped) {
			t.Errorf("%s, root's outside: %d, %v", what, uid, err)
		}
		if uid, err := ask(local, remote); err != nil || uid != 0 {
			t.Errorf("%s, our own: %d, %v", what, uid, err)
		}
	}
	TestUnix(t)
}

// TestNobodyIsAUser: if the overflow uid is mapped, it is a user like any other.
func TestNobodyIsAUser(t *testing.T) {
	if b, err := os.ReadFile("/proc/self/uid_map"); err == nil && !strings.Contains(string(b), "4294967295") {
		t.Skip("skipped: the tests run in a user namespace")
	}
	if err := vetMapped(overflowUID()); err != nil {
		t.Error(err)
	}
}

func listen(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// greet accepts connections and writes a byte to each. It returns the address.
func greet(l net.Listener) string {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = c.Write([]byte{1})
		}
	}()
	return l.Addr().String()
}
