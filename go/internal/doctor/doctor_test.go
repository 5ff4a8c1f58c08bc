package doctor

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

var update = flag.Bool("update", false, "write testdata/transcripts.txt")

const (
	unknown = "w\x01"
	names   = "\x00\x00\x11\x11name n2 at port 4002\nname evil\x1b[2J at port 4003\n"
	me      = "n1@127.0.0.1"
)

// transcript returns the output of a run, with times and ports replaced, since they differ from
// run to run.
func transcript(t *testing.T, target string, o Options, ports map[uint16]string) string {
	t.Helper()
	var text strings.Builder
	report := Run(t.Context(), target, o, func(s Step) { text.WriteString(s.Line() + "\n") })
	fmt.Fprintf(&text, "%s\n(%s)\n", report.Summary(), report.Result)
	masked := regexp.MustCompile(` +\d+\.\d ms`).ReplaceAllString(text.String(), " T ms")
	for port, name := range ports {
		masked = regexp.MustCompile(fmt.Sprintf(`\b%d\b`, port)).ReplaceAllString(masked, name)
	}
	return masked
}

// TestTranscripts has each way that a step can end.
func TestTranscripts(t *testing.T) {
	unused, direct := testkit.FreePort(t), serve(t, node(named, challengeOf(me, 0xf07df7fbc)))
	ports := map[uint16]string{unused: "UNUSED", direct: "NODES"}
	handover := func(answers ...string) map[byte]string {
		m := map[byte]string{'p': "i\x01", 'z': port2(direct, 6, epmdproto.Extra), 'n': names, 'h': handedOver}
		for i := 0; i < len(answers); i += 2 {
			m[answers[i][0]] = answers[i+1]
		}
		return m
	}
	stock := func(lookup string) map[byte]string { return map[byte]string{'z': lookup, 'n': names} }
	links := func(f func(net.Conn)) fake { return fake{handover(), f} }
	cases := []struct {
		name string
		fake fake
	}{
		{"all is well", links(node(named, challengeOf(me, 0xf07df7fbc)))},
		{"lookups refused by policy", fake{handover("z", unknown), node(named, challengeOf(me, 0xf07df7fbc))}},
		{"all refused by policy", fake{handover("z", unknown, "h", "i\x04", "p", "i\x04"), nil}},
		{"too many requests for a policy", fake{handover("z", unknown, "h", "i\x05", "p", "i\x05"), nil}},
		{"no such node", fake{handover("z", unknown, "h", "i\x01"), nil}},
		{"no node at all", fake{handover("z", unknown, "h", "i\x01", "n", "\x00\x00\x11\x11"), nil}},
		{"names not told", fake{handover("z", unknown, "h", "i\x01", "n", ""), nil}},
		{"lookup closed", fake{handover("z", ""), nil}},
		{"ended in between", fake{handover("h", "i\x01"), nil}},
		{"handover closed", fake{handover("h", ""), nil}},
		{"takes no handovers", fake{handover("z", port2(direct, 6, ""), "h", "i\x02"), nil}},
		{"takes no handovers, port not told", fake{handover("z", unknown, "h", "i\x02"), nil}},
		{"no answer of the node", fake{handover("h", "i\x03"), nil}},
		{"refused, by the node or its policy", fake{handover("h", "i\x04"), nil}},
		{"overloaded", fake{handover("h", "i\x05"), nil}},
		{"EPMD cannot pass it on", fake{handover("h", "i\x06"), nil}},
		{"EPMD cannot pass it on, port not told", fake{handover("z", unknown, "h", "i\x06"), nil}},
		{"a result of the future", fake{handover("h", "i\x4d"), nil}},
		{"stock", fake{stock(port2(direct, 6, "")), nil}},
		{"stock, no such node", fake{stock(unknown), nil}},
		{"stock, port closed", fake{stock(port2(unused, 6, "")), nil}},
		{"stock, node with listen false", fake{stock(port2(0, 6, epmdproto.Extra)), nil}},
		{"stock, old node", fake{stock(port2(direct, 5, "")), nil}},
		{"no EPMD, which speaks", fake{map[byte]string{'p': "SSH-2.0-OpenSSH\r\n"}, nil}},
		{"no EPMD, which closes", fake{nil, nil}},
		{"no EPMD, which closes and speaks", fake{map[byte]string{'n': "400 Bad Request\r\n"}, nil}},
		{"not allowed", links(node("snot_allowed"))},
		{"not now", links(node("snok"))},
		{"another name", links(node(named, challengeOf("n1@private", 0xf07df7fbc)))},
		{"OTP 24", links(node(named, challengeOf(me, 0xd03df7fbc)))},
		{"OTP 22", links(node(named, "n\x00\x05\x00\x00\x00\x00\x00\x00\x00\x00"+me))},
		{"TLS", links(says("\x15\x03\x03\x00\x02\x02\x46"))},
		{"another protocol", links(says("SSH-2.0-OpenSSH\r\n"))},
		{"no status", links(node("x"))},
		{"handshake closed", links(func(c net.Conn) { readPacket(c) })},
		{"challenge closed", links(func(c net.Conn) { readPacket(c); c.Write([]byte("\x00\x16" + named)) })},
		{"cut challenge", links(node(named, challengeOf(me, 1)[:20]))},
	}
	var got strings.Builder
	for _, c := range cases {
		port := serve(t, c.fake.serve)
		ports[port] = "EPMDS"
		fmt.Fprintf(&got, "== %s\n%s\n", c.name, transcript(t, me, Options{Port: port, Timeout: testkit.Patience}, ports))
	}
	for _, c := range []struct {
		name, target string
		o            Options
	}{
		{"refused", me, Options{Port: unused}},
		{"no name", "@127.0.0.1", Options{Port: unused}},
		{"no host", "n1", Options{Port: unused}},
		{"NUL", "n\x001@127.0.0.1", Options{Port: unused}},
		{"IPv4 only", me, Options{Port: unused, Inet6: true}},
		{"IPv6 only", "n1@::1", Options{Port: unused}},
		{"elsewhere", "n1@host.example", Options{Port: unused, Host: "127.0.0.1"}},
	} {
		fmt.Fprintf(&got, "== %s\n%s\n", c.name, transcript(t, c.target, c.o, ports))
	}
	const file = "testdata/transcripts.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got.String(), string(want))
}

// compare shows the cases that differ.
func compare(t *testing.T, got, want string) {
	t.Helper()
	gots, wants := strings.Split(got, "== "), strings.Split(want, "== ")
	if len(gots) != len(wants) {
		t.Errorf("%d transcripts, want %d", len(gots)-1, len(wants)-1)
	}
	for i := range min(len(gots), len(wants)) {
		if gots[i] != wants[i] {
			t.Errorf("got\n%s\nwant\n%s", gots[i], wants[i])
		}
	}
}

// TestSilence: a step ends at its deadline if there is no answer.
func TestSilence(t *testing.T) {
	const timeout = 3 * time.Second
	mute := serve(t, hold)
	muteNode := serve(t, fake{map[byte]string{'p': "i\x01", 'z': port2(1, 6, epmdproto.Extra), 'h': handedOver}, hold}.serve)
	muteEPMD := serve(t, func(c net.Conn) {
		f := fake{answers: map[byte]string{'p': "i\x01", 'z': port2(1, 6, epmdproto.Extra)}}
		f.serve(c)
		hold(c)
	})
	for name, c := range map[string]struct {
		port   uint16
		step   string
		advice string
	}{
		"no EPMD":        {mute, "epmd", "not an EPMD"},
		"an EPMD, hung":  {muteEPMD, "handover", "did not take the connection"},
		"a node, hung":   {muteNode, "handshake", "VM does not answer"},
		"host not there": {0, "resolve", "/etc/hosts"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, target := Options{Port: c.port, Timeout: timeout}, me
			if c.step == "resolve" {
				target = "n1@nowhere.invalid"
			}
			report := Run(t.Context(), target, o, nil)
			for _, s := range report.Steps {
				if s.Name == c.step {
					if s.State != Failed || !strings.Contains(s.Advice, c.advice) {
						t.Errorf("%+v", s)
					}
					return
				}
				if s.State != OK {
					t.Fatalf("%+v before %s", s, c.step)
				}
			}
			t.Errorf("no step %s", c.step)
		})
	}
}

func TestDialAdvice(t *testing.T) {
	seen := map[string]bool{}
	for _, err := range dialErrors {
		advice := dialAdvice(err, 4369)
		if advice == "" || seen[advice] {
			t.Errorf("%v: %q, as another", err, advice)
		}
		seen[advice] = true
	}
}

// TestShow: foreign text does not reach a terminal unchanged.
func TestShow(t *testing.T) {
	for in, want := range map[string]string{
		"n1@hö.example": "n1@hö.example", "a\x1b[2Jb": `"a\x1b[2Jb"`, "\xff": `"\xff"`, "a\nb": `"a\nb"`,
		strings.Repeat("x", 1000): strings.Repeat("x", 300) + "...",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %s", in, got)
		}
	}
}

// FuzzHandshake: each answer of a node gives a finding that fits into a line.
func FuzzHandshake(f *testing.F) {
	for _, s := range []string{named, "snok", challengeOf(me, 1), "N", "s", ""} {
		f.Add([]byte("\x00\x04"+s), []byte(s))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if s, err := readStatus(strings.NewReader(string(a))); err == nil && s == "" && !strings.HasPrefix(string(a[3:]), ":") {
			t.Errorf("no status of % x", a)
		}
		n, err := readChallenge(strings.NewReader(string(b)))
		if err == nil && (len(n.name) > maxPacket || strings.ContainsAny(n.String(), "\n\x1b")) {
			t.Errorf("% x: %s", b, n)
		}
		if err != nil && errors.Is(err, errHandshake) && strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("% x: %v", b, err)
		}
	})
}
