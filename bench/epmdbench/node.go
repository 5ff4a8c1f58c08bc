package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/portproto"
)

// runCarrier starts a carrier and plays its BEAM: it registers, and closes each connection that is handed over.
func (l load) runCarrier() error {
	cmd := exec.Command(l.program, "port")
	cmd.Stderr = os.Stderr
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	fds, err := l.registerCarrier(stdin, bufio.NewReader(stdout))
	if err == nil {
		go closeConnections(fds, stdin)
		fmt.Println("ready")
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	_ = stdin.Close() // this ends the carrier
	return errors.Join(err, cmd.Wait())
}

// registerCarrier exchanges hello with the carrier, connects to the fd socket and registers the name. It returns the fd socket.
func (l load) registerCarrier(w io.Writer, r *bufio.Reader) (*net.UnixConn, error) {
	var hello portproto.HelloReply
	if err := sendCommand(w, r, portproto.Hello{OSPid: int32(os.Getpid()), LogLevel: "error"}, &hello); err != nil {
		return nil, err
	}
	fds, err := fdpass.Dial(hello.FDSocket)
	if err != nil {
		return nil, err
	}
	var registered portproto.Registered
	return fds, sendCommand(w, r, portproto.Register{
		ID: 1, Name: l.name, EPMD: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(l.port)), Highest: 6,
		Lowest: 5, NodeType: 77, Extra: []byte(epmdproto.Extra),
	}, &registered)
}

// sendCommand sends a command to the carrier and waits for the answer. It ignores log messages.
func sendCommand[E portproto.Event](w io.Writer, r *bufio.Reader, c portproto.Command, answer *E) error {
	frame, err := portproto.AppendFrame(nil, c)
	if err != nil {
		return err
	}
	if _, err := w.Write(frame); err != nil {
		return err
	}
	for {
		frame, err := portproto.ReadFrame(r)
		if err != nil {
			return err
		}
		event, err := portproto.ParseEvent(frame)
		if err != nil {
			return err
		}
		switch e := event.(type) {
		case E:
			*answer = e
			return nil
		case portproto.Log:
		default:
			return fmt.Errorf("%T instead of %T: %+v", e, *answer, e)
		}
	}
}

// closeConnections closes each connection that the carrier passes, and tells the carrier so.
func closeConnections(fds *net.UnixConn, stdin io.Writer) {
	var buf [64]byte
	var frame []byte
	for {
		n, fd, err := fdpass.Receive(fds, buf[:])
		if err != nil {
			return
		}
		_ = unix.Close(fd)
		c, err := portproto.ParseConnection(buf[:n])
		if err == nil {
			frame, err = portproto.AppendFrame(frame[:0], portproto.Closed{Kind: c.Kind, ID: c.ID})
		}
		if err == nil {
			_, err = stdin.Write(frame)
		}
		if err != nil {
			return
		}
	}
}

// runListener plays a node without handover. It accepts each connection, sends four bytes, as many as HANDOVER_RESP has, and
// closes the connection.
func (l load) runListener() error {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{'i', 0, 0, 6}) // the client reports an error
			_ = c.Close()
		}
	}()
	fd, err := l.registerName(l.name, uint16(listener.Addr().(*net.TCPAddr).Port))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
