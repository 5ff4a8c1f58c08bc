package carrier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/portproto"
)

// heartbeat is the connection of an accepted ALIVE2_REQ. While it is open the
// node is registered.
type heartbeat struct {
	conn     *net.TCPConn
	creation uint32
	kind     portproto.Kind
	highest  uint16     // distribution version of HANDOVER_RESP
	bind     netip.Addr // Register.Bind
}

// addresses returns the addresses of EPMD's end and of this end.
func (h *heartbeat) addresses() (epmd, own netip.AddrPort) {
	return h.conn.RemoteAddr().(*net.TCPAddr).AddrPort(), h.conn.LocalAddr().(*net.TCPAddr).AddrPort()
}

// registerOnce tries once to register with EPMD.
func registerOnce(ctx context.Context, req portproto.Register) (*heartbeat, error) {
	conn, err := dialEPMD(ctx, req.EPMD)
	if err != nil {
		return nil, dialReason(ctx, err)
	}
	h := &heartbeat{conn: conn, highest: req.Highest, bind: req.Bind}
	h.creation, err = sendAlive2(ctx, conn, req)
	if err == nil {
		h.kind, err = probeKind(ctx, req)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return h, nil
}

func sendAlive2(ctx context.Context, conn net.Conn, req portproto.Register) (creation uint32, err error) {
	b, err := epmdproto.Alive2Req{
		Port: req.Port, NodeType: req.NodeType, Highest: req.Highest, Lowest: req.Lowest,
		Name: req.Name, Extra: req.Extra,
	}.Append(nil)
	if err != nil {
		return 0, withReason(portproto.BadRequest, err)
	}
	err = boundIO(ctx, conn, req.EPMD, func() error {
		if _, err := conn.Write(b); err != nil {
			return err
		}
		resp, err := epmdproto.ReadAlive2Resp(conn)
		if err == nil && resp.Result != 0 {
			return withReason(portproto.DuplicateName, fmt.Errorf("the name %q is taken (result %d)", req.Name, resp.Result))
		}
		creation = resp.Creation
		return err
	})
	return creation, err
}

// errFull: EPMD seems to have too many connections, so it closes new ones at once.
var errFull = errors.New("carrier: EPMD closed a lookup without an answer; does it have too many connections?")

// probeKind finds out which kind of EPMD it is: it asks for a name that no node can have.
// The stock EPMD closes the connection without an answer. So does an EPMD that is full,
// but then a lookup of the name that was just registered gets no answer either.
func probeKind(ctx context.Context, req portproto.Register) (portproto.Kind, error) {
	probe, err := epmdproto.AppendHandoverReq(nil, epmdproto.ProbeName)
	if err != nil {
		return "", err
	}
	answer, err := firstBytes(ctx, req.EPMD, probe)
	switch {
	case err != nil:
		return "", err
	case len(answer) > 0 && answer[0] == epmdproto.AppendHandoverResult(nil, 0)[0]:
		return portproto.KindHandover, nil
	case len(answer) > 0:
		return "", withReason(portproto.EPMDBadAnswer, fmt.Errorf("%w: opcode %d to HANDOVER_REQ", epmdproto.ErrAnswer, answer[0]))
	}
	answer, err = firstBytes(ctx, req.EPMD, epmdproto.AppendRequest(nil, epmdproto.OpPort2, req.Name))
	switch {
	case err != nil:
		return "", err
	case len(answer) == 0:
		return "", withReason(portproto.EPMDClosed, errFull)
	}
	return portproto.KindStock, nil
}

// The reasons why a heartbeat ends, and why no channel socket is opened.
var (
	errEPMDGone = errors.New("EPMD closed the heartbeat")
	errNotAsked = errors.New("EPMD sent bytes on the heartbeat that are not HANDOVER_ASK")
	errNoRoom   = errors.New("carrier: too many channel sockets wait for EPMD to connect")
)

// writeTimeout is how long EPMD may take to read an answer on the heartbeat.
const writeTimeout = 5 * time.Second

// answerAsks answers each HANDOVER_ASK until the heartbeat ends, and returns the reason.
// openSocket opens a channel socket and returns its name. When ctx ends, answerAsks calls
// stop, which must end the heartbeat.
func (h *heartbeat) answerAsks(ctx context.Context, openSocket func() string, stop func()) error {
	defer h.conn.Close()
	defer context.AfterFunc(ctx, stop)()
	var ask [3]byte
	for {
		if _, err := io.ReadFull(h.conn, ask[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return errEPMDGone
			}
			return fmt.Errorf("carrier: heartbeat: %w", err)
		}
		if !bytes.Equal(ask[:], epmdproto.HandoverAsk) {
			return fmt.Errorf("%w: % x", errNotAsked, ask)
		}
		b, err := epmdproto.AppendHandoverSocket(nil, openSocket())
		if err != nil {
			return err
		}
		if err := h.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return fmt.Errorf("carrier: heartbeat: %w", err)
		}
		if _, err := h.conn.Write(b); err != nil {
			return fmt.Errorf("carrier: heartbeat: %w", err)
		}
	}
}
