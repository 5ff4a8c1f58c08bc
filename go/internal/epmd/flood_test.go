package epmd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
)

// inTime is what a local request may take while others do their worst. The stock
// EPMD keeps everybody out for a minute.
const inTime = 5 * time.Second

// flood is clients that mean no good, until the test's end.
type flood struct {
	addr string
	ctx  context.Context
	wg   sync.WaitGroup
}

// idle keeps n connections open that say nothing, or a byte a second where slow
// is set; one that the server ends is opened again.
func (f *flood) idle(n int, slow bool) {
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i], _ = net.Dial("tcp", f.addr)
	}
	f.wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for f.ctx.Err() == nil {
			for i := range conns {
				if conns[i] == nil {
					conns[i], _ = net.Dial("tcp", f.addr)
				} else if slow {
					if _, err := conns[i].Write([]byte{1}); err != nil {
						_ = conns[i].Close()
						conns[i] = nil
					}
				}
			}
			select {
			case <-tick.C:
			case <-f.ctx.Done():
			}
		}
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	})
}

// again does act on a new connection every few milliseconds.
func (f *flood) again(act func(*net.TCPConn)) {
	f.wg.Go(func() {
		for f.ctx.Err() == nil {
			if c, err := net.Dial("tcp", f.addr); err == nil {
				act(c.(*net.TCPConn))
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-f.ctx.Done():
			}
		}
	})
}

func startFlood(t *testing.T, addr string) {
	ctx, cancel := context.WithCancel(context.Background())
	f := &flood{addr: addr, ctx: ctx}
	t.Cleanup(func() { cancel(); f.wg.Wait() })
	f.idle(2000, false)
	f.idle(500, true)
	f.again(func(c *net.TCPConn) { _ = c.Close() }) // a port scan
	f.again(func(c *net.TCPConn) {                  // half a request, then a reset
		_, _ = c.Write([]byte{0, 9, 'z'})
		_ = c.SetLinger(0)
		_ = c.Close()
	})
	f.again(func(c *net.TCPConn) { // half open
		_ = c.CloseWrite()
		f.wg.Go(func() { <-f.ctx.Done(); _ = c.Close() })
	})
	g := newGenerator(1, false)
	f.again(func(c *net.TCPConn) {
		_, _ = c.Write([]byte(g.bytes(rand.IntN(2000))))
		_ = c.Close()
	})
}

// TestNeverLockedOut: registrations, lookups and handovers are answered in time
// with 2,000 idle and 500 slow connections, scans and noise, where there is room
// for all of them and where there is not.
func TestNeverLockedOut(t *testing.T) {
	for name, o := range map[string]Options{"room for all": {}, "as with 1,024 files": {MaxClients: 512}} {
		t.Run(name, func(t *testing.T) {
			ts := start(t, o)
			startFlood(t, ts.addr)
			most := ts.o.MaxWaiting
			if !within(func() bool { local, _ := ts.waiting.count(); return local >= min(2000, most) }) {
				local, _ := ts.waiting.count()
				t.Fatalf("the flood is of %d connections only", local)
			}
			for i := range 10 {
				ts.served(t, fmt.Sprint("n", i))
			}
			if local, _ := ts.waiting.count(); local > most {
				t.Errorf("%d wait, more than %d", local, most)
			}
		})
	}
}

// served: a node registers, is looked up, takes a handover and leaves, each in
// time.
func (ts *testServer) served(t *testing.T, name string) {
	t.Helper()
	timed := func(what string, act func()) {
		t.Helper()
		began := time.Now()
		act()
		if took := time.Since(began); took > inTime {
			t.Errorf("%s took %v", what, took)
		}
	}
	var n *fakeNode
	timed("registration", func() { n = ts.node(t, name) })
	timed("lookup", func() {
		if got := ts.ask(t, request(epmdproto.OpPort2, name)); len(got) < 2 || got[1] != 0 {
			t.Errorf("lookup: %q", got)
		}
	})
	timed("NAMES", func() {
		if got := ts.ask(t, request(epmdproto.OpNames, "")); !strings.Contains(got, "name "+name+" ") {
			t.Errorf("NAMES: %q", got)
		}
	})
	timed("handover", func() {
		c := ts.initiate(t, name)
		ch := n.open()
		p, f := ch.take()
		ch.ack(p.ID, epmdproto.OK)
		_ = f.Close()
		if got := readAll(t, c); got != "" {
			t.Errorf("handover: %q", got)
		}
	})
	_ = n.heartbeat.Close()
}
