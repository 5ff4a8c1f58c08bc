package carrier

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/fdpass"
	"handover/go/internal/portproto"
	"handover/go/internal/testkit"
)

// handedOver is a carrier whose BEAM has one connection that was handed over.
func handedOver(t *testing.T) (b *beam, m portproto.Connection, node, initiator *net.TCPConn) {
	t.Helper()
	b, _, heartbeat := registered(t, Options{})
	ch := openChannel(t, heartbeat)
	c1, initiator := tcpPair(t)
	pass(t, ch, 1, c1)
	readAck(t, ch)
	c1.Close()
	m, node = b.receive()
	return b, m, node, initiator
}

// A carrier that ends while its BEAM goes on leaves the connections up.
func TestLinksOutliveCarrier(t *testing.T) {
	b, _, node, initiator := handedOver(t)
	b.stdin.Close()
	b.fds.Close()
	if err := b.expectEnd(); err != nil {
		t.Error(err)
	}
	io.WriteString(initiator, "pipelined")
	both(t, initiator, node)
}

// Closed makes the carrier close its copy, so that the far end notices the BEAM's close.
func TestLinkClosed(t *testing.T) {
	b, m, node, initiator := handedOver(t)
	readString(t, initiator, "i\x00\x00\x06")
	node.Close()
	b.say(portproto.Closed{Kind: m.Kind, ID: m.ID})
	if n, err := initiator.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d, %v; want EOF", n, err)
	}
	b.say(portproto.Closed{Kind: m.Kind, ID: m.ID}) // no copy is left: nothing happens
}

// More links than MaxLinks work, without a copy.
func TestTooManyLinks(t *testing.T) {
	b, _, heartbeat := registered(t, Options{MaxLinks: 1})
	ch := openChannel(t, heartbeat)
	for id := range uint64(2) {
		c1, initiator := tcpPair(t)
		io.WriteString(initiator, "pipelined")
		pass(t, ch, id, c1)
		readAck(t, ch)
		c1.Close()
		_, node := b.receive()
		both(t, initiator, node)
		if id == 1 { // no copy: the close alone ends it
			node.Close()
			if n, err := initiator.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("%d, %v; want EOF", n, err)
			}
		}
	}
}

// Stop does not wait for the connections, since the BEAM waits for the end of the carrier.
func TestStopWithLinks(t *testing.T) {
	b, _, node, initiator := handedOver(t)
	b.say(portproto.Stop{})
	if err := b.expectEnd(); err != nil {
		t.Error(err)
	}
	io.WriteString(initiator, "pipelined")
	both(t, initiator, node)
}

// When the BEAM ends its connections are shut down, although another copy of the descriptor is
// still open: the BEAM's own copies stay open until its memory is freed.
func TestBEAMEnds(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancelCause(t.Context())
	end(errEOF)
	c := &carrier{fds: &fdSocket{ready: make(chan struct{})}, ctx: ctx}
	c.links = links{max: 1, beam: findProcess(int32(cmd.Process.Pid))}
	c1, initiator := tcpPair(t)
	raw, err := c1.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		var copied int
		copied, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		c.links.addCopy(link{portproto.Accepted, 1}, copied)
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		c.endLinks()
		close(ended)
	}()
	io.WriteString(initiator, "still up")
	readString(t, c1, "still up")
	_ = cmd.Process.Kill()
	if n, err := initiator.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d, %v; want EOF", n, err)
	}
	_ = cmd.Wait()
	<-ended
}

// withoutFiles calls f while this process can open no file.
func withoutFiles(t *testing.T, f func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 3, Max: before.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &before)
	if _, err := os.Open("/proc/self/stat"); !errors.Is(err, unix.EMFILE) {
		t.Fatal(err)
	}
	f()
}

// The BEAM passes the links that it has from an earlier carrier.
func TestKeptLinks(t *testing.T) {
	b := newBEAM(t, Options{})
	for id := uint64(1); id <= 50; id++ {
		c1, peer := tcpPair(t)
		keep(t, b, id, c1)
		c1.Close()
		b.say(portproto.Closed{Kind: portproto.Kept, ID: id}) // may be read before KEEP
		if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("%d: %d, %v; want EOF", id, n, err)
		}
	}
}

func keep(t *testing.T, b *beam, id uint64, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		err = fdpass.Send(b.fds, portproto.AppendKeep(nil, id), int(fd), time.Now().Add(testkit.Patience))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A carrier that fails does not wait for its BEAM, which waits for the end of the carrier.
func TestEndForOwnReason(t *testing.T) {
	b, _, node, initiator := handedOver(t)
	b.sayBytes([]byte{255, 255, 255, 255}) // a frame of an impossible length
	select {
	case err := <-b.ended:
		if err == nil {
			t.Error("no reason")
		}
	case <-time.After(endTimeout / 2):
		t.Fatal("the carrier waits")
	}
	io.WriteString(initiator, "pipelined")
	both(t, initiator, node)
}

func TestProcessEnding(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := int32(cmd.Process.Pid)
	for _, p := range []process{findProcess(pid), {pid: int(pid)}} { // with /proc and without
		if p.isEnding() {
			t.Errorf("%+v: a process that runs is ending", p)
		}
	}
	p := findProcess(pid)
	defer p.close()
	withoutFiles(t, func() {
		if p.isEnding() {
			t.Error("without a free descriptor a process that runs is ending")
		}
	})
	_ = cmd.Process.Signal(syscall.SIGKILL)
	testkit.WaitFor(t, "a killed process to be ending", p.isEnding) // a zombie
	_ = cmd.Wait()
	if !p.isEnding() || !(process{pid: int(pid)}).isEnding() {
		t.Error("a process that is gone is not ending")
	}
}
