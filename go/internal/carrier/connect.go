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

// handleConnect dials EPMD, asks for the node, and gives the connection to the BEAM,
// which reads the answer. That it arrives there is the BEAM's answer.
//
// What takes no waiting, as on this host, is done at once and by bare calls: a
// dial of package net takes goroutines, timers and the poller, and several times
// as long. The rest goes on in a goroutine.
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

// finishConnect waits until fd is connected and takes what is left of the
// question, then until the BEAM takes it. It closes fd.
func (c *carrier) finishConnect(ctx context.Context, req portproto.Connect, fd int, ask []byte) error {
	f := os.NewFile(uintptr(fd), "EPMD") // fd is non-blocking: the poller has it
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
	// Not Fd(), which may take O_NONBLOCK from what the BEAM shares. Control keeps f
	// open meanwhile.
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
