package epmd

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"handover/go/internal/peercred"
	"handover/go/internal/registry"
)

// Server is one EPMD. Make it with [New], run it with [Server.Serve].
type Server struct {
	o     Options
	names *registry.Registry
	gate  *gate
	// owner is the uid that holds a TCP socket of this host.
	owner func(local, remote netip.AddrPort) (uint32, error)

	clients atomic.Int64   // connections that are no node's
	wg      sync.WaitGroup // every goroutine of this package

	mu     sync.Mutex
	ending bool
	end    chan struct{} // closed with ending
	conns  map[*conn]struct{}
}

// New returns a server that does nothing until Serve.
func New(o Options) *Server {
	o = o.withDefaults()
	return &Server{
		o:     o,
		names: registry.New(o.MaxOld),
		gate:  newGate(o),
		owner: peercred.TCPOwner,
		end:   make(chan struct{}),
		conns: make(map[*conn]struct{}),
	}
}

// Serve answers on the listeners until [Server.Close] or an allowed KILL. It
// closes the listeners and every connection, and returns when the last goroutine
// is gone. The listeners must be of one address family each (IPV6_V6ONLY): a
// connection of a dual-stack one can't be adopted by a node.
func (s *Server) Serve(listeners []*net.TCPListener) (err error) {
	var files []*os.File
	for _, l := range listeners {
		f, raw, openErr := rawListener(l)
		if openErr != nil {
			err = openErr
			s.Close()
			continue
		}
		files = append(files, f)
		s.wg.Go(func() { s.acceptLoop(l.Addr(), raw) })
	}
	<-s.end
	for _, f := range files {
		_ = f.Close()
	}
	for _, c := range s.parked() {
		c.hangUp()
	}
	s.wg.Wait()
	return err
}

// rawListener takes l over, for an accept that sets no option on the connection:
// a net.Listener gives its fd to nobody who wants to wait for it.
func rawListener(l *net.TCPListener) (*os.File, syscall.RawConn, error) {
	defer l.Close()
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("epmd: listener %v: %w", l.Addr(), err)
	}
	dup, dupErr := -1, error(nil)
	err = raw.Control(func(fd uintptr) { dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err = cmp.Or(err, dupErr); err != nil {
		return nil, nil, fmt.Errorf("epmd: listener %v: %w", l.Addr(), err)
	}
	f := os.NewFile(uintptr(dup), l.Addr().String())
	if raw, err = f.SyscallConn(); err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("epmd: listener %v: %w", l.Addr(), err)
	}
	return f, raw, nil
}

// Close makes Serve return. It may be called more than once, and before Serve.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.ending = true
		close(s.end)
	}
}

// track says no when the server is about to end.
func (s *Server) track(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) untrack(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *Server) parked() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}
