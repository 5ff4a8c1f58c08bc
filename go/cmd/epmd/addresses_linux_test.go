package main

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// noIPv6Env makes the program run as on a kernel without IPv6.
const noIPv6Env = "EPMD_TEST_NO_IPV6"

// withoutIPv6 makes all threads of this process fail to open IPv6 sockets from now on.
func withoutIPv6() error {
	const number, family = 0, 16 // offsets in struct seccomp_data
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: family},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_INET6, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

func init() {
	if os.Getenv(noIPv6Env) == "" {
		return
	}
	if err := withoutIPv6(); err != nil {
		panic(err)
	}
}

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	// In a child, because this thread's namespace is not the process's.
	if out, err := exec.Command("sh", "-c", "echo "+value+" >/proc/sys/"+name).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// listens returns those of the addresses that have a listener.
func listens(port uint16, addresses ...string) (those []string) {
	for _, a := range addresses {
		if c, err := net.Dial("tcp", net.JoinHostPort(a, strconv.Itoa(int(port)))); err == nil {
			_ = c.Close()
			those = append(those, a)
		}
	}
	return those
}

// TestAddresses: the addresses that an EPMD listens on, with IPv6, with IPv6 disabled, and
// on a kernel without IPv6; compared with the stock epmd if possible.
func TestAddresses(t *testing.T) {
	const otherIP = "198.51.100.3"
	stock, _ := exec.LookPath("epmd")
	for name, c := range map[string]struct {
		address string
		off     bool // net.ipv6.conf.all.disable_ipv6
		absent  bool
		want    string
	}{
		"everything":              {"", false, false, "127.0.0.1 ::1 198.51.100.1 198.51.100.2 198.51.100.3"},
		"one":                     {hereIP, false, false, "127.0.0.1 ::1 198.51.100.1"},
		"several":                 {hereIP + "," + thereIP, false, false, "127.0.0.1 ::1 198.51.100.1 198.51.100.2"},
		"blanks, and IPv6":        {"::1, " + thereIP + " ", false, false, "127.0.0.1 ::1 198.51.100.2"},
		"everything, IPv6 off":    {"", true, false, "127.0.0.1 198.51.100.1 198.51.100.2 198.51.100.3"},
		"several, IPv6 off":       {hereIP + "," + thereIP, true, false, "127.0.0.1 198.51.100.1 198.51.100.2"},
		"everything, IPv6 absent": {"", false, true, "127.0.0.1 198.51.100.1 198.51.100.2 198.51.100.3"},
		"several, IPv6 absent":    {hereIP + "," + thereIP, false, true, "127.0.0.1 198.51.100.1 198.51.100.2"},
	} {
		t.Run(name, func(t *testing.T) {
			twoHosts(t)
			if out, err := exec.Command("ip", "addr", "add", otherIP+"/32", "dev", "lo").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if c.off {
				sysctl(t, "net/ipv6/conf/all/disable_ipv6", "1")
			}
			programs := []*exec.Cmd{command(4369, "-address", c.address)}
			if c.absent {
				programs[0].Env = append(programs[0].Env, noIPv6Env+"=1")
			} else if stock != "" {
				programs = append(programs, exec.Command(stock, "-port", "4370", "-address", c.address))
			}
			for i, cmd := range programs {
				await(t, cmd, 4369+uint16(i))
				got := strings.Join(listens(4369+uint16(i), "127.0.0.1", "::1", hereIP, thereIP, otherIP), " ")
				if got != c.want {
					t.Errorf("%s listens on %s, not %s", cmd.Path, got, c.want)
				}
			}
		})
	}
}

// TestAddressesRefused: if an address of the list fails, nothing listens.
func TestAddressesRefused(t *testing.T) {
	twoHosts(t)
	sysctl(t, "net/ipv6/conf/all/disable_ipv6", "1")
	for _, addresses := range []string{hereIP + ",2001:db8::1", "192.0.2.77"} {
		_, errOut, code := run(t, 4369, "-address", addresses)
		bad := addresses[slices.Index([]byte(addresses), ',')+1:]
		if code != 1 || !strings.Contains(errOut, "failed to bind on ipaddr "+bad) {
			t.Errorf("-address %s: %d %q", addresses, code, errOut)
		}
	}
}
