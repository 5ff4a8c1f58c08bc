package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	// DefaultLimit is the queue of one direction, in packets.
	DefaultLimit = 16384
	// MaxDelay bounds what a packet may be kept.
	MaxDelay = 10 * time.Second
)

// End is one end of a line.
type End struct {
	Namespace string // as `ip netns add` names it
	Address   string // of the device there, with the prefix length: 198.18.0.1/30
}

// Options of Open.
type Options struct {
	A, B  End
	Delay time.Duration // one way, 0 to MaxDelay
	Limit int           // packets under way in a direction; 0: DefaultLimit
}

// Line is two namespaces joined. Close it to take the devices away.
type Line struct {
	pipes   [2]*pipe // a to b, b to a
	files   []*os.File
	stop    *os.File // its closing wakes the writers
	ended   sync.WaitGroup
	mu      sync.Mutex
	failure error
	failed  chan struct{}
	closed  sync.Once
}

// Stats are the counts of one direction since the start.
type Stats struct {
	Carried, Dropped uint64
	Peak             int // most packets under way at once
}

// Open makes a TUN device in each namespace and carries packets between them until Close. The addresses can talk to each
// other when it returns.
func Open(options Options) (*Line, error) {
	if err := options.check(); err != nil {
		return nil, fmt.Errorf("delayline: %w", err)
	}
	if options.Limit == 0 {
		options.Limit = DefaultLimit
	}
	a, err := openTUN(options.A.Namespace, options.A.Address)
	if err != nil {
		return nil, fmt.Errorf("delayline: %w", err)
	}
	b, err := openTUN(options.B.Namespace, options.B.Address)
	if err != nil {
		return nil, fmt.Errorf("delayline: %w", closing(a, err))
	}
	line, err := start(a, b, options.Delay, options.Limit)
	if err != nil {
		return nil, fmt.Errorf("delayline: %w", closing(a, closing(b, err)))
	}
	return line, nil
}

func (o Options) check() error {
	for _, end := range []End{o.A, o.B} {
		if end.Namespace == "" {
			return errors.New("a namespace is missing")
		}
		if _, err := netip.ParsePrefix(end.Address); err != nil {
			return fmt.Errorf("address of namespace %s: %w", end.Namespace, err)
		}
	}
	if o.A.Namespace == o.B.Namespace {
		return fmt.Errorf("both ends in namespace %s", o.A.Namespace)
	}
	if o.Delay < 0 || o.Delay > MaxDelay {
		return fmt.Errorf("delay %v: not within 0 and %v", o.Delay, MaxDelay)
	}
	if o.Limit < 0 {
		return fmt.Errorf("limit %d: negative", o.Limit)
	}
	return nil
}

// start takes over two devices (any files that keep packets apart and can be polled).
func start(a, b *os.File, delay time.Duration, limit int) (*Line, error) {
	stopped, stop, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	line := &Line{
		pipes:  [2]*pipe{newPipe(a, b, delay, limit), newPipe(b, a, delay, limit)},
		files:  []*os.File{a, b, stopped},
		stop:   stop,
		failed: make(chan struct{}),
	}
	for _, p := range line.pipes {
		line.ended.Go(func() { line.fail(p.read()) })
		line.ended.Go(func() { line.fail(p.write(stopped)) })
	}
	return line, nil
}

// fail keeps the first error.
func (l *Line) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && l.failure == nil {
		l.failure = err
		close(l.failed)
	}
}

// Failed is closed when a device fails; Close tells the error.
func (l *Line) Failed() <-chan struct{} {
	return l.failed
}

// Stats counts a to b first, then b to a.
func (l *Line) Stats() [2]Stats {
	var all [2]Stats
	for i, p := range l.pipes {
		all[i] = Stats{Carried: p.carried.Load(), Dropped: p.dropped.Load(), Peak: int(p.peak.Load())}
	}
	return all
}

// Close drops what is under way, takes both devices away and waits for the line's goroutines. It returns the error of a
// device that failed before.
func (l *Line) Close() error {
	l.closed.Do(func() {
		_ = l.stop.Close() // a pipe's end: nothing can be lost
		for _, file := range l.files[:2] {
			l.fail(file.Close())
		}
		l.ended.Wait()
		_ = l.files[2].Close()
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}
