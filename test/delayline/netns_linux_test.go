package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/testkit"
)

const (
	addressA, addressB = "198.18.0.1", "198.18.0.2"
	burst              = 10_000
)

func TestMain(m *testing.M) {
	testkit.CleanEnvironment()
	os.Exit(m.Run())
}

// TestBetweenNamespaces measures round trips between two real namespaces.
func TestBetweenNamespaces(t *testing.T) {
	const delay = 25 * time.Millisecond
	a, b := createNamespaces(t)
	openLine(t, a, b, delay)
	near, far := listenUDP(t, a, addressA), listenUDP(t, b, addressB)
	go func() { // echoes until far is closed
		buffer := make([]byte, maxPacket)
		for {
			n, from, err := far.ReadFromUDP(buffer)
			if err != nil {
				return
			}
			_, _ = far.WriteToUDP(buffer[:n], from) // a lost packet fails the reader
		}
	}()
	// The fastest round trip shows what the line adds: 0.3 ms on an idle machine. A busy machine may need more tries.
	const slack = 10 * time.Millisecond
	fastest := time.Hour
	for end := time.Now().Add(testkit.Patience); fastest > 2*delay+slack && time.Now().Before(end); {
		took := roundTrip(t, near, far)
		if took < 2*delay {
			t.Fatalf("a round trip took %v, less than twice the delay of %v", took, delay)
		}
		fastest = min(fastest, took)
	}
	t.Logf("fastest round trip %v", fastest)
	if fastest > 2*delay+slack {
		t.Errorf("the fastest round trip took %v, more than %v over twice the delay of %v", fastest, slack, delay)
	}
}

// TestBurstInFlight has all packets of a burst in flight at the same time.
func TestBurstInFlight(t *testing.T) {
	a, b := createNamespaces(t)
	line := openLine(t, a, b, 8*time.Second) // longer than it takes to send all packets
	near, far := listenUDP(t, a, addressA), listenUDP(t, b, addressB)
	for i := range uint32(burst) {
		if _, err := near.WriteToUDP(binary.BigEndian.AppendUint32(nil, i), far.LocalAddr().(*net.UDPAddr)); err != nil {
			t.Fatal(err)
		}
		if i%1024 == 0 { // if the queue of the device is full, the kernel drops packets: wait for the line
			testkit.WaitFor(t, "the packets to be in the line", func() bool { return line.Stats()[0].Peak >= int(i) })
		}
	}
	buffer := make([]byte, maxPacket)
	for want := range uint32(burst) {
		n, err := far.Read(buffer)
		if err != nil {
			t.Fatalf("packet %d: %v", want, err)
		}
		if got := binary.BigEndian.Uint32(buffer[:n]); got != want {
			t.Fatalf("packet %d arrived instead of packet %d", got, want)
		}
	}
	if stats := line.Stats()[0]; stats.Peak < burst || stats.Dropped != 0 {
		t.Errorf("%+v, want %d in flight at once and none dropped", stats, burst)
	}
}

// createNamespaces creates two network namespaces, which are removed when the test ends. It skips the test without root.
func createNamespaces(t *testing.T) (a, b string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to create network namespaces and TUN devices")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("needs TUN devices: %v", err)
	}
	for _, side := range []string{"a", "b"} {
		name := fmt.Sprintf("delay-%d-%s", os.Getpid(), side)
		runIP(t, "netns", "add", name)
		t.Cleanup(func() { runIP(t, "netns", "del", name) })
		a, b = b, name
	}
	return a, b
}

func runIP(t *testing.T, arguments ...string) {
	t.Helper()
	if output, err := exec.Command("ip", arguments...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v: %s", arguments, err, output)
	}
}

func openLine(t *testing.T, a, b string, delay time.Duration) *Line {
	t.Helper()
	line, err := Open(Options{
		A:     End{Namespace: a, Address: addressA + "/30"},
		B:     End{Namespace: b, Address: addressB + "/30"},
		Delay: delay,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := line.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return line
}

// listenUDP binds a socket in a namespace. Its receive buffer holds a whole burst, and its deadline is testkit.Patience from now.
func listenUDP(t *testing.T, namespace, address string) *net.UDPConn {
	t.Helper()
	type result struct {
		conn *net.UDPConn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, which is in another namespace now, ends with the goroutine
		conn, err := listenUDPIn(namespace, address)
		done <- result{conn, err}
	}()
	listening := <-done
	if listening.err != nil {
		t.Fatal(listening.err)
	}
	t.Cleanup(func() { _ = listening.conn.Close() })
	return listening.conn
}

func listenUDPIn(namespace, address string) (*net.UDPConn, error) {
	ns, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, os.NewSyscallError("setns", err)
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(address)})
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, burst*maxPacket)
	})
	if err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, os.NewSyscallError("setsockopt SO_RCVBUFFORCE", failed)
	}
	return conn, conn.SetDeadline(time.Now().Add(testkit.Patience))
}

// roundTrip sends a packet from near to far, which must echo it, and returns the time until the answer.
func roundTrip(t *testing.T, near, far *net.UDPConn) time.Duration {
	t.Helper()
	sent := time.Now()
	if _, err := near.WriteToUDP([]byte("ping"), far.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Read(make([]byte, maxPacket)); err != nil {
		t.Fatal(err)
	}
	return time.Since(sent)
}
