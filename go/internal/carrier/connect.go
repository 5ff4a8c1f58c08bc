package carrier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/portproto"
)

// handleConnect dials EPMD, sends HANDOVER_REQ, and delivers the connection to the BEAM,
// which reads HANDOVER_RESP. The delivery is the answer to the request.
//
// As long as nothing has to wait, as on this host, it uses bare system calls: a dial of
// package net needs goroutines, timers and the poller, and takes several times as long. If
// something has to wait, a goroutine goes on.
func (c *carrier) handleConnect(req portproto.Connect) {
	ask, err := epmdproto.AppendHandoverReq(nil, req.Name)
	if err != nil {
		c.sendError(req.ID, withReason(portproto.BadRequest, err))
		return
	}
	fd, err := beginDial(req.EPMD, req.Bind)
	if err == nil {
		if err = writeNow(fd, ask); err == nil {
			ask = nil
			if c.deliverNow(connectionOf(req), fd) {
				return
			}
		}
	}
	switch {
	case err != nil && !errors.Is(err, unix.EAGAIN): // EAGAIN: not connected yet
		c.sendError(req.ID, ioReason(c.ctx, dialError(req.EPMD, err)))
	case c.startRequest(req.ID, req.Timeout, func(ctx context.Context) error { return c.finishConnect(ctx, req, fd, ask) }):
		return
	}
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

// finishConnect waits until fd is connected, sends ask unless that is nil, and waits until
// the BEAM takes fd. It closes fd.
func (c *carrier) finishConnect(ctx context.Context, req portproto.Connect, fd int, ask []byte) error {
	f := os.NewFile(uintptr(fd), "EPMD") // fd is non-blocking, so the poller waits for it
	defer f.Close()
	raw, err := f.SyscallConn()
	if err == nil && ask != nil {
		err = boundIO(ctx, f, req.EPMD, func() error {
			var sendErr error
			err := raw.Write(func(fd uintptr) bool {
				sendErr = writeNow(int(fd), ask)
				return !errors.Is(sendErr, unix.EAGAIN)
			})
			return cmp.Or(err, sendErr)
		})
	}
	if err != nil {
		return err
	}
	// Not Fd(), which may clear O_NONBLOCK, also for the BEAM. Control keeps f open
	// during the call.
	ctlErr := raw.Control(func(fd uintptr) { err = c.deliverCopy(connectionOf(req), int(fd)) })
	if err = errors.Join(err, ctlErr); errors.Is(err, errBusy) {
		return withReason(portproto.Overloaded, err)
	}
	return err
}

func connectionOf(req portproto.Connect) portproto.Connection {
	peer := netip.AddrPortFrom(req.EPMD.Addr().WithZone(""), req.EPMD.Port())
	return portproto.Connection{Kind: portproto.Connected, ID: req.ID, Peer: peer}
}

func dialError(to netip.AddrPort, err error) error {
	return fmt.Errorf("carrier: dial %v: %w", to, err)
}
