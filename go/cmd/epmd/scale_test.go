package main

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"handover/go/internal/epmd"
	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// nodeCount returns most, or less if the limit of open files is too low for that.
func nodeCount(t *testing.T, most int) int {
	t.Helper()
	files := maxFiles()
	if room := min(files-500, epmd.BudgetOf(files).Nodes); room < most {
		t.Logf("%d nodes and not %d: no more than %d files may be open here", room, most, files)
		return room
	}
	return most
}

func nodeName(i int) string { return "node" + strconv.Itoa(i) }

// lookUp asks for a node and checks every byte of the answer.
func lookUp(port uint16, name string) error {
	c, err := net.Dial("tcp4", testkit.Loopback(port).String())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testkit.Patience))
	// Close with a reset, so that a test does not use up the host's ports.
	_ = c.(*net.TCPConn).SetLinger(0)
	if _, err := c.Write(epmdproto.AppendRequest(nil, epmdproto.OpPort2, name)); err != nil {
		return err
	}
	want := epmdproto.AppendPort2Resp(nil, epmdproto.Alive2Req{Port: 1234, NodeType: 77, Highest: 6, Lowest: 5, Name: name})
	got, err := io.ReadAll(c)
	if err == nil && string(got) != string(want) {
		err = fmt.Errorf("%q", got)
	}
	if err != nil {
		return fmt.Errorf("lookup of %s: %w", name, err)
	}
	return nil
}

// lookUpAll does the given number of lookups, with 64 clients at once.
func lookUpAll(t *testing.T, port uint16, nodes, lookups int) {
	t.Helper()
	const clients = 64
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			for i := client; i < lookups; i += clients {
				if err := lookUp(port, nodeName(i%nodes)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestScale: 10,000 nodes on one daemon and 50,000 lookups by 64 clients at once
// without an error; -names has them all. Fewer under the race detector.
func TestScale(t *testing.T) {
	nodes, lookups := nodeCount(t, 10_000), 50_000
	if raceEnabled {
		nodes, lookups = nodes/10, lookups/10
	}
	port := testkit.FreePort(t)
	foreground(t, port)
	for i := range nodes {
		register(t, port, nodeName(i))
	}
	lookUpAll(t, port, nodes, lookups)
	if out, _, code := run(t, port, "-names"); code != 0 || strings.Count(out, "\n") != nodes+1 {
		t.Errorf("-names: %d, %d lines", code, strings.Count(out, "\n"))
	}
	t.Logf("%d nodes, %d lookups by 64 clients", nodes, lookups)
}
