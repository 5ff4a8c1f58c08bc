package epmd

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// TestManyAtOnce: 1,000 handovers from 32 initiators to 4 nodes; each connection
// reaches the node that it asked for. start checks for leaks afterwards.
func TestManyAtOnce(t *testing.T) {
	ts := start(t, Options{})
	const nodes, initiators, each = 4, 32, 32
	var wg sync.WaitGroup
	for i := range nodes {
		name := "n" + strconv.Itoa(i)
		_, ch := ts.openNode(t, name)
		go serveName(ch, name)
	}
	for i := range initiators {
		wg.Go(func() {
			name := "n" + strconv.Itoa(i%nodes)
			for range each {
				if err := initiateOnce(ts.addr, name); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// serveName answers each connection with the node's name, until the channel ends.
func serveName(ch *fakeChannel, name string) {
	buf := make([]byte, 64)
	for {
		n, fd, err := receive(ch, buf)
		if err != nil {
			return
		}
		p, _ := epmdproto.ParsePass(buf[:n])
		_, _ = unix.Write(fd, []byte(name))
		_ = unix.Close(fd)
		_, _ = ch.Write(epmdproto.AppendAck(nil, epmdproto.Ack{ID: p.ID}))
	}
}

func initiateOnce(addr, name string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testkit.Patience))
	req, _ := epmdproto.AppendHandoverReq(nil, name)
	if _, err := c.Write(req); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, []byte(name)) {
		return fmt.Errorf("asked for %s: %q, %w", name, got, err)
	}
	return nil
}
