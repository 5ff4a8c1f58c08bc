package carrier

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"handover/go/internal/portproto"
)

const (
	// maxEvents is how many events may wait for the BEAM to read them. When they are
	// that many, requests wait and log events are dropped.
	maxEvents = 256
	// flushTimeout bounds the writing of the last events.
	flushTimeout = 100 * time.Millisecond
	stdinBuffer  = 4096
)

// readCommands handles the BEAM's messages until stdin ends, which ends the carrier at
// once. It handles each message before it reads the next, so that a stop right before the
// end of stdin takes effect. It passes no message to another goroutine: on an idle
// machine waking one takes longer than handling the message.
func (c *carrier) readCommands(stdin io.Reader) {
	r := bufio.NewReaderSize(stdin, stdinBuffer)
	for {
		b, err := portproto.ReadFrame(r)
		if errors.Is(err, io.EOF) {
			if c.lifeline.isCut() {
				c.links.shutdownAll() // here, since waking endLinks would double the time
			}
			err = errEOF
		}
		if err != nil {
			c.end(fmt.Errorf("carrier: stdin: %w", err))
			return
		}
		if err := c.handleMessage(b); err != nil {
			c.end(err)
			return
		}
	}
}

// eventWriter owns stdout, and writes the queued events to it.
type eventWriter struct {
	events chan portproto.Event
	ctx    context.Context
	last   chan struct{} // closed when no more events follow
	done   chan struct{} // closed when nothing is written any more
}

func newEventWriter(ctx context.Context, stdout io.Writer, end context.CancelCauseFunc) *eventWriter {
	w := &eventWriter{
		events: make(chan portproto.Event, maxEvents), ctx: ctx,
		last: make(chan struct{}), done: make(chan struct{}),
	}
	go w.writeEvents(stdout, end)
	return w
}

func (w *eventWriter) writeEvents(stdout io.Writer, end context.CancelCauseFunc) {
	defer close(w.done)
	var buf []byte
	for {
		e, ok := w.nextEvent()
		if !ok {
			return
		}
		b, err := portproto.AppendFrame(buf[:0], e)
		if err == nil {
			_, err = stdout.Write(b)
		}
		if err != nil {
			end(fmt.Errorf("carrier: stdout: %w", err))
			return
		}
		buf = b
	}
}

func (w *eventWriter) nextEvent() (portproto.Event, bool) {
	select {
	case e := <-w.events:
		return e, true
	case <-w.last:
	}
	select {
	case e := <-w.events:
		return e, true
	default:
		return nil, false
	}
}

// send queues an event. It waits for room as long as the carrier runs.
func (w *eventWriter) send(e portproto.Event) {
	if w.sendNow(e) {
		return
	}
	select {
	case w.events <- e:
	case <-w.ctx.Done():
	}
}

// sendNow is like send but never waits. It reports whether it queued the event.
func (w *eventWriter) sendNow(e portproto.Event) bool {
	select {
	case w.events <- e:
		return true
	default:
		return false
	}
}

// flush waits until the queued events are written, for flushTimeout at most.
func (w *eventWriter) flush() {
	close(w.last)
	select {
	case <-w.done:
	case <-time.After(flushTimeout):
	}
}
