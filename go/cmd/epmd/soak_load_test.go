//go:build soak

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/testkit"
)

// soak is the load on one daemon, and its results.
type soak struct {
	t          *testing.T
	port       uint16
	pid, nodes int
	end        time.Time

	lookups, slowest, handovers, registrations, silents, slows, upgrades, errors atomic.Int64
	last                                                                         atomic.Value
}

func newSoak(t *testing.T, port uint16, pid, nodes int) *soak {
	return &soak{t: t, port: port, pid: pid, nodes: nodes}
}

func (s *soak) failed(err error) {
	s.errors.Add(1)
	s.last.Store(err.Error())
}

// load sends all kinds of requests, and upgrades every two seconds if upgrade is set. It
// returns when the load has ended.
func (s *soak) load(length time.Duration, upgrade func()) {
	s.end = time.Now().Add(length)
	var wg sync.WaitGroup
	for client := range 64 {
		wg.Go(func() { s.lookUp(client) })
	}
	for i := range takers {
		wg.Go(func() { s.handOver(i) })
	}
	wg.Go(s.comeAndGo)
	wg.Go(func() { s.sayNothing(300, 0, &s.silents) })
	wg.Go(func() { s.sayNothing(100, time.Second, &s.slows) })
	for next := time.Now(); time.Now().Before(s.end); {
		if upgrade == nil {
			time.Sleep(min(10*time.Second, time.Until(s.end)))
		} else {
			upgrade()
			s.upgrades.Add(1)
			time.Sleep(2 * time.Second)
		}
		if now := time.Now(); now.After(next) && now.Add(time.Second).Before(s.end) { // the end has a line anyway
			s.report()
			next = time.Now().Add(10 * time.Second)
		}
	}
	wg.Wait()
	s.report()
}

func (s *soak) lookUp(i int) {
	for ; time.Now().Before(s.end); i++ {
		began := time.Now()
		if err := lookUp(s.port, nodeName(i%s.nodes)); err != nil {
			s.failed(err)
		}
		took := int64(time.Since(began))
		for slowest := s.slowest.Load(); took > slowest && !s.slowest.CompareAndSwap(slowest, took); slowest = s.slowest.Load() {
		}
		s.lookups.Add(1)
	}
}

func (s *soak) dial() (net.Conn, error) {
	c, err := net.Dial("tcp4", testkit.Loopback(s.port).String())
	if err == nil {
		err = c.SetDeadline(time.Now().Add(testkit.Patience))
	}
	return c, err
}

// comeAndGo registers names and unregisters them again.
func (s *soak) comeAndGo() {
	for i := 0; time.Now().Before(s.end); i++ {
		if err := s.guest("guest" + strconv.Itoa(i%2000)); err != nil {
			s.failed(err)
		}
		s.registrations.Add(1)
	}
}

func (s *soak) guest(name string) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := sendAlive2(c, name); err != nil {
		return err
	}
	if r, err := epmdproto.ReadAlive2Resp(c); err != nil || r.Result != 0 {
		return fmt.Errorf("registration of %s: %v, %w", name, r, err)
	}
	return lookUp(s.port, name)
}

// sayNothing keeps connections open that begin a request and never complete it. If pause
// is not 0 they send a byte of it from time to time.
func (s *soak) sayNothing(most int, pause time.Duration, count *atomic.Int64) {
	var open []net.Conn
	tick := time.Now().Add(pause)
	for time.Now().Before(s.end) {
		if c, err := s.dial(); err != nil {
			s.failed(err)
		} else {
			_, _ = c.Write([]byte{0})
			count.Add(1)
			open = append(open, c)
		}
		if len(open) > most {
			_ = open[0].Close()
			open = open[1:]
		}
		if pause > 0 && time.Now().After(tick) {
			tick = time.Now().Add(pause)
			for _, c := range open {
				_, _ = c.Write([]byte{200})
			}
		}
		time.Sleep(time.Millisecond + pause/100)
	}
	for _, c := range open {
		_ = c.Close()
	}
}

func takerName(i int) string { return "taker" + strconv.Itoa(i) }

// startTaker registers a node that takes handovers until the end of the test, and answers
// each with its name.
func (s *soak) startTaker(i int) {
	socket := epmdproto.NewSocketName()
	l, err := fdpass.Listen(socket)
	if err != nil {
		s.t.Fatal(err)
	}
	heartbeat := dial(s.t, s.port)
	_ = heartbeat.SetDeadline(time.Time{})
	req := epmdproto.Alive2Req{Port: 1, NodeType: 77, Highest: 6, Lowest: 5, Name: takerName(i), Extra: []byte(epmdproto.Extra)}
	b, err := req.Append(nil)
	if err == nil {
		_, err = heartbeat.Write(b)
	}
	if r, respErr := epmdproto.ReadAlive2Resp(heartbeat); err != nil || respErr != nil || r.Result != 0 {
		s.t.Fatal(err, respErr, r)
	}
	offer, err := epmdproto.AppendHandoverSocket(nil, socket)
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		for ask := make([]byte, len(epmdproto.HandoverAsk)); ; {
			if _, err := io.ReadFull(heartbeat, ask); err != nil {
				return
			}
			_, _ = heartbeat.Write(offer)
		}
	}()
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go s.take(c, takerName(i))
		}
	}()
	s.t.Cleanup(func() { _ = l.Close() })
}

// take receives connections from a channel until it ends.
func (s *soak) take(c *net.UnixConn, name string) {
	defer c.Close()
	buf := make([]byte, epmdproto.MaxPass+1)
	for {
		n, fd, err := fdpass.Receive(c, buf)
		if err != nil {
			return
		}
		f := os.NewFile(uintptr(fd), "passed")
		p, err := epmdproto.ParsePass(buf[:n])
		if err != nil {
			s.failed(err)
		}
		_, _ = f.Write(append(epmdproto.AppendHandoverOK(nil, 6), name...))
		_ = f.Close()
		_, _ = c.Write(epmdproto.AppendAck(nil, epmdproto.Ack{ID: p.ID}))
	}
}

// handOver hands connections over to a node again and again, and checks which node answers.
func (s *soak) handOver(i int) {
	for time.Now().Before(s.end) {
		if err := s.handOverOnce(takerName(i)); err != nil {
			s.failed(err)
		}
		s.handovers.Add(1)
	}
}

func (s *soak) handOverOnce(name string) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	req, err := epmdproto.AppendHandoverReq(nil, name)
	if err == nil {
		_, err = c.Write(req)
	}
	if err != nil {
		return err
	}
	want := string(append(epmdproto.AppendHandoverOK(nil, 6), name...))
	got, err := io.ReadAll(c)
	if err == nil && string(got) != want {
		err = errors.New("another answer")
	}
	if err != nil {
		return fmt.Errorf("handover to %s: %q, %w", name, got, err)
	}
	return nil
}
