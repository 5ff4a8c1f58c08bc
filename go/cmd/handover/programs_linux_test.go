package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/portproto"
	"handover/go/internal/testkit"
)

var programs struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	if args := os.Getenv(asUserEnv); args != "" {
		fmt.Fprintln(os.Stderr, "node:", fakeNode(args))
		return
	}
	testkit.CleanEnvironment()
	status := m.Run()
	if programs.dir != "" {
		os.RemoveAll(programs.dir)
	}
	os.Exit(status)
}

// built returns the path of a program of this repository.
func built(t testing.TB, name string) string {
	t.Helper()
	programs.once.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "ho-bin"); programs.err != nil {
			return
		}
		if programs.err = os.Chmod(programs.dir, 0o755); programs.err != nil { // other users run them too
			return
		}
		out, err := exec.Command("go", "build", "-o", programs.dir+"/", "handover/go/cmd/epmd", "handover/go/cmd/handover").CombinedOutput()
		if err != nil {
			programs.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return filepath.Join(programs.dir, name)
}

// start runs a program, as uid if that is not 0.
func start(t testing.TB, uid uint32, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(built(t, name), args...)
	cmd.Stderr = os.Stderr
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill9(cmd) })
	return cmd
}

func kill9(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

func startEPMD(t testing.TB, port uint16) *exec.Cmd {
	t.Helper()
	return startEPMDAs(t, 0, port)
}

func startEPMDAs(t testing.TB, uid uint32, port uint16) *exec.Cmd {
	t.Helper()
	cmd := start(t, uid, "epmd", "-port", fmt.Sprint(port), "-address", "127.0.0.1")
	testkit.WaitFor(t, "epmd to listen", func() bool {
		c, err := net.Dial("tcp4", testkit.Loopback(port).String())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return cmd
}

// node is a carrier with this process for its BEAM.
type node struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	events chan portproto.Event
	fds    *net.UnixConn
}

func startNode(t testing.TB, epmd string) *node {
	t.Helper()
	n := &node{t: t, events: make(chan portproto.Event, 1024)}
	n.cmd = exec.Command(built(t, "handover"), "port")
	n.cmd.Stderr = os.Stderr
	var err error
	if n.stdin, err = n.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go n.read(stdout)
	t.Cleanup(func() {
		kill9(n.cmd)
		if n.fds != nil {
			n.fds.Close()
		}
	})
	n.say(portproto.Hello{OSPid: int32(os.Getpid()), EPMD: epmd, LogLevel: "info"})
	hello := wait[portproto.HelloReply](n)
	if n.fds, err = fdpass.Dial(hello.FDSocket); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) read(stdout io.Reader) {
	defer close(n.events)
	for r := bufio.NewReader(stdout); ; {
		b, err := portproto.ReadFrame(r)
		if err != nil {
			return
		}
		e, err := portproto.ParseEvent(b)
		if err != nil {
			n.t.Error(err)
			return
		}
		n.events <- e
	}
}

func (n *node) say(c portproto.Command) {
	n.t.Helper()
	b, err := portproto.AppendFrame(nil, c)
	if err == nil {
		_, err = n.stdin.Write(b)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

func wait[E portproto.Event](n *node) E {
	n.t.Helper()
	timeout := time.After(testkit.Patience)
	for {
		select {
		case e, ok := <-n.events:
			if want, match := e.(E); match {
				return want
			}
			if _, log := e.(portproto.Log); !ok || !log {
				n.t.Fatalf("%#v; want %T", e, *new(E))
			}
		case <-timeout:
			n.t.Fatalf("no %T", *new(E))
		}
	}
}

func (n *node) register(port uint16) {
	n.t.Helper()
	n.say(portproto.Register{
		ID: 1, Name: "n1", Port: 1, EPMD: testkit.Loopback(port), Highest: 6, Lowest: 5, NodeType: 77, Extra: []byte(epmdproto.Extra),
	})
	if r := wait[portproto.Registered](n); r.Kind != portproto.KindHandover || r.Creation == 0 {
		n.t.Fatalf("%+v", r)
	}
}

// take returns the next connection of the fd socket.
func (n *node) take() (portproto.Connection, net.Conn) {
	n.t.Helper()
	n.fds.SetReadDeadline(time.Now().Add(testkit.Patience))
	buf := make([]byte, 64)
	size, fd, err := fdpass.Receive(n.fds, buf)
	if err != nil {
		n.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "c1")
	defer f.Close()
	m, err := portproto.ParseConnection(buf[:size])
	if err != nil {
		n.t.Fatal(err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		n.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(testkit.Patience))
	return m, c
}

// initiate dials EPMD and sends the request and what comes behind it at once.
func initiate(t testing.TB, port uint16, behind []byte) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp4", testkit.Loopback(port).String())
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(testkit.Patience))
	b, err := epmdproto.AppendHandoverReq(nil, "n1")
	if err == nil {
		_, err = c.Write(append(b, behind...))
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func readBytes(t testing.TB, c net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v; want %d other ones", len(got), err, len(want))
	}
}

// handOver brings one connection through the whole chain and uses it.
func handOver(t testing.TB, n *node, port uint16, i int) {
	t.Helper()
	behind := bytes.Repeat([]byte{byte(i), byte(i >> 8), 'x'}, 1+i*37)
	initiator := initiate(t, port, behind)
	defer initiator.Close()
	m, c := n.take()
	defer c.Close()
	if m.Kind != portproto.Accepted || m.Peer.String() != initiator.LocalAddr().String() {
		t.Fatalf("%+v", m)
	}
	readBytes(t, initiator, epmdproto.AppendHandoverOK(nil, 6))
	readBytes(t, c, behind)
	if _, err := c.Write(behind); err != nil {
		t.Fatal(err)
	}
	readBytes(t, initiator, behind)
}
