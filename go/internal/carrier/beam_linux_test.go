package carrier

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/fdpass"
	"handover/go/internal/portproto"
	"handover/go/internal/testkit"
)

// beam plays the BEAM: it runs a carrier in this process, at two pipes.
type beam struct {
	t      *testing.T
	stdin  *os.File
	stdout *os.File
	events chan portproto.Event // closed at the end of stdout
	ended  chan error           // Run's result
	fds    *net.UnixConn
}

// startBEAM runs a carrier that has not been greeted.
func startBEAM(t *testing.T, o Options) *beam {
	t.Helper()
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b := &beam{t: t, stdin: inW, stdout: outR, events: make(chan portproto.Event, 4096), ended: make(chan error, 1)}
	go func() {
		err := Run(context.Background(), inR, outW, io.Discard, o)
		outW.Close()
		b.ended <- err
		inW.Close() // lets the reader of a carrier that ended otherwise go
	}()
	go func() {
		defer close(b.events)
		r := bufio.NewReader(outR)
		for {
			f, err := portproto.ReadFrame(r)
			if err != nil {
				return
			}
			e, err := portproto.ParseEvent(f)
			if err != nil {
				t.Error(err)
				return
			}
			b.events <- e
		}
	}()
	t.Cleanup(func() {
		b.stdin.Close()
		if b.fds != nil {
			b.fds.Close()
		}
		for range b.events {
		}
		b.stdout.Close()
	})
	return b
}

// newBEAM runs a carrier that has been greeted and has its fd socket.
func newBEAM(t *testing.T, o Options) *beam {
	t.Helper()
	return newBEAMWith(t, o, portproto.Hello{})
}

func newBEAMWith(t *testing.T, o Options, h portproto.Hello) *beam {
	t.Helper()
	b := startBEAM(t, o)
	reply := b.greet(h)
	c, err := fdpass.Dial(reply.FDSocket)
	if err != nil {
		t.Fatal(err)
	}
	b.fds = c
	return b
}

func (b *beam) greet(h portproto.Hello) portproto.HelloReply {
	b.t.Helper()
	h.OSPid, h.LogLevel = int32(os.Getpid()), "debug"
	b.say(h)
	return expect[portproto.HelloReply](b)
}

func (b *beam) say(c portproto.Command) {
	b.t.Helper()
	f, err := portproto.AppendFrame(nil, c)
	if err != nil {
		b.t.Fatal(err)
	}
	b.sayBytes(f)
}

func (b *beam) sayBytes(f []byte) {
	b.t.Helper()
	if _, err := b.stdin.Write(f); err != nil {
		b.t.Fatal(err)
	}
}

// expect waits for an event of a type; log events on the way are passed over.
func expect[E portproto.Event](b *beam) E {
	b.t.Helper()
	timer := time.NewTimer(testkit.Patience)
	defer timer.Stop()
	for {
		select {
		case e, ok := <-b.events:
			if !ok {
				b.t.Fatalf("stdout ended; want %T", *new(E))
			}
			if want, ok := e.(E); ok {
				return want
			}
			if _, ok := e.(portproto.Log); !ok {
				b.t.Fatalf("%#v; want %T", e, *new(E))
			}
			b.t.Logf("%+v", e)
		case <-timer.C:
			b.t.Fatalf("no %T", *new(E))
		}
	}
}

// expectLog waits for a log event with that text.
func (b *beam) expectLog(text string) portproto.Log {
	b.t.Helper()
	for {
		if e := expect[portproto.Log](b); e.Text == text {
			return e
		}
	}
}

// expectEnd waits for Run to return.
func (b *beam) expectEnd() error {
	b.t.Helper()
	select {
	case err := <-b.ended:
		return err
	case <-time.After(testkit.Patience):
		b.t.Fatal("the carrier does not end")
		return nil
	}
}

// receive takes one connection from the fd socket.
func (b *beam) receive() (portproto.Connection, *net.TCPConn) {
	b.t.Helper()
	b.fds.SetReadDeadline(time.Now().Add(testkit.Patience))
	m, fd, err := b.receiveFD()
	if err != nil {
		b.t.Fatal(err)
	}
	return m, adoptTCP(b.t, fd)
}

func (b *beam) receiveFD() (portproto.Connection, int, error) {
	buf := make([]byte, 64)
	n, fd, err := fdpass.Receive(b.fds, buf)
	if err != nil {
		return portproto.Connection{}, -1, err
	}
	m, err := portproto.ParseConnection(buf[:n])
	if err != nil {
		unix.Close(fd)
	}
	return m, fd, err
}

func adoptTCP(t *testing.T, fd int) *net.TCPConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "c1")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testkit.Patience))
	return c.(*net.TCPConn)
}

// noneReceived fails the test if the fd socket has a message.
func (b *beam) noneReceived() {
	b.t.Helper()
	b.fds.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if m, fd, err := b.receiveFD(); !errors.Is(err, os.ErrDeadlineExceeded) {
		unix.Close(fd)
		b.t.Errorf("%+v, %v in the fd socket", m, err)
	}
}

func registerAt(addr netip.AddrPort) portproto.Register {
	return portproto.Register{
		ID: 1, Name: "n1", Port: 1234, EPMD: addr, Highest: 6, Lowest: 5, NodeType: 77, Extra: []byte("handover/1"),
	}
}
