package carrier

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// dialEPMD is for the carrier's own connections; see connect for those of the BEAM.
func dialEPMD(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{KeepAlive: -1} // EPMD sees the end of this host's programs
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("carrier: %w", err)
	}
	return conn.(*net.TCPConn), nil
}

// deadliner is a net.Conn or a file.
type deadliner interface{ SetDeadline(time.Time) error }

// boundIO bounds what do reads and writes on conn by ctx.
func boundIO(ctx context.Context, conn deadliner, addr netip.AddrPort, do func() error) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := do()
	if !stop() && err == nil {
		err = context.Cause(ctx) // the deadline of conn is in the past now
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		return ioReason(ctx, fmt.Errorf("carrier: EPMD at %v: %w", addr, err))
	}
	return nil
}

// firstBytes asks EPMD on a connection of its own and returns the first two bytes
// of the answer, or none if EPMD closed without one.
func firstBytes(ctx context.Context, addr netip.AddrPort, question []byte) (answer []byte, err error) {
	conn, err := dialEPMD(ctx, addr)
	if err != nil {
		return nil, dialReason(ctx, err)
	}
	defer conn.Close()
	err = boundIO(ctx, conn, addr, func() error {
		if _, err := conn.Write(question); err != nil && !isHungUp(err) {
			return err
		}
		answer = make([]byte, 2)
		_, err := io.ReadFull(conn, answer)
		if err != nil && isHungUp(err) {
			answer, err = nil, nil
		}
		return err
	})
	return answer, err
}
