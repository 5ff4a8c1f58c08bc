package portproto

import "handover/go/internal/etf"

// HelloReply is the carrier's first message.
type HelloReply struct {
	FDSocket string // the name of the fd socket, which the BEAM connects to
	Program  string // name and version
}

// Refused is the answer to a bad hello; then the carrier ends.
type Refused struct {
	Reason Reason
	Detail string
}

// Registered answers [Register].
type Registered struct {
	ID       uint64
	Creation uint32
	Kind     Kind
}

// Error answers a [Register] or [Connect] that failed.
type Error struct {
	ID     uint64
	Reason Reason
	Detail string
}

// EPMDUp: the node is registered again.
type EPMDUp struct{ Kind Kind }

// EPMDDown: the heartbeat was lost.
type EPMDDown struct{ Detail string }

// Log is a line for the BEAM's logger.
type Log struct {
	Level  string // debug, info, warning or error
	Text   string
	Fields []Field
}

// Field of a [Log]; Value is a string or an int64.
type Field struct {
	Key   string
	Value any
}

func (HelloReply) isEvent() {}
func (Refused) isEvent()    {}
func (Registered) isEvent() {}
func (Error) isEvent()      {}
func (EPMDUp) isEvent()     {}
func (EPMDDown) isEvent()   {}
func (Log) isEvent()        {}

// ParseEvent parses a message of the carrier. The error is a *[VersionError], or names the
// wrong field.
func ParseEvent(b []byte) (Event, error) {
	t, err := decodeMessage(b)
	if err != nil {
		return nil, err
	}
	r := t.newReader()
	var e Event
	switch {
	case t.matches("hello", 3):
		return parseHelloReply(t)
	case t.matches("refused", 3):
		e = Refused{Reason(r.readOneOf("reason", t.args[0], string(UnknownVersion), string(BadHello))), r.readBinary("detail", t.args[1])}
	case t.matches("registered", 4):
		e = Registered{r.readID(t.args[0]), uint32(r.readInteger("creation", t.args[1], 0, 1<<32-1)), r.readKind(t.args[2])}
	case t.matches("error", 4):
		e = Error{r.readID(t.args[0]), Reason(r.readAtom("reason", t.args[1])), r.readBinary("detail", t.args[2])}
	case t.matches("epmd", 3) && t.args[0] == etf.Atom("up"):
		e = EPMDUp{r.readKind(t.args[1])}
	case t.matches("epmd", 3) && t.args[0] == etf.Atom("down"):
		e = EPMDDown{r.readBinary("detail", t.args[1])}
	case t.matches("log", 4):
		e = Log{r.readOneOf("level", t.args[0], "debug", "info", "warning", "error"), r.readBinary("text", t.args[1]), r.readLogFields(t.args[2])}
	default:
		return nil, t.unknownError()
	}
	if r.err != nil {
		return nil, r.err
	}
	return e, nil
}

func parseHelloReply(t tuple) (Event, error) {
	r := t.newReader()
	version := r.readInteger("version", t.args[0], -1<<62, 1<<62)
	if r.err == nil && version != Version {
		return nil, &VersionError{Got: version}
	}
	m := r.readMap(t.args[1], "fd_socket", "program")
	h := HelloReply{r.readBinary("fd_socket", m["fd_socket"]), r.readBinary("program", m["program"])}
	return h, r.err
}

func (r *fieldReader) readKind(v any) Kind {
	return Kind(r.readOneOf("kind", v, string(KindHandover), string(KindStock)))
}

func (r *fieldReader) readLogFields(v any) []Field {
	l, ok := v.(etf.List)
	if !ok {
		r.fail("fields", "%T instead of a list", v)
	}
	fields := make([]Field, 0, len(l))
	for _, e := range l {
		pair, ok := e.(etf.Tuple)
		if !ok || len(pair) != 2 {
			r.fail("fields", "an element is not a pair")
			break
		}
		f := Field{Key: r.readAtom("fields", pair[0])}
		if n, ok := pair[1].(int64); ok {
			f.Value = n
		} else {
			f.Value = r.readBinary(f.Key, pair[1])
		}
		fields = append(fields, f)
	}
	return fields
}

// Term returns {hello, Version, #{...}}.
func (h HelloReply) Term() any {
	return etf.Tuple{etf.Atom("hello"), Version, etf.Map{
		"fd_socket": []byte(h.FDSocket), "program": []byte(h.Program),
	}}
}

func (e Refused) Term() any {
	return etf.Tuple{etf.Atom("refused"), etf.Atom(e.Reason), []byte(e.Detail)}
}

func (e Registered) Term() any {
	return etf.Tuple{etf.Atom("registered"), int64(e.ID), int64(e.Creation), etf.Atom(e.Kind)}
}

func (e Error) Term() any {
	return etf.Tuple{etf.Atom("error"), int64(e.ID), etf.Atom(e.Reason), []byte(e.Detail)}
}

func (e EPMDUp) Term() any {
	return etf.Tuple{etf.Atom("epmd"), etf.Atom("up"), etf.Atom(e.Kind)}
}

func (e EPMDDown) Term() any {
	return etf.Tuple{etf.Atom("epmd"), etf.Atom("down"), []byte(e.Detail)}
}

func (e Log) Term() any {
	fields := make(etf.List, len(e.Fields))
	for i, f := range e.Fields {
		value := f.Value
		if s, ok := value.(string); ok {
			value = []byte(s)
		}
		fields[i] = etf.Tuple{etf.Atom(f.Key), value}
	}
	return etf.Tuple{etf.Atom("log"), etf.Atom(e.Level), []byte(e.Text), fields}
}
