package main

import (
	"io"
	"log/syslog"
	"os"
	"time"

	"github.com/rs/zerolog"

	epmdstatus "handover/go/internal/status"
)

// newLog writes warnings and errors, with -d everything: for people on a
// terminal, as JSON elsewhere. A daemon has no stderr; it logs with syslog, where
// the host has one.
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

// escaping escapes what JSON lets through and a terminal does not print: the names
// in a line are whatever nodes and peers say.
type escaping struct{ zerolog.LevelWriter }

// Write writes one line.
func (e escaping) Write(line []byte) (int, error) { return e.WriteLevel(zerolog.NoLevel, line) }

// WriteLevel writes one line.
func (e escaping) WriteLevel(level zerolog.Level, line []byte) (int, error) {
	_, err := e.LevelWriter.WriteLevel(level, []byte(epmdstatus.Printable(string(line))))
	return len(line), err
}
