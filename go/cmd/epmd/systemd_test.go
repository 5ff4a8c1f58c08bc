package main

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"handover/go/internal/testkit"

	"golang.org/x/sys/unix"
)

// underSystemd starts the program with listening sockets as systemd passes them.
func underSystemd(t *testing.T, notify string, files ...*os.File) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	cmd := command(1, "-systemd")
	// LISTEN_PID must be the program's own pid, which a shell sets before it executes it.
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+notify, "LISTEN_FDS="+string(rune('0'+len(files))))
	cmd.ExtraFiles = files
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd, &stderr
}

func listenerFile(t *testing.T, network, addr string) (*os.File, uint16) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Skipf("skipped: no such listener here: %v", err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestSystemd(t *testing.T) {
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: t.TempDir() + "/notify"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	socket, port := listenerFile(t, "tcp4", "127.0.0.1:0")
	cmd, stderr := underSystemd(t, notify.LocalAddr().String(), socket)
	_ = notify.SetDeadline(time.Now().Add(testkit.Patience))
	buf := make([]byte, 256)
	n, err := notify.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), "READY=1") {
		t.Fatalf("%q, %v; stderr %q", buf[:n], err, stderr)
	}
	register(t, port, "n")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestSystemdRefuses(t *testing.T) {
	t.Run("no socket", func(t *testing.T) {
		cmd, stderr := underSystemd(t, "")
		if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "provides no sockets") {
			t.Errorf("%v, %q", err, stderr)
		}
	})
	t.Run("both families", func(t *testing.T) {
		both, _ := listenerFile(t, "tcp", "[::]:0")
		cmd, stderr := underSystemd(t, "", both)
		if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "BindIPv6Only=ipv6-only") {
			t.Errorf("%v, %q", err, stderr)
		}
	})
}

// TestSystemdNotListening: a socket that is bound but does not listen.
func TestSystemdNotListening(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	cmd, stderr := underSystemd(t, "", f)
	stop := time.AfterFunc(testkit.Patience, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "does not listen: the .socket unit needs ListenStream=") {
		t.Errorf("%v, %q", err, stderr.String())
	}
}
