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

// maxPacket is what one read takes, in bytes; a TUN device hands over a packet of at most its MTU (Options: 1,500).
const maxPacket = 2048

// packet is one packet on its way, due at a time of CLOCK_MONOTONIC.
type packet struct {
	due  time.Time
	data []byte
}

// pipe is one direction: it owns its queue, and neither of its files.
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

// read moves packets from the device into the queue until the device is closed. It ends the queue, and so the writer.
func (p *pipe) read() error {
	defer close(p.queue)
	for {
		buffer := p.buffer()
		n, err := p.from.Read(buffer)
		if err != nil {
			return endOfDevice(err)
		}
		p.enqueue(packet{due: time.Now().Add(p.delay), data: buffer[:n]})
	}
}

// enqueue drops the packet when as many as the queue holds are under way.
func (p *pipe) enqueue(next packet) {
	flying := p.inFlight.Add(1)
	if flying > int64(cap(p.queue)) {
		p.inFlight.Add(-1)
		p.dropped.Add(1)
		p.recycle(next.data)
		return
	}
	p.peak.Store(max(p.peak.Load(), flying)) // the reader alone writes it
	p.queue <- next                          // has room: it holds at most what is under way
}

// write writes each packet to the other device when it is due, until the queue ends or stop becomes readable. It has a
// thread to itself: Go's timers round up to a millisecond, ppoll in a thread of 1 ns timer slack does not.
func (p *pipe) write(stop *os.File) error {
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
	p.recycle(next.data)
	switch {
	case errors.Is(err, unix.EIO): // the device is down: a cable that was pulled
		p.dropped.Add(1)
		return nil
	case err != nil:
		return endOfDevice(err)
	}
	p.carried.Add(1)
	return nil
}

func (p *pipe) buffer() []byte {
	select {
	case buffer := <-p.free:
		return buffer[:maxPacket]
	default:
		return make([]byte, maxPacket)
	}
}

func (p *pipe) recycle(buffer []byte) {
	select {
	case p.free <- buffer:
	default:
	}
}

// endOfDevice turns the error of a closed device into none.
func endOfDevice(err error) error {
	if errors.Is(err, os.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// sleepUntil waits until due, or until there is an event, which it reports.
func sleepUntil(due time.Time, poll []unix.PollFd) (stopped bool, err error) {
	for {
		left := time.Until(due)
		if left <= 0 {
			return false, nil
		}
		timeout := unix.NsecToTimespec(int64(left))
		n, err := unix.Ppoll(poll, &timeout, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, os.NewSyscallError("ppoll", err)
		}
		if n > 0 {
			return true, nil
		}
	}
}
