package epmd

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// flood is a set of hostile clients that run until the end of the test.
type flood struct {
	addr string
	ctx  context.Context
	wg   sync.WaitGroup
}

// idle keeps n connections open that send nothing, or a byte a second if slow is set.
// It reopens those that the server closes.
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

// TestNeverLockedOut: registrations, lookups and handovers are answered with 2,000
// idle and 500 slow connections, scans and noise, whether or not there is room for all
// of them. None of them ends before the test does: a client that they lock out stays
// locked out.
func TestNeverLockedOut(t *testing.T) {
	for name, o := range map[string]Options{"room for all": {}, "as with 1,024 files": {MaxClients: 512}} {
		o.PacketTimeout = time.Hour
		t.Run(name, func(t *testing.T) {
			ts := start(t, o)
			startFlood(t, ts.addr)
			most := ts.o.MaxWaiting
			if !testkit.Within(func() bool { local, _ := ts.conns.waiting.counts(); return local >= min(2000, most) }) {
				local, _ := ts.conns.waiting.counts()
				t.Fatalf("the flood is of %d connections only", local)
			}
			for i := range 10 {
				ts.served(t, fmt.Sprint("n", i))
			}
			if local, _ := ts.conns.waiting.counts(); local > most {
				t.Errorf("%d wait, more than %d", local, most)
			}
		})
	}
}

// served registers a node, looks it up, hands a connection over to it and ends it.
func (ts *testServer) served(t *testing.T, name string) {
	t.Helper()
	socket := epmdproto.NewSocketName()
	n := &fakeNode{t: t, socket: socket, listener: listenUnix(t, socket)}
	insist(t, "registration", func() (err error) {
		n.heartbeat, err = registerOnce(ts.addr, name)
		return err
	})
	defer n.heartbeat.Close()
	insist(t, "lookup", func() error {
		got, err := askOnce(ts.addr, request(epmdproto.OpPort2, name))
		return answered(err, len(got) > 1 && got[1] == 0, got)
	})
	insist(t, "NAMES", func() error {
		got, err := askOnce(ts.addr, request(epmdproto.OpNames, ""))
		return answered(err, strings.Contains(got, "name "+name+" "), got)
	})
	open := make(chan *fakeChannel, 1)
	go func() {
		ch := n.open()
		open <- ch
		serveName(ch, name)
	}()
	insist(t, "handover", func() error { return initiateOnce(ts.addr, name) })
	_ = (<-open).Close()
}

// insist retries until try succeeds, as nodes do. The server may drop a connection for one
// of the flood's before it has sent its request, more often the longer this busy process
// takes to send it.
func insist(t *testing.T, what string, try func() error) {
	t.Helper()
	var err error
	if !testkit.Within(func() bool { err = try(); return err == nil }) {
		t.Fatalf("%s: %v", what, err)
	}
}

func answered(err error, good bool, got string) error {
	if err == nil && !good {
		err = fmt.Errorf("%q", got)
	}
	return err
}

// askOnce returns the answer until the server closes.
func askOnce(addr string, req []byte) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err := c.Write(req); err != nil {
		return "", err
	}
	got, err := io.ReadAll(c)
	return string(got), err
}

// registerOnce registers a node that takes handovers.
func registerOnce(addr, name string) (net.Conn, error) {
	r := plainNode(name)
	r.Extra = []byte(epmdproto.Extra)
	b, err := r.Append(nil)
	if err != nil {
		return nil, err
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err = c.Write(b); err == nil {
		var resp epmdproto.Alive2Resp
		if resp, err = epmdproto.ReadAlive2Resp(c); err == nil && resp.Result != 0 {
			err = fmt.Errorf("%+v", resp)
		}
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}
