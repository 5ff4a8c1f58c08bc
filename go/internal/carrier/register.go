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

// A lost EPMD is looked for again after minBackoff, then twice as long each
// time. No pause is longer than maxBackoff, so that a restarted one has the node
// back within a second.
const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 900 * time.Millisecond
)

// handleRegister answers the BEAM once; a success is kept up from then on.
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

// claimRegistration says whether it changed anything.
func (c *carrier) claimRegistration(wanted bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.registered != wanted
	c.registered = wanted
	return changed
}

// registerStartingEPMD is tryAlive, but starts EPMD if nothing listens on this host's port.
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

func (c *carrier) tryRegister(ctx context.Context, req portproto.Register) (*heartbeat, error) {
	ctx, release := context.WithTimeout(ctx, c.o.RegisterTimeout)
	defer release()
	// Any other error may be over when EPMD asks.
	err := c.o.available()
	if lasts := errors.Is(err, peercred.ErrUnavailable) || errors.Is(err, errors.ErrUnsupported); lasts && len(req.Extra) > 0 {
		// EPMD could not tell whose the node is, nor the carrier whose EPMD is.
		c.log.Warn().Err(err).Msg("registering as a node that takes no handovers")
		req.Extra = nil
	}
	return registerOnce(ctx, req)
}

// serveHeartbeat serves the heartbeat, and gets it back when it is lost.
func (c *carrier) serveHeartbeat(h *heartbeat, req portproto.Register) {
	for {
		offer := func() string {
			if h.kind == portproto.KindStock { // it was full when it was asked
				h.kind = portproto.KindHandover
				c.out.send(portproto.EPMDUp{Kind: h.kind})
			}
			return c.offerSocket(h)
		}
		err := h.answerAsks(c.ctx, offer, func() { c.closeHeartbeat(h.conn) })
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

// reregister tries until it works, or the carrier ends (nil).
func (c *carrier) reregister(req portproto.Register) *heartbeat {
	said := portproto.Reason("")
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
		if r := reasonOf(err); r != said && c.ctx.Err() == nil {
			said = r // each new reason once: this may go on for days
			c.log.Warn().Err(err).Str("reason", string(r)).Msg("cannot register again yet")
		}
	}
}

// closeHeartbeat closes the heartbeat, which unregisters the node. After stop it gives
// EPMD a moment to say that it has: then the name is free for the next.
func (c *carrier) closeHeartbeat(conn *net.TCPConn) {
	if context.Cause(c.ctx) != errStop {
		_ = conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(c.o.StopTimeout))
	_ = conn.CloseWrite()
}
