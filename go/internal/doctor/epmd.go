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

// identifyEPMD finds out which kind of EPMD it is: it asks for a name that no node can
// have. docs/PROTOCOL.md lists the answers.
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
	notEPMD := fmt.Sprintf("a program that is not an EPMD has port %d there (to find it, run on that host: ss -ltnp 'sport = :%[1]d'); "+
		"a proxy or load balancer without an EPMD behind it looks the same", c.addr.Port())
	if !isClosed(err) {
		return failed("not the answer of an EPMD: "+causeText(err), notEPMD)
	}
	if _, err := c.askNames(ctx); err != nil {
		return failed("not the answer of an EPMD to either request: "+causeText(err), notEPMD)
	}
	c.stock = true
	return ok("a stock EPMD, which cannot hand connections over")
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

// checkRegistered looks the node up. If a policy refuses lookups, EPMD answers as for an
// unknown name; then it asks for the handover, which needs no lookup, before it reports
// that there is no such node.
func (c *check) checkRegistered(ctx context.Context) finding {
	conn, err := c.sendRequest(ctx, epmdproto.AppendRequest(nil, epmdproto.OpPort2, c.name))
	if err == nil {
		defer conn.Close()
		c.node, c.known, err = epmdproto.ReadPort2Resp(conn)
	}
	switch {
	case err != nil:
		return failed("no answer to the lookup: "+causeText(err), "see the log of that EPMD; it may have too many connections")
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
		return skipped("unknown: its EPMD does not answer lookups from here", "")
	}
	return ok("it is registered; its EPMD does not answer lookups from here, and a handover needs none")
}

func (c *check) reportUnknown(ctx context.Context) finding {
	names, err := c.askNames(ctx)
	detail := "that EPMD lists no names"
	if err != nil {
		detail = "it does not list its names: " + causeText(err)
	} else if len(names) > 0 {
		detail = "it has " + sampleNames(names)
	}
	return failed(fmt.Sprintf("EPMD has no node %s; %s", printable(c.name), detail),
		"start the node, or correct its name; if the node is running, it has lost its EPMD, uses another ERL_EPMD_PORT, or is hidden by that EPMD's policy (nodes.hidden)")
}

// sampleNames returns the first names, for a line of text.
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

// answer is HANDOVER_RESP, or the reason why there was none.
type answer struct {
	result  epmdproto.Result
	version uint16
	err     error
}

// askHandover asks for the handover if that was not done before. If EPMD handed the
// connection over, c.link is the connection to the node.
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
		return skipped("not possible with a stock EPMD", "stop that epmd and start handover's instead: the nodes register with it by themselves")
	}
	a := c.askHandover(ctx)
	switch {
	case isTimeout(a.err): // the carrier does not read, and EPMD must not answer a connection that it passed
		return failed(causeText(a.err), resultAdvice[epmdproto.NoAnswer])
	case a.err != nil:
		return failed(causeText(a.err), "see the log of that EPMD")
	case a.result == epmdproto.OK:
		return ok(fmt.Sprintf("EPMD handed the connection over; the node speaks distribution version %d", a.version))
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

// notTaking has both reasons why a node registers without handover/1. EPMD does not know
// which one applies.
const notTaking = "start the node with -proto_dist handover_tcp; if it has that option, its log says \"registering as a node that takes no " +
	"handovers\": the kernel of its host does not tell the users of connections, so do there what the log says (load the module tcp_diag, allow " +
	"AF_NETLINK, or mount /proc) and start the node again"

var resultAdvice = map[epmdproto.Result]string{
	epmdproto.NoSuchNode: "the node has just ended, or its EPMD's policy hides it (nodes.hidden)",
	epmdproto.NoHandover: notTaking + ". Its EPMD does not answer lookups from here (allow.lookups), so the node's own port is unknown",
	epmdproto.NoAnswer: "the node did not take the connection in time: check that host's load, and the node's log for its carrier, which " +
		"may be stopped or just starting",
	epmdproto.Refused: "the policy of its EPMD (allow.handovers, nodes.handover) or the node refuses this host: see their logs; " +
		"a node with handover_tcp takes IPv4 connections only, one with handover_tcp6 IPv6 ones",
	epmdproto.Overloaded: "there are too many handovers at once, or too many from here for its policy's rate: try again; if that does not help, the log of " +
		"that EPMD names the user whose nodes do not read their connections",
	epmdproto.CannotPass: "its EPMD cannot pass connections to the node; the log of that EPMD has the reason: the kernel does not tell it the node's " +
		"user (load the module tcp_diag, allow AF_NETLINK, mount /proc, or run both in one user namespace), the node's socket belongs to another user or " +
		"is in another network namespace, or the node's carrier cannot open a socket",
}

// dialNode connects to the node's own port, as a node does that falls back.
func (c *check) dialNode(ctx context.Context) finding {
	if c.node.Port == 0 {
		return failed("the node has no port of its own", "it runs with `listen false`, so it can be reached by handover only: "+
			"stop the stock epmd of its host and start handover's")
	}
	if c.node.Highest < distVersion {
		return failed(fmt.Sprintf("it speaks distribution version %d at most", c.node.Highest), "that node runs OTP 22 or older: use OTP 25 or newer")
	}
	addr := netip.AddrPortFrom(c.addr.Addr(), c.node.Port)
	conn, err := dialBounded(ctx, addr)
	if err != nil {
		return failed(fmt.Sprintf("fallback: %s: %s", addr, causeText(err)), fmt.Sprintf("allow that node's own port, %d, in the firewalls; better, use "+
			"handover on both sides (its epmd, and -proto_dist handover_tcp), which needs EPMD's port only", c.node.Port))
	}
	c.link = conn
	return ok("fallback: connected to " + addr.String())
}
