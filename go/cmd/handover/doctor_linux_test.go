package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"handover/go/internal/doctor"
	"handover/go/internal/testkit"
)

// answerHandshake plays the BEAM that calls itself name, for one connection.
func answerHandshake(t *testing.T, n *node, name string) {
	_, c := n.take()
	defer c.Close()
	packet := func(b string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		t.Error(err)
		return
	}
	asked := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, asked); err != nil || asked[0] != 'N' {
		t.Errorf("% x, %v; want the packet of a name", asked, err)
		return
	}
	flags := binary.BigEndian.Uint64(asked[1:])
	if flags&1 != 0 || flags&(2<<32) == 0 {
		t.Errorf("flags %#x: want hidden, and to be given a name", flags)
	}
	c.Write(packet("snamed:\x00\x03x@h\x00\x00\x00\x01"))
	c.Write(packet("N\x00\x00\x00\x0f\x07\xdf\x7f\xbc\x01\x02\x03\x04\x00\x00\x00\x2a" + string([]byte{0, byte(len(name))}) + name))
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("after the challenge: % x, %v; want a close", b, err)
	}
}

// TestDoctor tests the programs, and plays the BEAM. The tests of internal/doctor have all the
// ways in which a step can end.
func TestDoctor(t *testing.T) {
	port := testkit.FreePort(t)
	run := func(args ...string) (int, string) {
		cmd := exec.Command(built(t, "handover"), append([]string{"doctor"}, args...)...)
		cmd.Env = append(os.Environ(), "ERL_EPMD_PORT="+fmt.Sprint(port))
		out, err := cmd.Output()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
	if status, out := run("n1@127.0.0.1"); status != 1 || !strings.Contains(out, "✘ tcp ") || !strings.Contains(out, "\nTo do: ") {
		t.Errorf("without an EPMD: %d, %s", status, out)
	}
	startEPMD(t, port)
	n := startNode(t, "")
	n.register(port)

	for name, want := range map[string]struct {
		status int
		line   string
	}{
		"n1@127.0.0.1": {0, "n1@127.0.0.1 can be reached by handover.\n"},
		"n1@private":   {1, "To do: use that name: add n1@private to the nodes' dial map, "},
	} {
		done := make(chan struct{})
		go func() { defer close(done); answerHandshake(t, n, name) }()
		status, out := run("n1@127.0.0.1")
		if status != want.status || !strings.Contains(out, "\n"+want.line) {
			t.Errorf("%s: %d, %s", name, status, out)
		}
		<-done
	}
	status, out := run("--json", "--address", "127.0.0.1", "--port", fmt.Sprint(port), "n2@host.example")
	var report doctor.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 1 {
		t.Fatalf("%d, %s, %v", status, out, err)
	}
	if report.Node != "n2@host.example" || report.Result != doctor.Unreachable || len(report.Steps) != 7 ||
		report.Steps[4].Name != "registered" || report.Steps[4].State != doctor.Failed || report.Steps[4].Advice == "" ||
		report.Steps[6].State != doctor.Skipped {
		t.Errorf("%s", out)
	}
}

func TestDoctorArgs(t *testing.T) {
	t.Setenv("ERL_EPMD_PORT", "4444")
	for args, want := range map[string]string{
		"a@b": "a@b {Host: Port:4444 Inet6:false Timeout:8s} false",
		"--port 1 --timeout 2s --json --inet6 a@b": "a@b {Host: Port:1 Inet6:true Timeout:2s} true",
		"-address h:1 -port 2 -- -a@b":             "-a@b {Host:h Port:1 Inet6:false Timeout:8s} false",
		"-address h a@b":                           "a@b {Host:h Port:4444 Inet6:false Timeout:8s} false",
		"-address fd77::1 a@b":                     "a@b {Host:fd77::1 Port:4444 Inet6:false Timeout:8s} false",
		"-address [fd77::1]:65535 a@b":             "a@b {Host:fd77::1 Port:65535 Inet6:false Timeout:8s} false",
		"":                                         "doctor takes one node, not 0; options go before it",
		"a@b --json":                               "doctor takes one node, not 2; options go before it",
		"-port 0 a@b":                              `invalid value "0" for flag -port: a port is a number from 1 to 65535, not "0"`,
		"-port 65536 a@b":                          `invalid value "65536" for flag -port: a port is a number from 1 to 65535, not "65536"`,
		"-address :1 a@b":                          `invalid value ":1" for flag -address: the host is missing`,
		"-address h:x a@b":                         `invalid value "h:x" for flag -address: a port is a number from 1 to 65535, not "x"`,
		"-address h:1:2 a@b":                       `invalid value "h:1:2" for flag -address: address h:1:2: too many colons in address`,
		"-timeout 0s a@b":                          "-timeout must be more than 0",
		"-timeout 5 a@b":                           `invalid value "5" for flag -timeout: parse error`,
		"-x a@b":                                   "flag provided but not defined: -x",
	} {
		target, o, asJSON, err := doctorArgs(strings.Fields(args))
		got := fmt.Sprintf("%s %+v %v", target, o, asJSON)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s\nwant %s", args, got, want)
		}
	}
	var out, errs bytes.Buffer
	if status := runDoctorTo(t.Context(), []string{"-h"}, &out, &errs); status != 2 || out.Len() > 0 || errs.String() != usage {
		t.Errorf("-h: %d, %q, %q", status, out.String(), errs.String())
	}
	t.Setenv("ERL_EPMD_PORT", "x")
	if _, _, _, err := doctorArgs([]string{"a@b"}); err == nil {
		t.Error("a bad ERL_EPMD_PORT is no error")
	}
}

// TestDoctorDocs: the page has each step, option, exit status and key.
func TestDoctorDocs(t *testing.T) {
	page, err := os.ReadFile("../../../docs/DOCTOR.md")
	if err != nil {
		t.Fatal(err)
	}
	words := []string{"`--address HOST[:PORT]`", "`--port PORT`", "`--inet6`", "`--timeout TIME`", "`--json`", "`direct`"}
	report := doctor.Run(t.Context(), "n1", doctor.Options{}, nil)
	for _, s := range report.Steps {
		words = append(words, "| `"+s.Name+"` |")
	}
	for _, status := range doctorExitStatus {
		words = append(words, fmt.Sprintf("\n| %d |", status))
	}
	asJSON, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`"(\w+)":`).FindAllStringSubmatch(string(asJSON), -1) {
		words = append(words, m[1]+"`")
	}
	for _, word := range words {
		if !strings.Contains(string(page), word) {
			t.Errorf("docs/DOCTOR.md lacks %q", word)
		}
	}
}

// The exit status shows if the output could not be written.
func TestDoctorNoReader(t *testing.T) {
	r, w := net.Pipe()
	r.Close()
	var errs bytes.Buffer
	if status := runDoctorTo(t.Context(), []string{"--json", "n1"}, w, &errs); status != 1 || errs.Len() == 0 {
		t.Errorf("%d, %q", status, errs.String())
	}
}
