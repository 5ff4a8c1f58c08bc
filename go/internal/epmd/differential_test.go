package epmd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
	"handover/go/internal/testkit"
)

// step is one connection of a script. It sends the parts one after another, closes its
// half of the connection if shut is set, and reads the answer until the close, or want
// bytes if the connection stays open. keep leaves it open for the rest of the script.
type step struct {
	parts []string
	keep  int
	shut  bool
	hang  int // closes the connection that was kept as number hang, 1 for the first
}

func one(parts ...string) step { return step{parts: parts} }

func alive(name string, highest uint16, extra string) string {
	b := append([]byte{'x', 0x11, 0x22, 77, 0}, 0, 0, 0, 5)
	binary.BigEndian.PutUint16(b[5:], highest)
	b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(extra)))
	return framed(string(b) + extra)
}

func framed(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

const (
	x6 = 6 // bytes of ALIVE2_X_RESP
	y4 = 4 // of ALIVE2_RESP
)

// scripts run against a fresh EPMD each.
var scripts = map[string][]step{
	"register and ask": {
		{parts: []string{alive("n", 6, "extra")}, keep: x6}, {parts: []string{alive("m", 5, "")}, keep: y4},
		one(framed("zn")), one(framed("zm")), one(framed("zn\x00")), one(framed("zx")), one(framed("n")), one(framed("d")), one(framed("k")),
		{parts: []string{alive("n", 6, "")}, keep: x6}, {parts: []string{alive("m", 5, "")}, keep: y4}, one(framed("n")),
	},
	"order of names": {
		{parts: []string{alive("a", 6, "")}, keep: x6}, {parts: []string{alive("b", 6, "")}, keep: x6}, {parts: []string{alive("c", 6, "")}, keep: x6},
		{hang: 2}, one(framed("n")), one(framed("d")), {parts: []string{alive("b", 6, "")}, keep: x6}, {hang: 1}, one(framed("n")), one(framed("d")),
	},
	"names": {
		{parts: []string{alive(strings.Repeat("n", 255), 6, "")}, keep: x6}, {parts: []string{alive(strings.Repeat("n", 256), 6, "")}, keep: x6},
		{parts: []string{alive(strings.Repeat("😀", 255), 6, "")}, keep: x6}, {parts: []string{alive(strings.Repeat("😀", 256), 6, "")}, keep: x6},
		{parts: []string{alive(strings.Repeat("n", 254), 6, "")}, keep: x6}, {parts: []string{alive("\xff", 6, "")}, keep: x6},
		{parts: []string{alive("\xed\xa0\x80", 6, "")}, keep: x6}, {parts: []string{alive("\xc0\xaf", 6, "")}, keep: x6}, {parts: []string{alive("", 6, "abc")}, keep: x6},
		one(framed("z" + strings.Repeat("n", 254))), one(framed("z" + strings.Repeat("n", 255))), one(framed("z" + strings.Repeat("😀", 254))),
		one(framed("z" + strings.Repeat("n", 255) + "\x00")), one(framed("z\xff")), one(framed("z\xf0\x9f\x98")), one(framed("z")), one(framed("z\x00")),
		one(framed("zn\x00m")), one(framed("zn\x00\x00")), one(framed("n")),
	},
	"extras": {
		{parts: []string{alive("a", 6, strings.Repeat("e", 1019))}, keep: x6}, {parts: []string{alive("b", 6, strings.Repeat("e", 1020))}, keep: x6},
		{parts: []string{alive("c", 6, strings.Repeat("e", 1021))}, keep: x6}, {parts: []string{alive("d", 6, "\x00\xff")}, keep: x6},
		one(framed("za")), one(framed("zb")), one(framed("zc")), one(framed("zd")),
	},
	"lengths": {
		{parts: []string{"\x00\x00"}, shut: true}, one("\x0b\xf1z" + strings.Repeat("n", 3056)), {parts: []string{"\x0b\xf2z"}, shut: true},
		{parts: []string{"\xff\xff"}, shut: true}, {parts: []string{"\x00"}, shut: true}, {parts: []string{"\x00\x05zab"}, shut: true}, {shut: true},
		one(framed("n") + "x"), one(framed("zn") + "x"), one(framed("nx")), one(framed("dx")),
	},
	"apart": {
		{parts: []string{alive("node", 6, "")}, keep: x6},
		one("\x00", "\x05znode"), one("\x00\x05", "znode"), one("\x00\x05z", "node"), one("\x00\x05zno", "de"), one("\x00", "\x01", "n"),
		one("\x00\x05zno", "dex"), one("\x00\x05z", "nodex"), one("\x00\x05", "znodex"), one("\x00", "\x05znodex"), one("\x00\x01", "nx"), one("\x00", "\x05", "znodex"),
	},
	"bad ALIVE2": {
		one(framed("x")), one(framed("x" + strings.Repeat("\x00", 12))), one(framed("x" + strings.Repeat("\x00", 8) + "\xff\xffn\x00\x00")),
		one(framed("x" + strings.Repeat("\x00", 8) + "\x00\x01n\xff\xff")), one(framed("x" + strings.Repeat("\x00", 8) + "\x00\x02n\x00\x00\x00")),
		one(framed("n")),
	},
	"bytes on the heartbeat": {
		{parts: []string{alive("n", 6, ""), "x"}}, one(framed("n")), {parts: []string{alive("n", 6, "")}, keep: x6},
		{parts: []string{alive("n", 6, ""), "x"}}, one(framed("n")),
	},
	"not allowed": {{parts: []string{alive("n", 6, "")}, keep: x6}, one(framed("k")), one(framed("sn")), one(framed("s")), one(framed("n"))},
	"unknown":     {one(framed("q")), one(framed("h")), one(framed("\x00")), one(framed("a\x11\x22name")), one("GET / HTTP/1.1\r\n\r\n"), one("\x16\x03\x01\x00\xa5")},
	"kill":        {one(framed("k"))},
	"kill, bytes": {one(framed("kx"))},
}

// differs lists the steps whose answer differs from the stock epmd's on purpose.
var differs = map[string]string{
	"unknown/1": "HANDOVER_REQ, which the stock EPMD does not know",
}

// relaxed scripts run with -relaxed_command_check.
var relaxed = map[string][]step{
	"stop": {
		{parts: []string{alive("n", 6, "")}, keep: x6}, {parts: []string{alive("m", 6, "")}, keep: x6}, one(framed("sx")), one(framed("s")), one(framed("sn")), one(framed("sm\x00junk")),
		one(framed("sn")), one(framed("n")), one(framed("d")), {parts: []string{alive("n", 6, "")}, keep: x6}, one(framed("k")),
	},
}

// TestAsStock sends the same bytes to the stock epmd and to a Server. Creations
// and fds are random by nature and are compared as such.
func TestAsStock(t *testing.T) {
	program, err := exec.LookPath("epmd")
	if err != nil {
		t.Skip("skipped: there is no stock epmd to compare with (Debian: apt-get install erlang-base)")
	}
	for check, all := range map[bool]map[string][]step{false: scripts, true: relaxed} {
		for name, steps := range all {
			t.Run(name, func(t *testing.T) {
				ts := start(t, Options{RelaxedCommandCheck: check})
				stock := startStock(t, program, check)
				var kept [2][]net.Conn
				for i, s := range steps {
					ours, theirs := play(t, ts.addr, s, 1, &kept[0]), play(t, stock, s, 1, &kept[1])
					// Parts that were meant to be read apart may have been read as one.
					for slower := time.Duration(5); ours != theirs && len(s.parts) > 1 && slower < 200; slower *= 3 {
						ours, theirs = play(t, ts.addr, s, slower, &kept[0]), play(t, stock, s, slower, &kept[1])
					}
					why := differs[fmt.Sprintf("%s/%d", name, i)]
					if (ours == theirs) != (why == "") {
						t.Errorf("step %d, %.60q:\nours  %.300q\nstock %.300q\n%s", i, s.parts, ours, theirs, why)
					}
				}
			})
		}
	}
}

// startStock starts a stock epmd on a free port. It retries if another process takes the
// port first.
func startStock(t *testing.T, program string, relaxed bool) string {
	t.Helper()
	for range 20 {
		free, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := free.Addr().String()
		_ = free.Close()
		args := []string{"-d", "-d", "-port", addr[strings.LastIndex(addr, ":")+1:]}
		if relaxed {
			args = append(args, "-relaxed_command_check")
		}
		if runStock(t, exec.Command(program, args...)) {
			return addr
		}
	}
	t.Fatal("the stock epmd finds no port")
	return ""
}

// runStock reports whether it listens; if not, it has ended.
func runStock(t *testing.T, cmd *exec.Cmd) bool {
	t.Helper()
	cmd.Env = append(os.Environ(), "ERL_EPMD_ADDRESS=127.0.0.1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "entering the main select() loop") {
			drained := make(chan struct{})
			go func() { _, _ = io.Copy(io.Discard, stderr); close(drained) }()
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				<-drained
				_ = cmd.Wait()
			})
			return true
		}
	}
	_ = cmd.Wait()
	return false
}

// gap is long enough for two reads at the other end, mostly.
const gap = 20 * time.Millisecond

var fds = regexp.MustCompile(`fd = \d+`)

// play returns the answers of the EPMD at addr, without their random parts.
func play(t *testing.T, addr string, s step, slower time.Duration, kept *[]net.Conn) string {
	t.Helper()
	if s.hang > 0 {
		before := play(t, addr, one(framed("n")), 1, kept)
		_ = (*kept)[s.hang-1].Close()
		return fmt.Sprint(testkit.Within(func() bool { return play(t, addr, one(framed("n")), 1, kept) != before }))
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(testkit.Patience))
	for i, part := range s.parts {
		if i > 0 {
			time.Sleep(slower * gap)
		}
		if _, err := c.Write([]byte(part)); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Fatal(err)
		}
	}
	if s.shut {
		_ = c.(*net.TCPConn).CloseWrite()
	}
	if s.keep > 0 {
		*kept = append(*kept, c)
		b := make([]byte, s.keep)
		n, err := io.ReadFull(c, b)
		return withoutRandom(string(b[:n])) + fmt.Sprint(err)
	}
	b, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	_ = c.Close()
	port := c.RemoteAddr().(*net.TCPAddr).Port
	got := strings.Replace(string(b), string(binary.BigEndian.AppendUint32(nil, uint32(port))), "PORT", 1)
	return fds.ReplaceAllString(withoutRandom(got), "fd = N")
}

// withoutRandom replaces the creation of a good answer to ALIVE2_REQ.
func withoutRandom(answer string) string {
	r, err := epmdproto.ReadAlive2Resp(strings.NewReader(answer))
	if err == nil && r.Result == 0 && r.Creation > 0 {
		return answer[:2] + "CREATION"
	}
	return answer
}
