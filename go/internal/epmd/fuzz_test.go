package epmd

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/status"
	"handover/go/internal/testkit"
)

var errFuzz = errors.New("not in a fuzz test")

// FuzzRequest sends a stream and its end to a server, whole and then byte by byte.
// For any stream the answer is one that EPMD gives, and no name and no waiting
// connection is left.
func FuzzRequest(f *testing.F) {
	g := newGenerator(1, true)
	for range 50 {
		f.Add([]byte(g.request()))
	}
	f.Add([]byte(framed("h@") + "behind"))
	f.Add([]byte(framed("j")))
	s := New(Options{RelaxedCommandCheck: true})
	// Nobody may upgrade.
	s.users.tcpOwner = func(netip.AddrPort, netip.AddrPort) (uint32, error) { return 0, errFuzz }
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<13 { // more than a socket may hold with nobody reading
			return
		}
		for _, apart := range []bool{false, true} {
			// KILL only ends a server that runs.
			if got := s.stream(t, b, apart); !anAnswer(got) {
				t.Errorf("apart: %v, %q: %q", apart, b, got)
			}
		}
		if n := s.names.Len(); n != 0 {
			t.Errorf("%q: %d names are left", b, n)
		}
		if local, remote := s.conns.waiting.counts(); local+remote+int(s.conns.clients.Load())+len(s.conns.polledConns()) != 0 {
			t.Errorf("%q: something waits on", b)
		}
	})
}

// stream serves one connection to its end and returns the answer.
func (s *Server) stream(t *testing.T, b []byte, apart bool) []byte {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.SetNonblock(fds[0], true)
	}
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[1]), "peer")
	peer, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	_ = peer.SetDeadline(time.Now().Add(testkit.Patience))
	s.conns.mu.Lock()
	if s.conns.ending { // by KILL
		s.conns.ending, s.tasks.end = false, make(chan struct{})
	}
	s.conns.mu.Unlock()
	c := &conn{shared: s.conns, socket: socket{fd: fds[0], peer: netip.MustParseAddrPort("127.0.0.1:5")}, deadline: time.Now().Add(testkit.Patience)}
	served := make(chan struct{})
	write := func() {
		step := max(1, len(b))
		if apart {
			step = 1
		}
		for i := 0; i < len(b); i += step {
			if _, err := peer.Write(b[i:min(i+step, len(b))]); err != nil {
				break // closed for what came before
			}
		}
		_ = peer.(*net.UnixConn).CloseWrite()
	}
	if !apart {
		write()
	}
	go func() { s.serve(c); close(served) }()
	if apart {
		write()
	}
	var got bytes.Buffer
	_, _ = got.ReadFrom(peer)
	<-served
	return got.Bytes()
}

// anAnswer reports whether EPMD gives such an answer.
func anAnswer(got []byte) bool {
	switch string(got) {
	case "", "OK", "NO", epmdproto.UpgradeNo + errFuzz.Error(), "STOPPED", "NOEXISTSTOPPED", "w\x01", "i\x01", "\x00\x00\x00\x00":
		return true
	}
	if bytes.HasPrefix(got, []byte("\x00\x00\x00\x00old/unused name <")) {
		return true
	}
	if told, err := status.Parse(got); err == nil && told.PID == os.Getpid() {
		return true
	}
	in := bytes.NewReader(got)
	r, err := epmdproto.ReadAlive2Resp(in)
	return err == nil && in.Len() == 0 && (r.Result == 1 && r.Creation == epmdproto.NoCreation || r.Result == 0 && r.Creation > 0)
}
