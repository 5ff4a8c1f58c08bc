package epmd

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"handover/go/internal/epmdproto"
)

// generator makes streams of bytes: valid requests, such requests with some bytes
// changed, cut off or added, and noise. The same seed makes the same streams.
type generator struct {
	*rand.Rand
	relaxed bool
}

func newGenerator(seed uint64, relaxed bool) generator {
	return generator{rand.New(rand.NewPCG(seed, 0)), relaxed}
}

// Few names, so that some are registered, old, or taken.
var someNames = []string{"keeper", "n", "m", "ö", "", "\x00", "a\x00b", "\xff", "😀",
	strings.Repeat("l", 254), strings.Repeat("l", 255), strings.Repeat("l", 256), strings.Repeat("😀", 255)}

func (g generator) pick(of []string) string { return of[g.IntN(len(of))] }

func (g generator) bytes(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return string(b)
}

// request returns a valid request.
func (g generator) request() string {
	switch g.IntN(8) {
	case 0, 1:
		return alive(g.pick(someNames), uint16(g.IntN(8)), g.bytes([]int{0, 3, 1020, 1021}[g.IntN(4)]))
	case 2, 3:
		return framed("z" + g.pick(someNames) + g.pick([]string{"", "", "\x00", "\x00\x00"}))
	case 4:
		return framed("s" + g.pick(someNames[1:]))
	case 5:
		return framed(g.pick([]string{"n", "d", "k", "nx", "q"}))
	case 6:
		return framed(g.bytes(1 + g.IntN(20)))
	}
	return g.bytes(g.IntN(40))
}

// mutated changes the bytes of a request.
func (g generator) mutated(s string) string {
	b := []byte(s)
	for range 1 + g.IntN(3) {
		switch at := g.IntN(len(b) + 1); g.IntN(4) {
		case 0:
			b = append(b[:at:at], append([]byte(g.bytes(1+g.IntN(3))), b[at:]...)...)
		case 1:
			b = b[:at]
		default:
			if at < len(b) {
				b[at] = byte(g.Uint32())
			}
		}
	}
	return string(b)
}

// step is a connection that sends a stream in one to three parts and then its end.
func (g generator) step() step {
	stream := g.request()
	if g.IntN(2) == 0 {
		stream = g.mutated(stream)
	}
	s := step{shut: true, parts: []string{stream}}
	for len(s.parts) < 3 && g.IntN(4) == 0 {
		last := s.parts[len(s.parts)-1]
		at := g.IntN(len(last) + 1)
		s.parts = append(s.parts[:len(s.parts)-1], last[:at], last[at:])
	}
	if deliberate(stream) != "" || g.relaxed && opcode(stream) == epmdproto.OpKill {
		return g.step()
	}
	return s
}

func opcode(stream string) byte {
	if len(stream) < 3 {
		return 0
	}
	return stream[2]
}

// deliberate returns the reason why the answer to a stream differs from the stock
// epmd's on purpose, or "".
// docs/EPMD.md has the same list under the same names.
func deliberate(stream string) string {
	switch opcode(stream) {
	case epmdproto.OpHandover:
		return "HANDOVER_REQ"
	case epmdproto.OpUpgrade:
		return "UPGRADE_REQ"
	case epmdproto.OpStatus:
		return "STATUS_REQ"
	}
	return ""
}

// TestGenerated compares the answers to generated streams. A node is always registered,
// because otherwise KILL would end the comparison.
func TestGenerated(t *testing.T) {
	program, err := exec.LookPath("epmd")
	if err != nil {
		t.Skip("skipped: there is no stock epmd to compare with (Debian: apt-get install erlang-base)")
	}
	for _, check := range []bool{false, true} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("relaxed=%v,seed=%d", check, seed), func(t *testing.T) {
				compareGenerated(t, program, check, seed, 200)
			})
		}
	}
}

func compareGenerated(t *testing.T, program string, relaxed bool, seed uint64, steps int) {
	ts := start(t, Options{RelaxedCommandCheck: relaxed, MaxOld: 5})
	stock := startStock(t, program, relaxed)
	var kept [2][]net.Conn
	both := func(s step, slower time.Duration) (ours, theirs string) {
		var wg sync.WaitGroup
		wg.Go(func() { ours = play(t, ts.addr, s, slower, &kept[0]) })
		theirs = play(t, stock, s, slower, &kept[1])
		wg.Wait()
		return ours, theirs
	}
	both(step{parts: []string{alive("keeper", 6, "")}, keep: x6}, 1)
	g := newGenerator(seed, relaxed)
	answered := 0
	for i := range steps {
		s := g.step()
		ours, theirs := both(s, 1)
		for slower := time.Duration(5); ours != theirs && slower < 200; slower *= 3 {
			ours, theirs = both(s, slower)
		}
		if ours != theirs {
			t.Fatalf("step %d, %q:\nours  %.300q\nstock %.300q", i, s.parts, ours, theirs)
		}
		if ours != "" {
			answered++
		}
	}
	if answered < steps/10 {
		t.Errorf("%d of %d streams had an answer: the generator is no good", answered, steps)
	}
	if ours, theirs := both(one(framed("d")), 1); ours != theirs {
		t.Errorf("in the end:\nours  %q\nstock %q", ours, theirs)
	}
}

// TestDeliberate: docs/EPMD.md lists each deliberate difference.
func TestDeliberate(t *testing.T) {
	page, err := os.ReadFile("../../../docs/EPMD.md")
	if err != nil {
		t.Fatal(err)
	}
	for op := range 256 {
		if name := deliberate(string([]byte{0, 1, byte(op)})); name != "" && !strings.Contains(string(page), "\n| `"+name+"` |") {
			t.Errorf("docs/EPMD.md has no difference `%s`", name)
		}
	}
}
