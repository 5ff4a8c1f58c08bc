package epmd

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"handover/go/internal/peercred"
	"handover/go/internal/policy"
	"handover/go/internal/registry"
)

// Server is one EPMD. Make it with [New], run it with [Server.Serve].
type Server struct {
	o     Options
	names *registry.Registry
	gate  *gate
	// owners has the users that nodes belong to.
	owners *owners
	// waiting has the connections whose request is not there yet.
	waiting *waiting
	// untaken has the connections whose answer the peer has not read yet.
	untaken *waiting
	lists   lists
	leaving leaving
	stats   *stats
	policy  atomic.Pointer[policy.Policy] // nil: everything is allowed
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
	s := &Server{
		o:       o,
		names:   registry.New(o.MaxOld),
		gate:    newGate(o),
		waiting: newWaiting(o),
		untaken: newUntaken(o),
		stats:   newStats(o),
		owner:   peercred.TCPOwner,
		end:     make(chan struct{}),
		conns:   make(map[*conn]struct{}),
	}
	s.owners = newOwners(o, s.gate)
	messageSize() // while there are files to measure it with
	s.leaving.init()
	return s
}

// Serve answers on the listeners until [Server.Close] or an allowed KILL. It
// closes the listeners and every connection, and returns when the last goroutine
// is gone; for an upgrade it leaves them, see [Server.Left]. The listeners must be of one address family each (IPV6_V6ONLY): a
// connection of a dual-stack one can't be adopted by a node.
func (s *Server) Serve(listeners []*net.TCPListener) error {
	a, err := newAcceptor(s, listeners)
	if err != nil {
		return err
	}
	defer a.close()
	s.wg.Go(a.run)
	<-s.end
	a.stop()
	if s.leaving.frozen.Load() {
		s.freeze(a)
		return nil
	}
	for _, c := range s.parked() {
		c.hangUp()
	}
	s.wg.Wait()
	return nil
}

// Close makes Serve return. It may be called more than once, and before Serve.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.ending {
		s.ending = true
		close(s.end)
	}
	s.mu.Unlock()
	s.leaving.close()
}

// track says no when the server is about to end.
func (s *Server) track(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending && !s.leaving.frozen.Load() {
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
