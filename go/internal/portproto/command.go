package portproto

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/etf"
)

// Hello is the BEAM's first message.
type Hello struct {
	OSPid    int32
	EPMD     string // program to start if no EPMD listens, or ""
	LogLevel string // debug, info, warning or error
}

// Register asks to register with EPMD and to keep the heartbeat.
type Register struct {
	ID       uint64
	Name     string // alive name
	Port     uint16
	EPMD     netip.AddrPort
	Bind     netip.Addr // the only local address for handed-over connections; the zero Addr for any
	Highest  uint16
	Lowest   uint16
	NodeType byte
	Extra    []byte
}

// Connect asks for a connection to the node Name through the EPMD of its host.
type Connect struct {
	ID      uint64
	Name    string // alive name
	EPMD    netip.AddrPort
	Bind    netip.Addr    // local address, the zero Addr for any
	Timeout time.Duration // of whole milliseconds
}

// Cancel says that the BEAM does not wait for the request ID any more.
type Cancel struct{ ID uint64 }

// Closed says that the BEAM has closed a connection that it was given.
type Closed struct {
	Kind byte // Connected, Accepted or Kept
	ID   uint64
}

// Stop asks the carrier to unregister the node and to end.
type Stop struct{}

func (Hello) isCommand()    {}
func (Register) isCommand() {}
func (Connect) isCommand()  {}
func (Cancel) isCommand()   {}
func (Closed) isCommand()   {}
func (Stop) isCommand()     {}

// VersionError: the hello has another protocol version.
type VersionError struct{ Got int64 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("portproto: hello of protocol version %d, this is version %d: install the Erlang application and the program of one release", e.Got, Version)
}

// RequestError: the request is bad, but has an ID, so that it can be answered.
type RequestError struct {
	ID  uint64
	Err error
}

func (e *RequestError) Error() string { return e.Err.Error() }
func (e *RequestError) Unwrap() error { return e.Err }

// ParseCommand parses a message of the BEAM. The error is a *[VersionError], a
// *[RequestError], or another one that names the wrong field.
func ParseCommand(b []byte) (Command, error) {
	t, err := decodeMessage(b)
	switch {
	case err != nil:
		return nil, err
	case t.matches("hello", 3):
		return parseHello(t)
	case t.matches("register", 3):
		return parseRequest(t, parseRegister)
	case t.matches("connect", 3):
		return parseRequest(t, parseConnect)
	case t.matches("cancel", 2):
		return parseRequest(t, func(r *fieldReader, id uint64) Command { return Cancel{ID: id} })
	case t.matches("closed", 3):
		return parseClosed(t)
	case t.matches("stop", 0):
		return Stop{}, nil
	}
	return nil, t.unknownError()
}

func parseHello(t tuple) (Command, error) {
	r := t.newReader()
	version := r.readInteger("version", t.args[0], -1<<62, 1<<62)
	if r.err == nil && version != Version {
		return nil, &VersionError{Got: version}
	}
	m := r.readMap(t.args[1], "os_pid", "epmd", "log_level")
	h := Hello{
		OSPid:    int32(r.readInteger("os_pid", m["os_pid"], 1, 1<<31-1)),
		EPMD:     r.readBinary("epmd", m["epmd"]),
		LogLevel: r.readOneOf("log_level", m["log_level"], "debug", "info", "warning", "error"),
	}
	return h, r.err
}

// parseRequest reads the ID first, so that an error in another field can be answered.
func parseRequest(t tuple, parse func(*fieldReader, uint64) Command) (Command, error) {
	r := t.newReader()
	id := r.readID(t.args[0])
	if r.err != nil {
		return nil, r.err
	}
	if len(t.args) == 2 {
		r.body = t.args[1]
	}
	c := parse(r, id)
	if r.err != nil {
		return nil, &RequestError{ID: id, Err: r.err}
	}
	return c, nil
}

func parseRegister(r *fieldReader, id uint64) Command {
	m := r.readMap(r.body, "name", "port", "address", "epmd_port", "bind", "highest", "lowest", "node_type", "extra")
	return Register{
		ID:       id,
		Name:     r.readName(m["name"]),
		Port:     uint16(r.readInteger("port", m["port"], 0, 65535)),
		EPMD:     r.readEPMD(m),
		Bind:     r.readBind(m),
		Highest:  uint16(r.readInteger("highest", m["highest"], 0, 65535)),
		Lowest:   uint16(r.readInteger("lowest", m["lowest"], 0, 65535)),
		NodeType: byte(r.readInteger("node_type", m["node_type"], 0, 255)),
		Extra:    []byte(r.readExtra(m["extra"])),
	}
}

func parseConnect(r *fieldReader, id uint64) Command {
	m := r.readMap(r.body, "name", "address", "epmd_port", "bind", "timeout")
	c := Connect{ID: id, Name: r.readName(m["name"]), EPMD: r.readEPMD(m), Bind: r.readBind(m)}
	if r.err == nil && c.Bind.IsValid() && c.Bind.Is4() != c.EPMD.Addr().Is4() {
		r.fail("bind", "%v is of another address family than address %v", c.Bind, c.EPMD.Addr())
	}
	c.Timeout = time.Duration(r.readInteger("timeout", m["timeout"], 1, 1<<31-1)) * time.Millisecond
	return c
}

func (r *fieldReader) readName(v any) string {
	s := r.readBinary("name", v)
	if r.err == nil {
		if err := epmdproto.ValidName(s); err != nil {
			r.fail("name", "%w", err)
		}
	}
	return s
}

func (r *fieldReader) readExtra(v any) string {
	s := r.readBinary("extra", v)
	if len(s) > epmdproto.MaxExtra {
		r.fail("extra", "%d bytes, at most %d fit", len(s), epmdproto.MaxExtra)
	}
	return s
}

func parseClosed(t tuple) (Command, error) {
	r := t.newReader()
	kind := r.readOneOf("kind", t.args[0], slices.Sorted(maps.Values(kindNames))...)
	for k, name := range kindNames {
		if name == kind {
			return Closed{Kind: k, ID: r.readID(t.args[1])}, r.err
		}
	}
	return nil, r.err
}

// kindNames are the kinds of a connection in a Closed.
var kindNames = map[byte]string{Connected: "asked", Accepted: "handed_over", Kept: "kept"}

// readBind reads a local address; an empty binary is the zero Addr.
func (r *fieldReader) readBind(m etf.Map) (addr netip.Addr) {
	if b := r.readBinary("bind", m["bind"]); b != "" {
		addr = r.readAddress("bind", m["bind"])
	}
	return addr
}

func (r *fieldReader) readEPMD(m etf.Map) netip.AddrPort {
	port := r.readInteger("epmd_port", m["epmd_port"], 1, 65535)
	return netip.AddrPortFrom(r.readAddress("address", m["address"]), uint16(port))
}

// Term returns {hello, Version, #{...}}.
func (h Hello) Term() any {
	return etf.Tuple{etf.Atom("hello"), Version, etf.Map{
		"os_pid": int64(h.OSPid), "epmd": []byte(h.EPMD), "log_level": etf.Atom(h.LogLevel),
	}}
}

func (c Register) Term() any {
	return etf.Tuple{etf.Atom("register"), int64(c.ID), etf.Map{
		"name": []byte(c.Name), "port": int(c.Port),
		"address": []byte(c.EPMD.Addr().String()), "epmd_port": int(c.EPMD.Port()), "bind": bindTerm(c.Bind),
		"highest": int(c.Highest), "lowest": int(c.Lowest),
		"node_type": int(c.NodeType), "extra": c.Extra,
	}}
}

func (c Connect) Term() any {
	return etf.Tuple{etf.Atom("connect"), int64(c.ID), etf.Map{
		"name": []byte(c.Name), "address": []byte(c.EPMD.Addr().String()),
		"epmd_port": int(c.EPMD.Port()), "bind": bindTerm(c.Bind),
		"timeout": c.Timeout.Milliseconds(),
	}}
}

func bindTerm(addr netip.Addr) []byte {
	if !addr.IsValid() {
		return []byte{}
	}
	return []byte(addr.String())
}

func (c Closed) Term() any {
	return etf.Tuple{etf.Atom("closed"), etf.Atom(kindNames[c.Kind]), int64(c.ID)}
}

func (c Cancel) Term() any { return etf.Tuple{etf.Atom("cancel"), int64(c.ID)} }

func (Stop) Term() any { return etf.Atom("stop") }
