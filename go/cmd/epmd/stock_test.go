package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"handover/go/internal/testkit"
)

// deliberate returns the name in docs/EPMD.md of the difference that a command line
// shows, or "".
var deliberate = map[string]string{
	"-port 70000 -names":        "numbers",
	"-port -1 -names":           "numbers",
	"-port 9x -names":           "numbers",
	"-packet_timeout -1 -names": "numbers",
	"-daemon -address nonsense": "-daemon",
}

// Command lines that end by themselves if no EPMD runs. All but the first few are
// invalid.
var endings = []string{
	"-names", "-d -names", "-debug -d -names", "-started", "-dump", "-kill", "-stop x", "-stop " + strings.Repeat("x", 1000), "-stop " + strings.Repeat("x", 1001),
	"-port 1 -names", "-packet_timeout 1 -delay_accept 1 -delay_write 1 -address x -relaxed_command_check -daemon -names",
	"-names -d", "-stop", "-stop a b", "-kill x", "-started x", "-dump x", "-port", "-port 0 -names", "-port x -names", "-port 70000 -names", "-port -1 -names",
	"-port 9x -names", "-help", "--help", "names", "-packet_timeout", "-packet_timeout 0", "-packet_timeout -1 -names", "-delay_accept", "-delay_accept 0",
	"-delay_write", "-delay_write 0", "-address", "-address nonsense", "-address 300.1.1.1", "-address 192.0.2.77", "-address 192.0.2.77,,192.0.2.78",
	"-systemd", "-daemon -address nonsense",
}

// program runs an epmd, the stock one or this one.
type program func(t *testing.T, port uint16, args ...string) (stdout, stderr string, code int)

func stockProgram(t *testing.T) program {
	t.Helper()
	path, err := exec.LookPath("epmd")
	if err != nil {
		t.Skip("skipped: there is no stock epmd to compare with (Debian: apt-get install erlang-base)")
	}
	return func(t *testing.T, port uint16, args ...string) (string, string, int) {
		t.Helper()
		cmd := exec.Command(path, args...)
		cmd.Env = append(os.Environ(), "ERL_EPMD_ADDRESS=127.0.0.1", "ERL_EPMD_PORT="+strconv.Itoa(int(port)))
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
}

// kind reduces stderr to what can be compared: the usage, or a message without the time
// and the texts of the operating system.
func kind(stderr string) string {
	if strings.Contains(stderr, "usage: epmd [-d|-debug] [DbgExtra...] [-address List]") {
		return "usage"
	}
	message := regexp.MustCompile(`^epmd: (\w{3} \w{3} [ \d]\d [\d:]{8} \d{4}: )?`).ReplaceAllString(stderr, "")
	for _, known := range []string{"Cannot connect to local epmd", "cannot parse IP address", "failed to bind on ipaddr 192.0.2.77:", "systemd provides no sockets"} {
		if strings.HasPrefix(message, known) {
			return known
		}
	}
	return stderr
}

func TestEndingsAsStock(t *testing.T) {
	stock, port := stockProgram(t), testkit.FreePort(t)
	for _, line := range endings {
		out, errOut, code := run(t, port, strings.Fields(line)...)
		stockOut, stockErr, stockCode := stock(t, port, strings.Fields(line)...)
		same := out == stockOut && kind(errOut) == kind(stockErr) && code == stockCode
		if same != (deliberate[line] == "") {
			t.Errorf("epmd %.60s\nours  %d %q %.200q\nstock %d %q %.200q\n%s",
				line, code, out, errOut, stockCode, stockOut, stockErr, deliberate[line])
		}
	}
}

// TestDeliberate: docs/EPMD.md lists each deliberate difference.
func TestDeliberate(t *testing.T) {
	page, err := os.ReadFile("../../../docs/EPMD.md")
	if err != nil {
		t.Fatal(err)
	}
	for line, name := range deliberate {
		if !strings.Contains(string(page), "\n| `"+name+"` |") {
			t.Errorf("epmd %s: docs/EPMD.md has no difference `%s`", line, name)
		}
	}
}

// TestDaemonAsStock controls a daemon of each program from start to end.
func TestDaemonAsStock(t *testing.T) {
	stock := stockProgram(t)
	for _, relaxed := range []bool{false, true} {
		ours, theirs := drive(t, run, relaxed), drive(t, stock, relaxed)
		if ours != theirs {
			t.Errorf("relaxed: %v\nours:\n%s\nstock:\n%s", relaxed, ours, theirs)
		}
	}
}

// drive returns the transcript of a daemon's life, in a comparable form.
func drive(t *testing.T, epmd program, relaxed bool) string {
	t.Helper()
	port := testkit.FreePort(t)
	var transcript strings.Builder
	do := func(line string) int {
		out, errOut, code := epmd(t, port, strings.Fields(line)...)
		out = strings.ReplaceAll(out, strconv.Itoa(int(port)), "PORT")
		out = regexp.MustCompile(`fd = \d+`).ReplaceAllString(out, "fd = N")
		transcript.WriteString("$ epmd " + line + "\n" + out + kind(errOut) + "\n" + strconv.Itoa(code) + "\n")
		return code
	}
	start := "-daemon"
	if relaxed {
		start += " -relaxed_command_check"
	}
	do(start)
	// The stock epmd's start returns before it listens.
	if !testkit.Within(func() bool { _, _, code := epmd(t, port, "-started"); return code == 0 }) {
		t.Fatal("epmd does not answer")
	}
	for _, line := range []string{"-started", "-daemon", "", "-names", "-dump"} {
		do(line)
	}
	first, second := register(t, port, "n"), register(t, port, "m")
	for _, line := range []string{"-names", "-dump", "-stop x", "-stop n", "-names"} {
		do(line)
	}
	for i, c := range []net.Conn{first, second} {
		_ = c.Close() // one after the other: -dump tells the order
		name := "name " + []string{"n", "m"}[i]
		if !testkit.Within(func() bool { out, _, _ := epmd(t, port, "-names"); return !strings.Contains(out, name) }) {
			t.Errorf("%s sticks", name)
		}
	}
	do("-dump")
	third := register(t, port, "o")
	if do("-kill") != 0 {
		_ = third.Close()
		if !testkit.Within(func() bool { _, _, code := epmd(t, port, "-kill"); return code == 0 }) {
			t.Error("epmd can't be killed")
		}
	}
	if !testkit.Within(func() bool { _, _, code := epmd(t, port, "-started"); return code != 0 }) {
		t.Error("epmd lives on")
	}
	do("-names")
	return transcript.String()
}

// TestEnvironment: the variables mean the same as for the stock epmd. A flag overrides its
// variable.
func TestEnvironment(t *testing.T) {
	path, err := exec.LookPath("epmd")
	if err != nil {
		t.Skip("skipped: there is no stock epmd to compare with (Debian: apt-get install erlang-base)")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env, args []string
		listens   bool // on the port of the test
		stops     bool // a registered name
	}{
		{[]string{"ERL_EPMD_PORT=NUMBER"}, nil, true, false},
		{[]string{"ERL_EPMD_PORT=1"}, []string{"-port", "NUMBER"}, true, false},
		{[]string{"ERL_EPMD_PORT=NUMBER", "ERL_EPMD_RELAXED_COMMAND_CHECK="}, nil, true, true},
		{[]string{"ERL_EPMD_PORT=NUMBER", "ERL_EPMD_RELAXED_COMMAND_CHECK=false"}, nil, true, true},
		{[]string{"ERL_EPMD_PORT=NUMBER", "ERL_EPMD_ADDRESS=192.0.2.77"}, nil, false, false},
		{[]string{"ERL_EPMD_PORT=NUMBER", "ERL_EPMD_ADDRESS=192.0.2.77"}, []string{"-address", "127.0.0.1"}, true, false},
		{[]string{"ERL_EPMD_PORT=NUMBER", "ERL_EPMD_ADDRESS="}, nil, true, false},
	} {
		for _, program := range []string{self, path} {
			port := testkit.FreePort(t)
			fill := strings.NewReplacer("NUMBER", strconv.Itoa(int(port)))
			cmd := exec.Command(program)
			for _, arg := range c.args {
				cmd.Args = append(cmd.Args, fill.Replace(arg))
			}
			cmd.Env = append(os.Environ(), mainEnv+"=1", "GORACE=atexit_sleep_ms=0")
			for _, v := range c.env {
				cmd.Env = append(cmd.Env, fill.Replace(v))
			}
			listens, stops := tried(t, cmd, port)
			if listens != c.listens || stops != c.stops {
				t.Errorf("%s %v %v: listens %v, stops names %v", program, c.env, c.args, listens, stops)
			}
		}
	}
}

// tried returns whether a daemon listens on the port or ends, and whether it stops a
// name.
func tried(t *testing.T, cmd *exec.Cmd, port uint16) (listens, stops bool) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	defer func() { _ = cmd.Process.Kill(); <-ended }()
	testkit.WaitFor(t, "epmd to listen or to end", func() bool {
		select {
		case <-ended:
			return true
		default:
		}
		_, _, code := run(t, port, "-started")
		listens = code == 0
		return listens
	})
	if !listens {
		return false, false
	}
	c := register(t, port, "n")
	defer c.Close()
	out, _, _ := run(t, port, "-stop", "n")
	return true, out == "STOPPED\n"
}
