package carrier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"handover/go/internal/epmdproto"
	"handover/go/internal/portproto"
)

// connect dials EPMD, asks for the node, and gives the connection to the BEAM,
// which reads the answer. That it arrives there is the BEAM's answer.
func (c *carrier) connect(ctx context.Context, req portproto.Connect) error {
	ask, err := epmdproto.AppendHandoverReq(nil, req.Name)
	if err != nil {
		return because(portproto.BadRequest, err)
	}
	conn, err := dialEPMD(ctx, req.EPMD, req.Bind)
	if err != nil {
		return whyDial(ctx, err)
	}
	defer conn.Close()
	if err := talk(ctx, conn, func() error { _, err := conn.Write(ask); return err }); err != nil {
		return err
	}
	return c.deliverDialled(conn, req)
}

// deliverDialled hands over the socket as the BEAM would have made it.
func (c *carrier) deliverDialled(conn *net.TCPConn, req portproto.Connect) error {
	raw, err := conn.SyscallConn()
	if err == nil {
		err = conn.SetNoDelay(false)
	}
	if err != nil {
		return fmt.Errorf("carrier: %w", err)
	}
	peer := netip.AddrPortFrom(req.EPMD.Addr().WithZone(""), req.EPMD.Port())
	m := portproto.Connection{Kind: portproto.Connected, ID: req.ID, Peer: peer}
	// Not File(): that would take O_NONBLOCK from what the BEAM shares. Control
	// keeps conn alive and its fd open meanwhile.
	ctlErr := raw.Control(func(fd uintptr) { err = c.fds.deliver(m, int(fd), nil) })
	if err = errors.Join(err, ctlErr); errors.Is(err, errBusy) {
		return because(portproto.Overloaded, err)
	}
	return err
}
