//go:build soak

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	epmdstatus "handover/go/internal/status"
	"handover/go/internal/testkit"
)

// takers is how many nodes take handovers.
const takers = 8

// What the daemon may hold more at the end of the load than after its first quarter:
// buffers and garbage that is not collected yet, but nothing that grows with time.
const (
	mostPercent = 25
	mostMore    = 16 << 10 // KiB
)

// TestSoak loads a daemon with up to 10,000 nodes for SOAKTIME, in the last quarter with
// one upgrade after the other, and looks for leaks afterwards. It fails at a wrong answer,
// a lost name, a name or file that is left, growing memory, or a line in the daemon's log.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("SOAKTIME"))
	if err != nil {
		t.Fatal(err)
	}
	port, path := testkit.FreePort(t), installed(t)
	// Leave files for the other clients, and for the nodes that come and go.
	nodes := nodeCount(t, 11_000) - 1000
	daemon, log := startInstalled(t, path, port)
	s := newSoak(t, port, daemon.Process.Pid, nodes)
	s.say("%d CPUs, epmd with no node: %v", runtime.NumCPU(), s.held())
	for i := range nodes {
		register(t, port, nodeName(i))
	}
	for i := range takers {
		s.startTaker(i)
	}
	start := s.held()
	s.say("start: %d nodes and %d that take handovers: %v", nodes, takers, start)

	quarter := length / 4
	s.load(quarter, nil)
	early := s.held()
	s.load(2*quarter, nil)
	s.settled(start)
	if end := s.held(); end.rss > early.rss+early.rss*mostPercent/100+mostMore {
		t.Errorf("memory grows: %v after a quarter, then %v", early, end)
	}
	s.load(quarter, func() {
		install(t, path)
		upgrade(t, port)
	})
	s.settled(start)
	s.say("end: %v; at the start %v", s.held(), start)

	if s.errors.Load() > 0 {
		t.Errorf("%d errors, the last: %v", s.errors.Load(), s.last.Load())
	}
	if text := log.String(); text != "" {
		t.Errorf("the daemon's log: %.2000s", text)
	}
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// say prints a line that test/long/soak.sh shows.
func (s *soak) say(format string, args ...any) { fmt.Printf("soak: "+format+"\n", args...) }

// report prints what was done so far, and what the daemon holds.
func (s *soak) report() {
	st := s.status()
	s.say("%d names; %d lookups (slowest %v), %d handovers, %d registrations, %d silent and %d slow connections, %d upgrades; %d channels open; %d errors; %v",
		len(st.Nodes), s.lookups.Load(), time.Duration(s.slowest.Load()).Round(time.Millisecond), s.handovers.Load(), s.registrations.Load(),
		s.silents.Load(), s.slows.Load(), s.upgrades.Load(), st.Channels.Open, s.errors.Load(), s.held())
}

// settled checks that without load only the nodes are left, with a channel for each node
// that takes handovers.
func (s *soak) settled(start holding) {
	s.t.Helper()
	left := ""
	if !testkit.Within(func() bool { left = s.left(start); return left == "" }) {
		s.t.Errorf("after the load: %s", left)
	}
}

func (s *soak) left(start holding) string {
	st, now := s.status(), s.held()
	for what, n := range map[string]int{
		"names too many": len(st.Nodes) - s.nodes - takers, "names too few": s.nodes + takers - len(st.Nodes),
		"connections": int(st.Connections.Open) - 1, "connections that wait": st.Connections.Waiting,
		"handovers under way": st.Channels.Passing, "handovers that wait": st.Channels.Queued,
		"files": now.files - start.files - takers,
	} {
		if n > 0 {
			return strconv.Itoa(n) + " " + what
		}
	}
	return ""
}

func (s *soak) status() (st epmdstatus.Status) {
	s.t.Helper()
	out, errOut, code := run(s.t, s.port, "-status", "--json")
	if err := json.Unmarshal([]byte(out), &st); err != nil || code != 0 {
		s.t.Fatalf("-status: %d, %s, %v", code, errOut, err)
	}
	return st
}

type holding struct{ rss, files int } // KiB, number

func (u holding) String() string { return fmt.Sprintf("RSS %d MiB, %d files", u.rss/1024, u.files) }

// held is how much memory and how many files the daemon has.
func (s *soak) held() (u holding) {
	s.t.Helper()
	proc := fmt.Sprint("/proc/", s.pid)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	if u.rss, err = strconv.Atoi(strings.Fields(rest)[0]); err != nil {
		s.t.Fatal(err)
	}
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		s.t.Fatal(err)
	}
	u.files = len(fds)
	return u
}
