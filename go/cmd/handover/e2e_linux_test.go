package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/portproto"
	"handover/go/internal/testkit"
)

// The programs as they are installed, talking to each other; this test plays the
// BEAM and the initiators.
//
//	initiator == TCP ==> epmd == channel ==> handover port == fd socket ==> test

func TestEndToEnd(t *testing.T) {
	port := testkit.FreePort(t)
	startEPMD(t, port)
	n := startNode(t, "")
	n.register(port)
	for i := range 100 {
		handOver(t, n, port, i)
	}
	n.say(portproto.Stop{})
	if err := n.cmd.Wait(); err != nil {
		t.Errorf("after stop: %v", err)
	}
}

// A carrier that connects to its own EPMD plays both roles.
func TestEndToEndConnect(t *testing.T) {
	port := testkit.FreePort(t)
	startEPMD(t, port)
	n := startNode(t, "")
	n.register(port)
	n.say(portproto.Connect{ID: 7, Name: "n1", EPMD: testkit.Loopback(port), Timeout: testkit.Patience})
	ends := map[byte]net.Conn{}
	for range 2 {
		m, c := n.take()
		defer c.Close()
		ends[m.Kind] = c
	}
	if len(ends) != 2 {
		t.Fatalf("%v", ends)
	}
	readBytes(t, ends[portproto.Connected], epmdproto.AppendHandoverOK(nil, 6))
	for _, end := range []byte{portproto.Connected, portproto.Accepted} {
		if _, err := ends[end].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	readBytes(t, ends[portproto.Connected], []byte("hello"))
	readBytes(t, ends[portproto.Accepted], []byte("hello"))
}

// EPMD may run as another user than the node, and not as root.
func TestEPMDOfAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to run a program as another user")
	}
	port := testkit.FreePort(t)
	startEPMDAs(t, 65534, port)
	n := startNode(t, "")
	n.register(port)
	handOver(t, n, port, 1)
}

func TestEPMDKilled(t *testing.T) {
	port := testkit.FreePort(t)
	epmd := startEPMD(t, port)
	n := startNode(t, "")
	n.register(port)
	handOver(t, n, port, 1)
	initiator := initiate(t, port, []byte("before"))
	defer initiator.Close()
	_, c := n.take()
	defer c.Close()
	readBytes(t, initiator, epmdproto.AppendHandoverOK(nil, 6))

	kill9(epmd)
	wait[portproto.EPMDDown](n)
	startEPMD(t, port)
	if up := wait[portproto.EPMDUp](n); up.Kind != portproto.KindHandover {
		t.Errorf("%+v", up)
	}
	handOver(t, n, port, 2)
	readBytes(t, c, []byte("before")) // the old link has not noticed
}

// The end of a killed carrier frees the node's name, and the links stay up.
func TestCarrierKilled(t *testing.T) {
	port := testkit.FreePort(t)
	startEPMD(t, port)
	n := startNode(t, "")
	n.register(port)
	initiator := initiate(t, port, []byte("before"))
	defer initiator.Close()
	_, c := n.take()
	defer c.Close()
	kill9(n.cmd)
	for {
		again := startNode(t, "")
		again.say(portproto.Register{
			ID: 1, Name: "n1", Port: 1, EPMD: testkit.Loopback(port), Highest: 6, Lowest: 5, NodeType: 77, Extra: []byte(epmdproto.Extra),
		})
		if e := registration(again); e == nil {
			handOver(t, again, port, 3)
			break
		} else if e.Reason != portproto.DuplicateName { // EPMD has not noticed yet
			t.Fatalf("%+v", e)
		}
	}
	readBytes(t, initiator, epmdproto.AppendHandoverOK(nil, 6))
	readBytes(t, c, []byte("before"))
}

// registration returns the error that answers a registration, or nil.
func registration(n *node) *portproto.Error {
	n.t.Helper()
	for e := range n.events {
		switch e := e.(type) {
		case portproto.Registered:
			return nil
		case portproto.Error:
			return &e
		}
	}
	n.t.Fatal("stdout ended")
	return nil
}

// The carrier starts EPMD if none is running, and EPMD outlives it.
func TestStartsEPMD(t *testing.T) {
	port := testkit.FreePort(t)
	t.Cleanup(func() { // after the node's: an EPMD with nodes does not let itself be killed
		if out, err := exec.Command(built(t, "epmd"), "-port", fmt.Sprint(port), "-kill").CombinedOutput(); err != nil {
			t.Errorf("epmd -kill: %v: %s", err, out)
		}
	})
	n := startNode(t, built(t, "epmd"))
	n.register(port)
	handOver(t, n, port, 1)
	n.stdin.Close()
	if err := n.cmd.Wait(); err != nil {
		t.Errorf("after the end of stdin: %v", err)
	}
	c, err := net.Dial("tcp4", testkit.Loopback(port).String())
	if err != nil {
		t.Fatalf("EPMD ended with the carrier that had started it: %v", err)
	}
	c.Close()
}

// If stdout cannot be written, the carrier ends with an exit status and not by SIGPIPE.
func TestBrokenStdout(t *testing.T) {
	cmd := exec.Command(built(t, "handover"), "port")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stdout.Close()
	b, err := portproto.AppendFrame(nil, portproto.Hello{OSPid: int32(os.Getpid()), LogLevel: "info"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write(b); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).ExitStatus() != 1 {
		t.Errorf("%v; want exit status 1", err)
	}
}

// BenchmarkHandover is the whole chain on the loopback: connect, HANDOVER_REQ,
// HANDOVER_RESP, the fd at the BEAM's end, close.
// Initiators and the BEAM's end run here, on the same processors; cpu-us are what
// the two programs alone use.
func BenchmarkHandover(b *testing.B) {
	port := testkit.FreePort(b)
	epmd := startEPMD(b, port)
	n := startNode(b, "")
	n.register(port)
	go func() {
		buf := make([]byte, 64)
		for {
			size, fd, err := fdpass.Receive(n.fds, buf)
			if err != nil {
				return
			}
			syscall.Close(fd)
			if c, err := portproto.ParseConnection(buf[:size]); err == nil {
				n.say(portproto.Closed{Kind: c.Kind, ID: c.ID})
			}
		}
	}()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c := initiate(b, port, nil)
			readBytes(b, c, epmdproto.AppendHandoverOK(nil, 6))
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "handovers/s")
	for name, cmd := range map[string]*exec.Cmd{"epmd": epmd, "carrier": n.cmd} {
		kill9(cmd)
		used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		b.ReportMetric(float64(used.Microseconds())/float64(b.N), name+"-cpu-us/op")
	}
}
