package doctor

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"handover/go/internal/epmdproto"
)

// identifyEPMD asks for the name that no node can have; docs/PROTOCOL.md says how the
// answers differ.
func (c *check) identifyEPMD(ctx context.Context) finding {
	err := applyDeadline(ctx, c.conn)
	probe := epmdproto.AppendRequest(nil, epmdproto.OpHandover, epmdproto.ProbeName)
	if err == nil {
		_, err = c.conn.Write(probe)
	}
	if err == nil {
		_, _, err = epmdproto.ReadHandoverResp(c.conn)
	}
	if err == nil {
		return ok("handover's EPMD")
	}
	notEPMD := fmt.Sprintf("something that is no EPMD has port %d there (see who, on that host: ss -ltnp 'sport = :%[1]d'); "+
		"a proxy or load balancer without an EPMD behind it looks the same", c.addr.Port())
	if !isClosed(err) {
		return failed("no EPMD's answer: "+causeText(err), notEPMD)
	}
	if _, err := c.askNames(ctx); err != nil {
		return failed("no EPMD's answer to either question: "+causeText(err), notEPMD)
	}
	c.stock = true
	return ok("a stock EPMD, which hands nothing over")
}

// maxNames bounds the answer to NAMES_REQ.
const maxNames = 1 << 20

func (c *check) askNames(ctx context.Context) ([]string, error) {
	conn, err := c.sendRequest(ctx, epmdproto.AppendRequest(nil, epmdproto.OpNames, ""))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return epmdproto.ReadNames(io.LimitReader(conn, maxNames))
}

// checkRegistered asks where the node listens. A policy may refuse that, and answers then
// as for an unknown name; the handover, for which nobody needs the port, decides.
func (c *check) checkRegistered(ctx context.Context) finding {
	conn, err := c.sendRequest(ctx, epmdproto.AppendRequest(nil, epmdproto.OpPort2, c.name))
	if err == nil {
		defer conn.Close()
		c.node, c.known, err = epmdproto.ReadPort2Resp(conn)
	}
	switch {
	case err != nil:
		return failed("no answer to the lookup: "+causeText(err), "look into the log of that EPMD; it may have too many connections")
	case c.known && c.node.TakesHandovers() && !c.stock:
		return ok(fmt.Sprintf("its own port is %d; it takes handovers", c.node.Port))
	case c.known && c.stock:
		return ok(fmt.Sprintf("its own port is %d", c.node.Port))
	case c.known:
		return ok(fmt.Sprintf("its own port is %d; it takes no handovers", c.node.Port))
	case c.stock:
		return c.reportUnknown(ctx)
	}
	a := c.askHandover(ctx)
	switch {
	case a.err == nil && a.result == epmdproto.NoSuchNode:
		return c.reportUnknown(ctx)
	case a.err != nil || a.result == epmdproto.Refused || a.result == epmdproto.Overloaded:
		return skipped("its EPMD tells nothing of it", "")
	}
	return ok("it is there; its EPMD tells its port to nobody here, and for a handover need not")
}

func (c *check) reportUnknown(ctx context.Context) finding {
	names, err := c.askNames(ctx)
	detail := "that EPMD tells of no node at all"
	if err != nil {
		detail = "which are there it does not tell: " + causeText(err)
	} else if len(names) > 0 {
		detail = "those there are " + sampleNames(names)
	}
	return failed(fmt.Sprintf("no %s there; %s", printable(c.name), detail),
		"start the node, or correct its name; one that runs has lost its EPMD, uses another ERL_EPMD_PORT, or that EPMD's policy hides it (nodes.hidden)")
}

// sampleNames is the names for a line of text.
func sampleNames(names []string) string {
	const most = 10
	var texts []string
	for _, name := range names[:min(len(names), most)] {
		texts = append(texts, printable(name))
	}
	if more := len(names) - most; more > 0 {
		texts = append(texts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(texts, ", ")
}

// answer is HANDOVER_RESP, or why there was none.
type answer struct {
	result  epmdproto.Result
	version uint16
	err     error
}

// askHandover asks once for the handover; where it is done c.link is the node's.
func (c *check) askHandover(ctx context.Context) answer {
	if c.asked == nil {
		c.asked = new(answer)
		c.link, *c.asked = c.requestHandover(ctx)
	}
	return *c.asked
}

func (c *check) requestHandover(ctx context.Context) (net.Conn, answer) {
	conn, err := c.sendRequest(ctx, epmdproto.AppendRequest(nil, epmdproto.OpHandover, c.name))
	if err != nil {
		return nil, answer{err: err}
	}
	var a answer
	a.result, a.version, a.err = epmdproto.ReadHandoverResp(conn)
	if a.err == nil && a.result == epmdproto.OK {
		return conn, a
	}
	_ = conn.Close()
	return nil, a
}

func (c *check) checkHandover(ctx context.Context) finding {
	if c.stock {
		c.direct = true
		return skipped("not by a stock EPMD", "stop that epmd and start handover's in its place: nodes register with it by themselves")
	}
	a := c.askHandover(ctx)
	switch {
	case isTimeout(a.err): // on its way to a carrier that does not read, when EPMD may say nothing any more
		return failed(causeText(a.err), resultAdvice[epmdproto.NoAnswer])
	case a.err != nil:
		return failed(causeText(a.err), "look into the log of that EPMD")
	case a.result == epmdproto.OK:
		return ok(fmt.Sprintf("the connection is the node's; it speaks distribution version %d", a.version))
	case a.result == epmdproto.NoHandover && c.known:
		c.direct = true
		return skipped("the node takes no handovers", notTaking)
	}
	advice, known := resultAdvice[a.result]
	if !known {
		advice = "that EPMD is newer than this program: use the handover program of its release"
	}
	return failed(fmt.Sprintf("the answer is %d, %s", byte(a.result), a.result), advice)
}

// notTaking has both reasons for which a node registers without handover/1. EPMD does
// not know which it is.
const notTaking = "start the node with -proto_dist handover_tcp; if it runs with that, its log says \"registering as a node that takes no " +
	"handovers\": the kernel of its host does not tell users, so do there what the log says (load the module tcp_diag, allow AF_NETLINK, or mount " +
	"/proc) and start the node again"

var resultAdvice = map[epmdproto.Result]string{
	epmdproto.NoSuchNode: "the node ended at this moment, or its EPMD's policy hides it (nodes.hidden)",
	epmdproto.NoHandover: notTaking + ". Its EPMD tells the node's own port to nobody here (allow.lookups)",
	epmdproto.NoAnswer: "the node did not take the connection in time: look at that host's load, and at the node's log for its carrier, which " +
		"may be stopped or just starting",
	epmdproto.Refused: "the policy of its EPMD (allow.handovers, nodes.handover) or the node refuses this host, and their logs say why; " +
		"a node with handover_tcp takes IPv4 connections only, one with handover_tcp6 IPv6 ones",
	epmdproto.Overloaded: "there are too many handovers at once, or too many from here for its policy's rate: try again; if it stays, the log of " +
		"that EPMD names the user whose nodes do not read their connections",
	epmdproto.CannotPass: "its EPMD can't bring connections to the node, and the log of that EPMD says why: the kernel does not tell it whose the " +
		"node is (load the module tcp_diag, allow AF_NETLINK, mount /proc, or run both in one user namespace), the node's socket is another user's or " +
		"out of its reach, or the " +
		"node's carrier has no socket to offer",
}

// dialNode is OTP's own way, which a node falls back to.
func (c *check) dialNode(ctx context.Context) finding {
	if c.node.Port == 0 {
		return failed("the node listens at no port of its own", "it runs with `listen false`, so handovers alone reach it: "+
			"stop the stock epmd of its host and start handover's")
	}
	if c.node.Highest < distVersion {
		return failed(fmt.Sprintf("it speaks distribution version %d at most", c.node.Highest), "that node is of OTP 22 or older: use 25 or newer")
	}
	addr := netip.AddrPortFrom(c.addr.Addr(), c.node.Port)
	conn, err := dialBounded(ctx, addr)
	if err != nil {
		return failed(fmt.Sprintf("fallback: %s: %s", addr, causeText(err)), fmt.Sprintf("open that node's own port, %d, in the firewalls; better, use "+
			"handover on both sides (its epmd, and -proto_dist handover_tcp), which needs EPMD's port alone", c.node.Port))
	}
	c.link = conn
	return ok("fallback: connected to " + addr.String())
}
