package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// terminal is a pseudo-terminal and its output.
func terminal(t *testing.T) (tty *os.File, printed *syncBuffer) {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("skipped: no terminals here: %v", err)
	}
	t.Cleanup(func() { _ = ptmx.Close() })
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	printed = new(syncBuffer)
	go func() { _, _ = io.Copy(printed, ptmx) }()
	t.Cleanup(func() { _ = tty.Close() })
	return tty, printed
}

// clean checks for characters other than printable ones and line ends.
func clean(t *testing.T, what, text string) {
	t.Helper()
	for _, r := range strings.ReplaceAll(text, "\r\n", "\n") {
		if !unicode.IsPrint(r) && r != '\n' {
			t.Errorf("%s: %q", what, text)
			return
		}
	}
}

// TestEvilName: a node's name cannot move a terminal's cursor, neither in the log nor in
// the output of the commands on a terminal. On a pipe the output of -names and -dump is
// the stock epmd's, byte by byte.
func TestEvilName(t *testing.T) {
	const evil = "e\x1b]0;x\x07\x1b[2J\u009b1m\u202e\x7f\r"
	port := testkit.FreePort(t)
	tty, onTerminal := terminal(t)
	inFile := new(syncBuffer)
	start := func(onPort uint16, stderr io.Writer) {
		cmd := command(onPort, "-d")
		cmd.Env = append(cmd.Env, "NO_COLOR=1")
		cmd.Stderr = stderr
		await(t, cmd, onPort)
		register(t, onPort, evil)
		c := dial(t, onPort)
		if err := sendAlive2(c, evil); err != nil {
			t.Fatal(err)
		}
		if r, err := epmdproto.ReadAlive2Resp(c); err != nil || r.Result != 1 {
			t.Errorf("a second one of the name: %+v, %v", r, err)
		}
		for _, op := range []byte{epmdproto.OpPort2, epmdproto.OpHandover} {
			for _, name := range []string{evil, "none" + evil} {
				c := dial(t, onPort)
				if _, err := c.Write(epmdproto.AppendRequest(nil, op, name)); err != nil {
					t.Fatal(err)
				}
				_, _ = io.ReadAll(c)
			}
		}
	}
	start(port, tty)
	start(testkit.FreePort(t), inFile)
	for what, log := range map[string]*syncBuffer{"the log on a terminal": onTerminal, "the log": inFile} {
		if !testkit.Within(func() bool {
			return strings.Count(log.String(), "]0;x") >= 3 && strings.Contains(log.String(), "registration refused")
		}) {
			t.Errorf("%s has no word of it: %q", what, log.String())
		}
		clean(t, what, log.String())
	}
	for _, args := range [][]string{{"-names"}, {"-dump"}, {"-status"}, {"-status", "--json"}} {
		tty, printed := terminal(t)
		cmd := command(port, args...)
		cmd.Stdout = tty
		if err := cmd.Run(); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		if !testkit.Within(func() bool {
			return strings.Contains(printed.String(), "]0;x") && strings.HasSuffix(printed.String(), "\n")
		}) {
			t.Errorf("%v: %q", args, printed.String())
		}
		clean(t, strings.Join(args, " "), printed.String())
	}
	if out, _, _ := run(t, port, "-names"); !strings.Contains(out, "name "+evil+" at port 1234\n") {
		t.Errorf("on a pipe: %q", out)
	}
	if out, _, _ := run(t, port, "-dump"); !strings.Contains(out, "<"+evil+"> at port 1234") || !strings.HasSuffix(out, "\n\x00") {
		t.Errorf("on a pipe: %q", out)
	}
}
