package carrier

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// dialEPMD opens a connection for the carrier itself; see handleConnect for those of the
// BEAM.
func dialEPMD(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{KeepAlive: -1} // EPMD is on this host and notices the end of this program
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("carrier: %w", err)
	}
	return conn.(*net.TCPConn), nil
}

// deadliner is a net.Conn or an os.File.
type deadliner interface{ SetDeadline(time.Time) error }

// boundIO runs do, and ends its reads and writes on conn when ctx ends. addr is for the
// error, which has a reason.
func boundIO(ctx context.Context, conn deadliner, addr netip.AddrPort, do func() error) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := do()
	if !stop() && err == nil {
		err = context.Cause(ctx) // the deadline of conn has been moved into the past
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		return ioReason(ctx, fmt.Errorf("carrier: EPMD at %v: %w", addr, err))
	}
	return nil
}

// firstBytes sends a request on a connection of its own and returns the first two bytes of
// the answer, or none if EPMD closes without an answer.
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
