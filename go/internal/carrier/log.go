package carrier

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/rs/zerolog"

	"handover/go/internal/portproto"
)

// levels are zerolog's levels by the names of Erlang's.
var levels = map[string]zerolog.Level{
	"debug": zerolog.DebugLevel, "info": zerolog.InfoLevel,
	"warning": zerolog.WarnLevel, "error": zerolog.ErrorLevel,
}

// logSink converts zerolog's lines to {log, ...} events.
type logSink struct {
	out     *eventWriter
	dropped atomic.Int64
}

func newLogger(out *eventWriter, level string) zerolog.Logger {
	return zerolog.New(&logSink{out: out}).Level(levels[level])
}

// Write takes one line of JSON. It never blocks: if the BEAM does not read, the line is
// dropped, and the next line that is sent has the number of dropped ones.
func (s *logSink) Write(line []byte) (int, error) {
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		return 0, err
	}
	dropped := s.dropped.Swap(0)
	if dropped > 0 {
		m["dropped_before"] = json.Number(strconv.FormatInt(dropped, 10))
	}
	if !s.out.sendNow(logEvent(m)) {
		s.dropped.Add(dropped + 1)
	}
	return len(line), nil
}

func logEvent(m map[string]any) portproto.Log {
	level, _ := m[zerolog.LevelFieldName].(string)
	if level == "warn" {
		level = "warning"
	}
	text, _ := m[zerolog.MessageFieldName].(string)
	delete(m, zerolog.LevelFieldName)
	delete(m, zerolog.MessageFieldName)
	e := portproto.Log{Level: level, Text: text}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		e.Fields = append(e.Fields, portproto.Field{Key: k, Value: fieldValue(m[k])})
	}
	return e
}

func fieldValue(v any) any {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		return v.String()
	}
	b, _ := json.Marshal(v) // it came from JSON
	return string(b)
}
