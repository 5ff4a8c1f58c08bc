package epmd

import (
	"net"
	"testing"

	"github.com/rs/zerolog"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
)

// BenchmarkHandover counts whole handovers, from connect to the node's close, with
// initiators, server and node in one process.
func BenchmarkHandover(b *testing.B) {
	ts := benchServer(b)
	r := plainNode("n")
	r.Extra = []byte(epmdproto.Extra)
	ready := make(chan struct{})
	go benchNode(b, ts, r, ready)
	<-ready
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := initiateOnce(ts.addr, "n"); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func benchServer(b *testing.B) *testServer {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ts := &testServer{addr: l.Addr().String()}
	ts.Server = New(Options{Port: l.Addr().(*net.TCPAddr).Port, Log: zerolog.Nop()})
	served := make(chan error, 1)
	go func() { served <- ts.Serve([]*net.TCPListener{l.(*net.TCPListener)}) }()
	b.Cleanup(func() {
		ts.Close()
		if err := <-served; err != nil {
			b.Error(err)
		}
	})
	return ts
}

// benchNode registers, offers a socket once, and serves the channel.
func benchNode(b *testing.B, ts *testServer, r epmdproto.Alive2Req, ready chan<- struct{}) {
	socket := epmdproto.NewSocketName()
	l, err := fdpass.Listen(socket)
	if err != nil {
		panic(err)
	}
	defer l.Close()
	heartbeat, err := net.Dial("tcp", ts.addr)
	if err != nil {
		panic(err)
	}
	defer heartbeat.Close()
	req, _ := r.Append(nil)
	_, _ = heartbeat.Write(req)
	if _, err := epmdproto.ReadAlive2Resp(heartbeat); err != nil {
		panic(err)
	}
	close(ready)
	if _, err := heartbeat.Read(make([]byte, 3)); err != nil {
		return
	}
	answer, _ := epmdproto.AppendHandoverSocket(nil, socket)
	_, _ = heartbeat.Write(answer)
	c, err := l.AcceptUnix()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	serveName(&fakeChannel{UnixConn: c}, r.Name)
}
