package main

import (
	"io"
	"log/syslog"
	"os"
	"time"

	"github.com/rs/zerolog"
)

// newLog writes warnings and errors, with -d everything: for people on a
// terminal, as JSON elsewhere. A daemon has no stderr; it logs with syslog, where
// the host has one.
func newLog(debug int, daemon bool) zerolog.Logger {
	level := zerolog.WarnLevel
	if debug > 0 {
		level = zerolog.DebugLevel
	}
	return zerolog.New(logWriter(daemon)).Level(level).With().Timestamp().Logger()
}

func logWriter(daemon bool) io.Writer {
	if daemon {
		w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_WARNING, "epmd")
		if err != nil {
			return io.Discard
		}
		return zerolog.SyslogLevelWriter(w)
	}
	if st, err := os.Stderr.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
		return zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.DateTime}
	}
	return os.Stderr
}
