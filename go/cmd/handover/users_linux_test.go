package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/testkit"
)

// epmd runs as one user, and nodes as two others. The nodes here are this program (asUserEnv) as
// another user: it registers, offers the socket that it is told to, and prints what it gets.

const (
	asUserEnv = "HANDOVER_TEST_NODE" // PORT NAME PATH-TO-OFFER PATH-TO-LISTEN-AT
	epmdUID   = 64501
	app1UID   = 64502
	app2UID   = 64503
)

func needRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root, to run programs as other users")
	}
}

// fakeNode is the main function of the child process. It prints "registered", then "got" for
// each connection.
func fakeNode(args string) error {
	var port uint16
	var name, offered, listens string
	if _, err := fmt.Sscan(args, &port, &name, &offered, &listens); err != nil {
		return err
	}
	if name == "crowd" {
		return crowd(port)
	}
	l, err := fdpass.Listen(listens)
	if err != nil {
		return err
	}
	heartbeat, err := registerAs(port, name)
	if err != nil {
		return err
	}
	fmt.Println("registered")
	go accept(l, strings.HasPrefix(name, "deaf"))
	answer, err := epmdproto.AppendHandoverSocket(nil, offered)
	for err == nil {
		if _, err = io.ReadFull(heartbeat, make([]byte, len(epmdproto.HandoverAsk))); err == nil {
			_, err = heartbeat.Write(answer)
		}
	}
	return err
}

// accept receives the passed connections; a deaf node reads nothing.
func accept(l *net.UnixListener, deaf bool) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		fmt.Println("channel")
		if deaf {
			continue
		}
		for {
			if _, _, err := fdpass.Receive(c, make([]byte, 64)); err != nil {
				break
			}
			fmt.Println("got")
		}
	}
}

// startFake runs a fakeNode as uid and returns its output.
func startFake(t *testing.T, uid uint32, args ...any) (said func(word string, times int) bool) {
	t.Helper()
	cmd := exec.Command(testProgram(t))
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", asUserEnv+"="+strings.TrimSpace(fmt.Sprintln(args...)))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var lines []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			mu.Lock()
			lines = append(lines, s.Text())
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
	})
	said = func(word string, times int) bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Count(strings.Join(lines, " "), word) >= times
	}
	testkit.WaitFor(t, "a node of another user to register", func() bool { return said("registered", 1) })
	return said
}

// testProgram returns a copy of this program that every user can run.
func testProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(built(t, "epmd")), "test")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		program, err := os.ReadFile("/proc/self/exe")
		if err == nil {
			err = os.WriteFile(path, program, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func answerTo(t *testing.T, port uint16, name string) []byte {
	t.Helper()
	c, err := net.Dial("tcp4", testkit.Loopback(port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testkit.Patience))
	b, err := epmdproto.AppendHandoverReq(nil, name)
	if err == nil {
		_, err = c.Write(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 2)
	if _, err := io.ReadFull(c, answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestUsersApart: a node of app1 offers the socket of app2's node. epmd passes no connection
// there.
func TestUsersApart(t *testing.T) {
	needRoot(t)
	port := testkit.FreePort(t)
	startEPMDAs(t, epmdUID, port)
	socket := epmdproto.NewSocketName()
	victim := startFake(t, app2UID, port, "app2", socket, socket)
	for i, offered := range []string{socket, epmdproto.NewSocketName()} {
		name := fmt.Sprint("app1-", i)
		startFake(t, app1UID, port, name, offered, epmdproto.NewSocketName())
		if got := answerTo(t, port, name); !bytes.Equal(got, []byte{'i', byte(epmdproto.CannotPass)}) {
			t.Errorf("%s offers %s: % x", name, offered, got)
		}
	}
	// app1 does not get app2's connections either, since it cannot take its name.
	c := initiateTo(t, port, "app2")
	defer c.Close()
	testkit.WaitFor(t, "app2 to get its own", func() bool { return victim("got", 1) })
	if victim("got", 2) {
		t.Error("app2's node got more than its own connection")
	}
}

func initiateTo(t *testing.T, port uint16, name string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp4", testkit.Loopback(port).String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := epmdproto.AppendHandoverReq(nil, name)
	if err == nil {
		_, err = c.Write(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}
