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
	// maxEvents may wait for the BEAM to read; then requests wait, and log events
	// are dropped.
	maxEvents = 256
	// flushTimeout is what the last events get on the way out.
	flushTimeout = 100 * time.Millisecond
	stdinBuffer  = 4096
)

// readCommands does what the BEAM says until stdin ends, which ends the carrier at once.
// Nothing is read ahead of its turn: a stop that comes right before the end of
// stdin is done first. Nor does a message wait for another goroutine: where a
// processor is idle, to wake one takes longer than what it is to do.
func (c *carrier) readCommands(stdin io.Reader) {
	r := bufio.NewReaderSize(stdin, stdinBuffer)
	for {
		b, err := portproto.ReadFrame(r)
		if errors.Is(err, io.EOF) {
			if c.lifeline.isCut() {
				c.links.shutdownAll() // here: to wake endLinks takes as long as all of this
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

// eventWriter owns stdout.
type eventWriter struct {
	events chan portproto.Event
	ctx    context.Context
	last   chan struct{} // closed: what is in events is all there will be
	done   chan struct{} // closed: nothing is written any more
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

// send waits for room as long as the carrier runs.
func (w *eventWriter) send(e portproto.Event) {
	if w.sendNow(e) {
		return
	}
	select {
	case w.events <- e:
	case <-w.ctx.Done():
	}
}

func (w *eventWriter) sendNow(e portproto.Event) bool {
	select {
	case w.events <- e:
		return true
	default:
		return false
	}
}

// flush writes what was sent, unless the BEAM does not read it in time.
func (w *eventWriter) flush() {
	close(w.last)
	select {
	case <-w.done:
	case <-time.After(flushTimeout):
	}
}
