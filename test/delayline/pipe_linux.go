package main

import (
	"errors"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// maxPacket is the size of a read buffer, in bytes. A packet of a TUN device is at most its MTU, 1,500.
const maxPacket = 2048

// A packet is one packet in flight. due is a time of the monotonic clock.
type packet struct {
	due  time.Time
	data []byte
}

// A pipe is one direction of a line. It does not own its files.
type pipe struct {
	from, to *os.File
	delay    time.Duration
	queue    chan packet
	free     chan []byte

	inFlight, peak   atomic.Int64
	carried, dropped atomic.Uint64
}

func newPipe(from, to *os.File, delay time.Duration, limit int) *pipe {
	return &pipe{
		from: from, to: to, delay: delay,
		queue: make(chan packet, limit),
		free:  make(chan []byte, limit),
	}
}

// readPackets moves packets from the device into the queue until the device is closed. Then it closes the queue, which ends
// writePackets.
func (p *pipe) readPackets() error {
	defer close(p.queue)
	for {
		buffer := p.getBuffer()
		n, err := p.from.Read(buffer)
		if err != nil {
			return ignoreClosed(err)
		}
		p.enqueue(packet{due: time.Now().Add(p.delay), data: buffer[:n]})
	}
}

// enqueue drops the packet if as many packets as the queue holds are in flight.
func (p *pipe) enqueue(next packet) {
	inFlight := p.inFlight.Add(1)
	if inFlight > int64(cap(p.queue)) {
		p.inFlight.Add(-1)
		p.dropped.Add(1)
		p.putBuffer(next.data)
		return
	}
	p.peak.Store(max(p.peak.Load(), inFlight)) // only the reader writes it
	p.queue <- next                            // never blocks: the queue holds at most the packets in flight
}

// writePackets writes each packet to the other device when it is due, until the queue is closed or stop becomes readable. It
// has a thread of its own: Go's timers round up to a millisecond, but ppoll in a thread with a timer slack of 1 ns does not.
func (p *pipe) writePackets(stop *os.File) error {
	runtime.LockOSThread() // never unlocked: the thread, with its timer slack, ends with the goroutine
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	poll := []unix.PollFd{{Fd: int32(stop.Fd()), Events: unix.POLLIN}}
	for next := range p.queue {
		stopped, err := sleepUntil(next.due, poll)
		if stopped || err != nil {
			return err
		}
		if err := p.deliver(next); err != nil {
			return err
		}
	}
	return nil
}

func (p *pipe) deliver(next packet) error {
	_, err := p.to.Write(next.data)
	p.inFlight.Add(-1)
	p.putBuffer(next.data)
	switch {
	case errors.Is(err, unix.EIO): // the device is down, so the packet is lost
		p.dropped.Add(1)
		return nil
	case err != nil:
		return ignoreClosed(err)
	}
	p.carried.Add(1)
	return nil
}

// getBuffer returns a free buffer, or a new one.
func (p *pipe) getBuffer() []byte {
	select {
	case buffer := <-p.free:
		return buffer[:maxPacket]
	default:
		return make([]byte, maxPacket)
	}
}

// putBuffer makes the buffer available to getBuffer.
func (p *pipe) putBuffer(buffer []byte) {
	select {
	case p.free <- buffer:
	default:
	}
}

// ignoreClosed returns nil for the error of a closed device.
func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// sleepUntil waits until due. It reports whether an event of poll ended the wait.
func sleepUntil(due time.Time, poll []unix.PollFd) (stopped bool, err error) {
	for {
		remaining := time.Until(due)
		if remaining <= 0 {
			return false, nil
		}
		timeout := unix.NsecToTimespec(int64(remaining))
		n, err := unix.Ppoll(poll, &timeout, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, os.NewSyscallError("ppoll", err)
		}
		if n > 0 {
			return true, nil
		}
	}
}
