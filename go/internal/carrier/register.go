package carrier

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	"handover/go/internal/peercred"
	"handover/go/internal/portproto"
)

// The pauses between two attempts to register again double from minBackoff to maxBackoff,
// so that the node is back within a second after EPMD.
const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 900 * time.Millisecond
)

// handleRegister registers the node and answers the BEAM. From then on the node stays
// registered, or is registered again, until the carrier ends.
func (c *carrier) handleRegister(ctx context.Context, req portproto.Register) error {
	if !c.claimRegistration(true) {
		return withReason(portproto.BadRequest, errors.New("carrier: registered already; a carrier serves one name"))
	}
	h, err := c.registerStartingEPMD(ctx, req)
	if err != nil {
		c.claimRegistration(false)
		return err
	}
	c.out.send(portproto.Registered{ID: req.ID, Creation: h.creation, Kind: h.kind})
	c.wg.Go(func() { c.serveHeartbeat(h, req) })
	return nil
}

// claimRegistration sets c.registered. It returns false if it was set to wanted already.
func (c *carrier) claimRegistration(wanted bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.registered != wanted
	c.registered = wanted
	return changed
}

// registerStartingEPMD is like tryRegister, but starts EPMD if nothing listens on its port
// of this host.
func (c *carrier) registerStartingEPMD(ctx context.Context, req portproto.Register) (*heartbeat, error) {
	h, err := c.tryRegister(ctx, req)
	if !errors.Is(err, syscall.ECONNREFUSED) || c.hello.EPMD == "" || !req.EPMD.Addr().IsLoopback() {
		return h, err
	}
	if err := c.startEPMD(ctx, req.EPMD); err != nil {
		return nil, err
	}
	return c.tryRegister(ctx, req)
}

// tryRegister tries once to register, for RegisterTimeout at most.
func (c *carrier) tryRegister(ctx context.Context, req portproto.Register) (*heartbeat, error) {
	ctx, release := context.WithTimeout(ctx, c.o.RegisterTimeout)
	defer release()
	// Any other error may be gone when EPMD asks for a socket.
	err := c.o.available()
	if lasts := errors.Is(err, peercred.ErrUnavailable) || errors.Is(err, errors.ErrUnsupported); lasts && len(req.Extra) > 0 {
		// EPMD could not find the node's user, nor the carrier EPMD's.
		c.log.Warn().Err(err).Msg("registering as a node that takes no handovers")
		req.Extra = nil
	}
	return registerOnce(ctx, req)
}

// serveHeartbeat serves the heartbeat until the carrier ends. When it is lost, it registers
// the node again.
func (c *carrier) serveHeartbeat(h *heartbeat, req portproto.Register) {
	for {
		openSocket := func() string {
			if h.kind == portproto.KindStock { // EPMD was full when it was probed
				h.kind = portproto.KindHandover
				c.out.send(portproto.EPMDUp{Kind: h.kind})
			}
			return c.openChannelSocket(h)
		}
		err := h.answerAsks(c.ctx, openSocket, func() { c.closeHeartbeat(h.conn) })
		if c.ctx.Err() != nil {
			return
		}
		c.out.send(portproto.EPMDDown{Detail: err.Error()})
		if h = c.reregister(req); h == nil {
			return
		}
		c.out.send(portproto.EPMDUp{Kind: h.kind})
	}
}

// reregister tries to register until it succeeds. It returns nil if the carrier ends.
func (c *carrier) reregister(req portproto.Register) *heartbeat {
	logged := portproto.Reason("")
	for pause := minBackoff; ; pause = min(2*pause, maxBackoff) {
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-c.ctx.Done():
			return nil
		}
		h, err := c.registerStartingEPMD(c.ctx, req)
		if err == nil {
			return h
		}
		if r := reasonOf(err); r != logged && c.ctx.Err() == nil {
			logged = r // each new reason once: this may go on for days
			c.log.Warn().Err(err).Str("reason", string(r)).Msg("cannot register again yet")
		}
	}
}

// closeHeartbeat closes the heartbeat, which unregisters the node. After stop it waits up
// to StopTimeout for EPMD to close its end, so that the name is free when the carrier ends.
func (c *carrier) closeHeartbeat(conn *net.TCPConn) {
	if context.Cause(c.ctx) != errStop {
		_ = conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(c.o.StopTimeout))
	_ = conn.CloseWrite()
}
