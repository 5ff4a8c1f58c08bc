package main

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// TestOutOfFiles: an EPMD that cannot open more files keeps its nodes, and continues as
// soon as it can: the node that has waited meanwhile is registered.
func TestOutOfFiles(t *testing.T) {
	port := testkit.FreePort(t)
	cmd := command(port)
	var stderr syncBuffer
	cmd.Stderr = &stderr
	await(t, cmd, port)
	register(t, port, "before")
	var normal unix.Rlimit
	none := unix.Rlimit{Cur: 0}
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &normal); err != nil {
		t.Fatal(err)
	}
	none.Max = normal.Max
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_NOFILE, &none, nil); err != nil {
		t.Fatal(err)
	}
	waiting := dial(t, port)
	if err := sendAlive2(waiting, "waiting"); err != nil {
		t.Fatal(err)
	}
	testkit.WaitFor(t, "EPMD to run out of files", func() bool { return strings.Contains(stderr.String(), "accept failed") })
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_NOFILE, &normal, nil); err != nil {
		t.Fatal(err)
	}
	if r, err := epmdproto.ReadAlive2Resp(waiting); err != nil || r.Result != 0 {
		t.Errorf("the node that waited: %v, %v", r, err)
	}
	for _, name := range []string{"before", "waiting"} {
		if err := lookUp(port, name); err != nil {
			t.Error(err)
		}
	}
}
