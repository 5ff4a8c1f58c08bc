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
	// DefaultLimit is how many packets the queue of one direction holds by default.
	DefaultLimit = 16384
	// MaxDelay is the largest delay that Open accepts.
	MaxDelay = 10 * time.Second
)

// An End is one end of a line.
type End struct {
	Namespace string // a name given to `ip netns add`
	Address   string // of the device in the namespace, with the prefix length: 198.18.0.1/30
}

// Options are the options of Open.
type Options struct {
	A, B  End
	Delay time.Duration // one way, 0 to MaxDelay
	Limit int           // most packets in flight in one direction; 0 means DefaultLimit
}

// A Line joins two network namespaces. The caller must close it, which removes its devices. It is safe for concurrent use.
type Line struct {
	pipes   [2]*pipe // a to b, b to a
	files   []*os.File
	stop    *os.File // closing it wakes the writers
	workers sync.WaitGroup
	mu      sync.Mutex
	failure error
	failed  chan struct{}
	closing sync.Once
}

// Stats counts the packets of one direction since Open.
type Stats struct {
	Carried, Dropped uint64
	Peak             int // most packets in flight at once
}

// Open creates a TUN device in each namespace and carries packets between them until Close. When it returns, the two addresses
// can reach each other.
func Open(options Options) (*Line, error) {
	if err := options.validate(); err != nil {
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
		return nil, fmt.Errorf("delayline: %w", closeAfter(a, err))
	}
	line, err := newLine(a, b, options.Delay, options.Limit)
	if err != nil {
		return nil, fmt.Errorf("delayline: %w", closeAfter(a, closeAfter(b, err)))
	}
	return line, nil
}

// validate returns an error that names the first bad option.
func (o Options) validate() error {
	for _, end := range []End{o.A, o.B} {
		if end.Namespace == "" {
			return errors.New("a namespace is missing")
		}
		if _, err := netip.ParsePrefix(end.Address); err != nil {
			return fmt.Errorf("address of namespace %s: %w", end.Namespace, err)
		}
	}
	if o.A.Namespace == o.B.Namespace {
		return fmt.Errorf("both ends are in namespace %s", o.A.Namespace)
	}
	if o.Delay < 0 || o.Delay > MaxDelay {
		return fmt.Errorf("delay %v is not between 0 and %v", o.Delay, MaxDelay)
	}
	if o.Limit < 0 {
		return fmt.Errorf("limit %d is negative", o.Limit)
	}
	return nil
}

// newLine starts the goroutines of a line between two devices, and owns the devices if it returns no error. A device can be any
// file that keeps packet boundaries and can be polled.
func newLine(a, b *os.File, delay time.Duration, limit int) (*Line, error) {
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
		line.workers.Go(func() { line.recordFailure(p.readPackets()) })
		line.workers.Go(func() { line.recordFailure(p.writePackets(stopped)) })
	}
	return line, nil
}

// recordFailure keeps the first error that is not nil, and closes failed.
func (l *Line) recordFailure(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && l.failure == nil {
		l.failure = err
		close(l.failed)
	}
}

// Failed returns a channel that is closed when a device fails. Close returns the error.
func (l *Line) Failed() <-chan struct{} {
	return l.failed
}

// Stats returns the counts of the direction from A to B, then of the direction from B to A.
func (l *Line) Stats() [2]Stats {
	var all [2]Stats
	for i, p := range l.pipes {
		all[i] = Stats{Carried: p.carried.Load(), Dropped: p.dropped.Load(), Peak: int(p.peak.Load())}
	}
	return all
}

// Close drops the packets in flight, removes both devices and waits for the goroutines of the line. It returns the error of a
// device that failed before. It is a no-op if the line is closed, but returns that error again.
func (l *Line) Close() error {
	l.closing.Do(func() {
		_ = l.stop.Close() // an end of a pipe: closing it cannot lose data
		for _, file := range l.files[:2] {
			l.recordFailure(file.Close())
		}
		l.workers.Wait()
		_ = l.files[2].Close()
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}
