package main

import (
	"io"
	"log/syslog"
	"os"
	"time"

	"github.com/rs/zerolog"

	epmdstatus "handover/go/internal/status"
)

// newLog returns a log of warnings and errors, or of everything with -d. It is text if
// stderr is a terminal, else JSON. A daemon has no stderr; it logs to syslog, if the host
// has one.
func newLog(debug int, daemon bool) zerolog.Logger {
	level := zerolog.WarnLevel
	if debug > 0 {
		level = zerolog.DebugLevel
	}
	return zerolog.New(escaping{logWriter(daemon)}).Level(level).With().Timestamp().Logger()
}

func logWriter(daemon bool) zerolog.LevelWriter {
	if daemon {
		w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_WARNING, "epmd")
		if err != nil {
			return zerolog.LevelWriterAdapter{Writer: io.Discard}
		}
		return zerolog.SyslogLevelWriter(w)
	}
	if isTerminal(os.Stderr) {
		return zerolog.LevelWriterAdapter{Writer: zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.DateTime}}
	}
	return zerolog.LevelWriterAdapter{Writer: os.Stderr}
}

// escaping escapes what JSON allows but a terminal must not get: nodes and peers choose
// the names in a line.
type escaping struct{ zerolog.LevelWriter }

// Write writes one line.
func (e escaping) Write(line []byte) (int, error) { return e.WriteLevel(zerolog.NoLevel, line) }

// WriteLevel writes one line.
func (e escaping) WriteLevel(level zerolog.Level, line []byte) (int, error) {
	_, err := e.LevelWriter.WriteLevel(level, []byte(epmdstatus.Printable(string(line))))
	return len(line), err
}
