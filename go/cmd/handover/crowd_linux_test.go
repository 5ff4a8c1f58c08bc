package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/fdpass"
	"handover/go/internal/testkit"
)

// crowd is the main function of a child process whose user takes as much of EPMD as it gets:
// names, every second one with a channel that it does not read, handovers to nodes that do
// not answer, and connections without a request.
func crowd(port uint16) error {
	const tries, handovers, silent = 600, 700, 600
	socket := epmdproto.NewSocketName()
	l, err := fdpass.Listen(socket)
	if err != nil {
		return err
	}
	go accept(l, true)
	offer, err := epmdproto.AppendHandoverSocket(nil, socket)
	if err != nil {
		return err
	}
	names := 0
	for i := range tries {
		c, err := registerAs(port, fmt.Sprint("crowd", i))
		if c != nil {
			defer c.Close()
		}
		if err != nil { // it is full; if it does not answer any more, that full
			if os.IsTimeout(err) {
				break
			}
			continue
		}
		names++
		go func() {
			for {
				if _, err := io.ReadFull(c, make([]byte, len(epmdproto.HandoverAsk))); err != nil {
					return
				}
				if i%2 == 0 {
					_, _ = c.Write(offer)
				}
			}
		}()
	}
	ask := func(i int) {
		c, err := net.Dial("tcp4", testkit.Loopback(port).String())
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := epmdproto.AppendHandoverReq(nil, fmt.Sprint("crowd", i))
		_, _ = c.Write(b)
		_, _ = io.Copy(io.Discard, c)
	}
	for i := range handovers {
		go func() {
			for { // the pause leaves a busy machine to others
				ask(i % max(1, names))
				time.Sleep(500 * time.Millisecond)
			}
		}()
	}
	for range silent {
		if c, err := net.Dial("tcp4", testkit.Loopback(port).String()); err == nil {
			defer c.Close()
		}
	}
	fmt.Println("registered")
	select {}
}

// registerAs registers a node that takes handovers. The caller must close the connection, also
// if the node was refused.
func registerAs(port uint16, name string) (net.Conn, error) {
	c, err := net.Dial("tcp4", testkit.Loopback(port).String())
	if err != nil {
		return nil, err
	}
	b, err := epmdproto.Alive2Req{Port: 1, NodeType: 77, Highest: 6, Lowest: 5, Name: name, Extra: []byte(epmdproto.Extra)}.Append(nil)
	if err == nil {
		_, err = c.Write(b)
	}
	if err != nil {
		return c, err
	}
	_ = c.SetDeadline(time.Now().Add(testkit.Patience / 2))
	defer func() { _ = c.SetDeadline(time.Time{}) }()
	if r, err := epmdproto.ReadAlive2Resp(c); err != nil || r.Result != 0 {
		return c, fmt.Errorf("%s: %+v, %w", name, r, err)
	}
	return c, nil
}

// TestCrowd: whatever one user does, the nodes of another user register, are looked up and take
// handovers, each at the first attempt, with an EPMD that may have 1,024 files open.
func TestCrowd(t *testing.T) {
	needRoot(t)
	port := testkit.FreePort(t)
	cmd, log := startLimitedEPMD(t, port, 1024)
	startFake(t, app1UID, port, "crowd", "-", "-")
	for i := range 20 {
		name, socket := fmt.Sprint("ears", i), epmdproto.NewSocketName()
		ears := startFake(t, app2UID, port, name, socket, socket)
		c, err := net.Dial("tcp4", testkit.Loopback(port).String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(testkit.Patience))
		if _, err := c.Write(epmdproto.AppendRequest(nil, epmdproto.OpPort2, name)); err != nil {
			t.Fatal(err)
		}
		if r, known, err := epmdproto.ReadPort2Resp(c); err != nil || !known || r.Name != name {
			t.Fatalf("lookup of %s: %+v, %v", name, r, err)
		}
		c.Close()
		c = initiateTo(t, port, name)
		testkit.WaitFor(t, "another user's node to get its connection", func() bool { return ears("got", 1) })
		c.Close()
	}
	open := sockets(cmd.Process.Pid)
	kill9(cmd)
	for _, bad := range []string{"accept failed", fmt.Sprintf(`"uid":"%d"`, app2UID)} {
		if strings.Contains(log.String(), bad) {
			t.Errorf("the log has %q: %s", bad, log.String())
		}
	}
	for _, good := range []string{"registration refused", "too many handovers are under way", fmt.Sprintf(`"uid":"%d"`, app1UID)} {
		if !strings.Contains(log.String(), good) {
			t.Errorf("the log lacks %q: %s", good, log.String())
		}
	}
	t.Logf("%d sockets are open of 1,024 files", open)
}

// TestUserNamespace: an EPMD in a user namespace that maps one user serves nodes of
// other users as nodes without handover. It opens no channel to them, since it cannot tell
// these users apart.
func TestUserNamespace(t *testing.T) {
	needRoot(t)
	port := testkit.FreePort(t)
	cmd := exec.Command(built(t, "epmd"), "-d", "-port", fmt.Sprint(port), "-address", "127.0.0.1")
	var log bytes.Buffer
	cmd.Stderr = &log
	only := []syscall.SysProcIDMap{{ContainerID: 1, HostID: epmdUID, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: only, GidMappings: only, Credential: &syscall.Credential{Uid: 1, Gid: 1, NoSetGroups: true},
	}
	if err := cmd.Start(); err != nil {
		t.Skip("skipped: no user namespaces here:", err)
	}
	t.Cleanup(func() { kill9(cmd) })
	testkit.WaitFor(t, "epmd to listen", func() bool {
		c, err := net.Dial("tcp4", testkit.Loopback(port).String())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	socket := epmdproto.NewSocketName()
	startFake(t, app1UID, port, "other", socket, socket)
	c := initiateTo(t, port, "other")
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testkit.Patience / 6))
	answer := make([]byte, 2)
	if _, err := io.ReadFull(c, answer); err != nil || answer[1] != byte(epmdproto.CannotPass) {
		t.Errorf("a node of another user: % x, %v", answer, err)
	}
	socket = epmdproto.NewSocketName()
	same := startFake(t, epmdUID, port, "same", socket, socket)
	c = initiateTo(t, port, "same")
	defer c.Close()
	testkit.WaitFor(t, "a node of the mapped user to get its connection", func() bool { return same("got", 1) })
	kill9(cmd)
	if !strings.Contains(log.String(), "not mapped into this user namespace") {
		t.Errorf("the log does not say why: %s", log.String())
	}
}
