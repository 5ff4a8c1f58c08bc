package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/testkit"
)

// socketPair returns a device for a line, far, and its other end, near. The line reads packets written to near as if they came
// from a namespace. The line must close far.
func socketPair(t *testing.T) (near, far *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(os.NewSyscallError("socketpair", err))
	}
	near, far = os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	t.Cleanup(func() { _ = near.Close() })
	return near, far
}

func startLine(t *testing.T, delay time.Duration, limit int) (a, b *os.File, line *Line) {
	t.Helper()
	a, deviceA := socketPair(t)
	b, deviceB := socketPair(t)
	line, err := newLine(deviceA, deviceB, delay, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := line.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	for _, file := range []*os.File{a, b} {
		if err := file.SetDeadline(time.Now().Add(testkit.Patience)); err != nil {
			t.Fatal(err)
		}
	}
	return a, b, line
}

func TestOrderAndDelay(t *testing.T) {
	const delay, count = 20 * time.Millisecond, 200
	a, b, line := startLine(t, delay, DefaultLimit)
	for _, way := range []struct{ from, to *os.File }{{a, b}, {b, a}} {
		sent := make(chan time.Time, count)
		go func() {
			for i := range uint32(count) {
				sent <- time.Now()
				_, _ = way.from.Write(binary.BigEndian.AppendUint32(nil, i)) // a lost packet fails the reader
			}
		}()
		buffer := make([]byte, maxPacket)
		for want := range uint32(count) {
			n, err := way.to.Read(buffer)
			if err != nil {
				t.Fatal(err)
			}
			if got := binary.BigEndian.Uint32(buffer[:n]); got != want {
				t.Fatalf("packet %d arrived instead of packet %d", got, want)
			}
			if took := time.Since(<-sent); took < delay {
				t.Fatalf("packet %d took %v, less than the delay of %v", want, took, delay)
			}
		}
	}
	for i, stats := range line.Stats() {
		if stats.Dropped != 0 {
			t.Errorf("direction %d dropped %d packets", i, stats.Dropped)
		}
	}
}

func TestLimit(t *testing.T) {
	const limit = 4
	for _, test := range []struct {
		sent    int
		dropped uint64
	}{{limit - 1, 0}, {limit, 0}, {limit + 1, 1}} {
		a, _, line := startLine(t, MaxDelay, limit)
		for range test.sent {
			if _, err := a.Write([]byte("packet")); err != nil {
				t.Fatal(err)
			}
		}
		peak := test.sent - int(test.dropped)
		testkit.WaitFor(t, fmt.Sprintf("a peak of %d packets", peak), func() bool {
			stats := line.Stats()[0]
			return stats.Peak == peak && stats.Dropped == test.dropped
		})
	}
}

func TestCloseWithPacketsInFlight(t *testing.T) {
	a, _, line := startLine(t, MaxDelay, DefaultLimit)
	if _, err := a.Write([]byte("packet")); err != nil {
		t.Fatal(err)
	}
	testkit.WaitFor(t, "a peak of 1 packet", func() bool { return line.Stats()[0].Peak == 1 })
	closed := make(chan error, 1)
	go func() { closed <- line.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(MaxDelay / 2):
		t.Fatal("Close waits for the packets in flight")
	}
}

func TestOptionsRefused(t *testing.T) {
	good := Options{
		A: End{Namespace: "a", Address: "198.18.0.1/30"},
		B: End{Namespace: "b", Address: "198.18.0.2/30"},
	}
	for want, change := range map[string]func(*Options){
		"a namespace is missing":             func(o *Options) { o.B.Namespace = "" },
		"address of namespace a":             func(o *Options) { o.A.Address = "198.18.0.1" },
		"both ends are in namespace a":       func(o *Options) { o.B.Namespace = "a" },
		"delay 10.000000001s is not between": func(o *Options) { o.Delay = MaxDelay + 1 },
		"delay -1ns is not between":          func(o *Options) { o.Delay = -1 },
		"limit -1 is negative":               func(o *Options) { o.Limit = -1 },
		"namespace a: open /run/netns/a: no": func(*Options) {},
	} {
		options := good
		change(&options)
		line, err := Open(options)
		if err == nil {
			_ = line.Close()
			t.Errorf("no error, want %q", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want %q", err, want)
		}
	}
}
