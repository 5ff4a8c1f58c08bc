package carrier

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/peercred"
	"handover/go/internal/portproto"
)

// channels has the open channels, and counts the channel sockets that wait for EPMD.
type channels struct {
	mu      sync.Mutex
	waiting int             // channel sockets that EPMD has not connected to
	open    []*net.UnixConn // oldest first
	lastID  atomic.Uint64   // of the handed-over connections
}

// openChannelSocket opens a channel socket, to which EPMD connects, and serves the channel
// that results. It returns the socket's name, or "" if it cannot open one.
func (c *carrier) openChannelSocket(h *heartbeat) string {
	name := epmdproto.NewSocketName()
	l, err := c.listenChannelSocket(name)
	if err != nil {
		c.log.Error().Err(err).Msg("cannot create the channel socket")
		return ""
	}
	c.wg.Go(func() {
		defer c.closeChannelSocket(l)
		conn, err := c.acceptEPMD(l, h)
		if err != nil {
			if c.ctx.Err() == nil {
				c.log.Warn().Err(err).Msg("EPMD did not connect to the channel socket in time")
			}
			return
		}
		c.wg.Go(func() { c.serveChannel(conn, h) })
	})
	return name
}

func (c *carrier) listenChannelSocket(name string) (*net.UnixListener, error) {
	c.channels.mu.Lock()
	defer c.channels.mu.Unlock()
	if c.channels.waiting >= c.o.MaxChannels {
		return nil, errNoRoom
	}
	l, err := fdpass.Listen(name)
	if err == nil {
		c.channels.waiting++
	}
	return l, err
}

func (c *carrier) closeChannelSocket(l *net.UnixListener) {
	_ = l.Close()
	c.channels.mu.Lock()
	defer c.channels.mu.Unlock()
	c.channels.waiting--
}

// acceptPause is the pause between two attempts while too many files are open.
const acceptPause = 50 * time.Millisecond

// acceptEPMD waits for EPMD to connect, and closes all other connections.
func (c *carrier) acceptEPMD(l *net.UnixListener, h *heartbeat) (*net.UnixConn, error) {
	defer context.AfterFunc(c.ctx, func() { _ = l.Close() })()
	if err := l.SetDeadline(time.Now().Add(c.o.AcceptTimeout)); err != nil {
		return nil, fmt.Errorf("carrier: %w", err)
	}
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			c.log.Warn().Err(err).Msg("cannot accept EPMD's channel yet")
			time.Sleep(acceptPause)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("carrier: %w", err)
		}
		if err = vetEPMD(conn, h); err == nil {
			return conn, nil
		}
		c.log.Warn().Err(err).Msg("refused a connection to the channel socket that is not from EPMD")
		_ = conn.Close()
	}
}

// vetEPMD returns an error unless root opened the channel, or the user did that owns
// EPMD's end of the heartbeat.
func vetEPMD(conn *net.UnixConn, h *heartbeat) error {
	cred, err := peercred.Unix(conn)
	if err != nil || cred.UID == 0 {
		return err
	}
	epmd, own := h.addresses()
	uid, err := peercred.TCPOwner(epmd, own)
	if err != nil {
		return fmt.Errorf("carrier: finding EPMD's user: %w", err)
	}
	if cred.UID != uid {
		return fmt.Errorf("carrier: process %d of uid %d connected; EPMD is uid %d", cred.PID, cred.UID, uid)
	}
	return nil
}

// addChannel adds a channel, and closes the oldest one if there are max already.
func (cs *channels) addChannel(conn *net.UnixConn, max int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if len(cs.open) >= max {
		_ = cs.open[0].Close()
		cs.open = cs.open[1:]
	}
	cs.open = append(cs.open, conn)
}

func (cs *channels) removeChannel(conn *net.UnixConn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for i, other := range cs.open {
		if other == conn {
			cs.open = append(cs.open[:i:i], cs.open[i+1:]...)
		}
	}
	_ = conn.Close()
}

// serveChannel takes passed connections until EPMD closes the channel.
func (c *carrier) serveChannel(conn *net.UnixConn, h *heartbeat) {
	c.channels.addChannel(conn, c.o.MaxChannels)
	defer c.channels.removeChannel(conn)
	defer context.AfterFunc(c.ctx, func() { _ = conn.Close() })()
	for {
		err := c.handlePass(conn, h)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			c.log.Warn().Err(err).Msg("closing EPMD's channel")
			return
		}
	}
}

// handlePass receives one PASS and acknowledges it. The error ends the channel.
func (c *carrier) handlePass(conn *net.UnixConn, h *heartbeat) error {
	var buf [epmdproto.MaxPass + 1]byte
	n, fd, err := fdpass.Receive(conn, buf[:])
	if err != nil && !isMessageError(err) {
		return err
	}
	if err == nil {
		err = c.deliverPassed(buf[:n], fd, h)
	}
	id, known := passID(buf[:n])
	if err != nil {
		level := zerolog.WarnLevel
		if errors.Is(err, unix.ENOTCONN) {
			level = zerolog.DebugLevel // the initiator has closed: any peer can cause this as often as it likes
		}
		c.log.WithLevel(level).Err(err).Uint64("id", id).Msg("refusing a connection that EPMD passed")
	}
	if !known {
		return fmt.Errorf("carrier: a message without an ID to acknowledge: %w", err)
	}
	return c.sendAck(conn, epmdproto.Ack{ID: id, Result: resultOf(err)})
}

func isMessageError(err error) bool {
	return isAny(err, fdpass.ErrNoFD, fdpass.ErrManyFDs, fdpass.ErrTruncated, fdpass.ErrFiles, fdpass.ErrEmpty)
}

// passID reads the ID of a PASS whose other fields may be bad.
func passID(b []byte) (id uint64, known bool) {
	if len(b) < 10 || b[0] != 1 || b[1] != 'P' {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[2:]), true
}

func resultOf(err error) epmdproto.Result {
	switch {
	case err == nil:
		return epmdproto.OK
	case isAny(err, errBusy, fdpass.ErrFiles):
		return epmdproto.Overloaded
	}
	return epmdproto.Refused
}

func (c *carrier) sendAck(conn *net.UnixConn, a epmdproto.Ack) error {
	b := epmdproto.AppendAck(nil, a)
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("carrier: ACK: %w", err)
	}
	// Usually there is room, and setting a deadline would cost more than the send.
	closed := raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT, nil) })
	if err = cmp.Or(closed, err); errors.Is(err, unix.EAGAIN) {
		if err = conn.SetWriteDeadline(time.Now().Add(c.o.SendTimeout)); err == nil {
			_, err = conn.Write(b)
		}
	}
	if err != nil {
		return fmt.Errorf("carrier: ACK: %w", err)
	}
	return nil
}

// deliverPassed vets a passed connection, answers its initiator and delivers it to the
// BEAM. It owns fd. HANDOVER_RESP and the ACK do not wait for the BEAM: if the BEAM is
// stopped for a while, its connections wait in the queue, as they would in the backlog of
// a listener.
func (c *carrier) deliverPassed(msg []byte, fd int, h *heartbeat) error {
	peer, err := vetPassed(msg, fd)
	var vet *fdpass.VetError
	if errors.As(err, &vet) && !vet.TCP {
		_ = unix.Close(fd)
		return err
	}
	if err == nil {
		err = vetLocal(fd, h.bind)
	}
	if err == nil {
		err = c.fds.reserveQueue()
	}
	if err != nil {
		refuseInitiator(fd, resultOf(err))
		_ = unix.Close(fd)
		return err
	}
	if err := writeNow(fd, epmdproto.AppendHandoverOK(nil, h.highest)); err != nil {
		c.fds.releaseQueue()
		_ = unix.Close(fd)
		return fmt.Errorf("carrier: HANDOVER_RESP: %w", err)
	}
	c.deliverAccepted(portproto.Connection{Kind: portproto.Accepted, ID: c.channels.lastID.Add(1), Peer: peer}, fd)
	return nil
}

// vetLocal returns an error unless fd's local address is bind, the node's listen address.
// The zero Addr allows any.
func vetLocal(fd int, bind netip.Addr) error {
	if !bind.IsValid() {
		return nil
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	var local netip.Addr
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		local = netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		local = netip.AddrFrom16(sa.Addr)
	}
	if local != bind.WithZone("") {
		return fmt.Errorf("carrier: a connection to %v; this node takes connections to %v only (inet_dist_use_interface)", local, bind)
	}
	return nil
}

// vetPassed returns the peer of fd, or an error unless fd is the TCP connection that the
// message describes.
func vetPassed(msg []byte, fd int) (netip.AddrPort, error) {
	peer, err := fdpass.VetTCP(fd)
	if err != nil {
		return peer, err
	}
	p, err := epmdproto.ParsePass(msg)
	if err != nil {
		return peer, err
	}
	if bare := netip.AddrPortFrom(peer.Addr().WithZone(""), peer.Port()); bare != p.Peer {
		return peer, fmt.Errorf("carrier: the peer of the connection is %v, but the message says %v", bare, p.Peer)
	}
	return peer, nil
}
