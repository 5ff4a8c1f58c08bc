package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"handover/go/internal/epmdproto"
)

func (c *check) checkName(context.Context) finding {
	var whole bool
	c.name, c.host, whole = strings.Cut(c.target, "@")
	const advice = "give the node's name as its node() shows it, as in n1@host1.example"
	if !whole || c.name == "" || c.host == "" || strings.Contains(c.host, "@") {
		return failed(printable(c.target)+" is not of the form name@host", advice)
	}
	if err := epmdproto.ValidName(c.name); err != nil {
		return failed(causeText(err), advice)
	}
	return ok(fmt.Sprintf("%s on %s", printable(c.name), printable(c.host)))
}

// resolveHost looks the host up, and uses the first address, as a node does.
func (c *check) resolveHost(ctx context.Context) finding {
	host, note := c.host, ""
	if c.o.Host != "" && c.o.Host != c.host {
		host, note = c.o.Host, ", the host to dial instead of the one in the name"
	}
	addrs, err := lookupAddrs(ctx, host)
	if err != nil {
		return failed(fmt.Sprintf("%s has no address here: %s", printable(host), printable(causeText(err))),
			"correct the host, or add its name to /etc/hosts or DNS")
	}
	mine := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.Is4() == c.o.Inet6 })
	if len(mine) == 0 {
		return failed(fmt.Sprintf("%s has no %s address, only %s", printable(host), familyName(c.o.Inet6), joinTexts(addrs)), otherFamily(c.o.Inet6))
	}
	c.addr = netip.AddrPortFrom(mine[0], c.o.Port)
	if len(mine) > 1 {
		note += fmt.Sprintf(", the first of %d: %s", len(mine), joinTexts(mine))
	}
	return ok(mine[0].String() + note)
}

func lookupAddrs(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}

func familyName(inet6 bool) string {
	if inet6 {
		return "IPv6"
	}
	return "IPv4"
}

func otherFamily(inet6 bool) string {
	if inet6 {
		return "leave out --inet6, and use handover_tcp on the nodes"
	}
	return "use --inet6, and handover_tcp6 on the nodes, or give the host an IPv4 address"
}

func (c *check) dialEPMD(ctx context.Context) finding {
	conn, err := dialBounded(ctx, c.addr)
	if err != nil {
		return failed(fmt.Sprintf("%s: %s", c.addr, causeText(err)), dialAdvice(err, c.addr.Port()))
	}
	c.conn = conn
	return ok("connected to " + c.addr.String())
}

func dialAdvice(err error, port uint16) string {
	switch {
	case isTimeout(err):
		return fmt.Sprintf("a firewall drops TCP port %d, or the host is down: allow the port on that host and on the way to it", port)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("the host is up, but nothing listens on port %d, or a firewall rejects the connection: start a node or an epmd there; "+
			"ERL_EPMD_PORT must be the same on all hosts", port)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no route to that address: check the routes, whether the host is up, and whether a firewall rejects the connection"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return fmt.Sprintf("a firewall of this host forbids it: allow outgoing connections to TCP port %d", port)
	}
	return "check the address and the network of this host"
}

// dialBounded connects to addr. The deadline of ctx also bounds reads and writes on the
// connection.
func dialBounded(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err == nil {
		err = applyDeadline(ctx, conn)
	}
	return conn, err
}

func applyDeadline(ctx context.Context, conn net.Conn) error {
	deadline, _ := ctx.Deadline()
	return conn.SetDeadline(deadline)
}

// sendRequest sends EPMD a request on a connection of its own, which the caller must close.
func (c *check) sendRequest(ctx context.Context, request []byte) (net.Conn, error) {
	conn, err := dialBounded(ctx, c.addr)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(request); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// isClosed reports whether the far end closed the connection instead of answering.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// causeText returns the reason in err, without operations and addresses.
func causeText(err error) string {
	var errno syscall.Errno
	var dns *net.DNSError
	switch {
	case isTimeout(err):
		return "no answer in time"
	case errors.Is(err, io.EOF):
		return "closed without an answer"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "closed in the middle of an answer"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &dns):
		return dns.Err
	}
	return strings.TrimPrefix(err.Error(), "epmdproto: ")
}

func joinTexts[T fmt.Stringer](items []T) string {
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = item.String()
	}
	return strings.Join(texts, ", ")
}
