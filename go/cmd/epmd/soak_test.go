//go:build soak

package main

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSoak: 10,000 nodes for SOAKTIME, with 64 clients that look them up all the
// time, names that come and go, and connections that ask nothing. It prints what
// the daemon held, and fails on one wrong answer or on files that are left.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("SOAKTIME"))
	if err != nil {
		t.Fatal(err)
	}
	nodes, port := nodeCount(t, 10_000), freePort(t)
	nodes -= 1000 // files for the rest
	daemon := foreground(t, port)
	before := held(t, daemon.Process.Pid)
	for i := range nodes {
		register(t, port, nodeName(i))
	}
	start := held(t, daemon.Process.Pid)
	fmt.Printf("%d CPUs, %d nodes: %v (with none: %v)\n", runtime.NumCPU(), nodes, start, before)
	s := &soak{port: port, nodes: nodes, end: time.Now().Add(length)}
	for range 64 {
		s.wg.Go(s.lookUp)
	}
	s.wg.Go(func() { s.comeAndGo(t) })
	s.wg.Go(s.silent)
	for time.Now().Before(s.end) {
		time.Sleep(min(10*time.Second, time.Until(s.end)))
		fmt.Printf("%d nodes, %d lookups, %d registrations, %d silent connections, %d errors; %v\n", nodes,
			s.lookups.Load(), s.registrations.Load(), s.silents.Load(), s.errors.Load(), held(t, daemon.Process.Pid))
	}
	s.wg.Wait()
	if s.errors.Load() > 0 {
		t.Errorf("%d errors, the last: %v", s.errors.Load(), s.last.Load())
	}
	if !within(func() bool { return held(t, daemon.Process.Pid).files <= start.files }) {
		t.Errorf("files: %v, then %v", start, held(t, daemon.Process.Pid))
	}
}

type soak struct {
	port, nodes int
	end         time.Time
	wg          sync.WaitGroup

	lookups, registrations, silents, errors atomic.Int64
	last                                    atomic.Value
}

func (s *soak) failed(err error) {
	s.errors.Add(1)
	s.last.Store(err.Error())
}

func (s *soak) lookUp() {
	for i := 0; time.Now().Before(s.end); i++ {
		if err := lookUp(s.port, nodeName(i%s.nodes)); err != nil {
			s.failed(err)
		}
		s.lookups.Add(1)
	}
}

func (s *soak) comeAndGo(t *testing.T) {
	for i := 0; time.Now().Before(s.end); i++ {
		name := "guest" + strconv.Itoa(i%2000)
		c := register(t, s.port, name)
		if err := lookUp(s.port, name); err != nil {
			s.failed(err)
		}
		_ = c.Close()
		s.registrations.Add(1)
	}
}

// silent opens connections that never ask, and closes each after a while.
func (s *soak) silent() {
	var open []net.Conn
	for time.Now().Before(s.end) {
		if c, err := net.Dial("tcp4", "127.0.0.1:"+strconv.Itoa(s.port)); err == nil {
			_, _ = c.Write([]byte{0})
			s.silents.Add(1)
			open = append(open, c)
		}
		if len(open) > 300 {
			_ = open[0].Close()
			open = open[1:]
		}
		time.Sleep(time.Millisecond)
	}
	for _, c := range open {
		_ = c.Close()
	}
}

type holding struct{ rss, files int } // KiB, number

func (u holding) String() string { return fmt.Sprintf("RSS %d MiB, %d files", u.rss/1024, u.files) }

// held is what a process holds of memory and files.
func held(t *testing.T, pid int) (u holding) {
	t.Helper()
	proc := fmt.Sprint("/proc/", pid)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	if u.rss, err = strconv.Atoi(strings.Fields(rest)[0]); err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	u.files = len(fds)
	return u
}
