package pages

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A block `console` is a transcript.
//
//	$ COMMAND           is run on host1 of ct/hosts.sh's two, in a folder of its own;
//	host2$ COMMAND      on host2, where the nodes n2 and n3 run with handover
//	(n1@host1)1> INPUT  is what the command reads, and
//	                    every other line what it prints, in this order, and
//	exit status 1       where it fails
//
// In what is printed, ... stands for anything, as a whole line for any lines; behind
// two spaces, % begins a comment. Words behind `console`:
//
//	open     the firewalls let everything through
//	soon     a command is run again until it prints what it should
//	numbers  may be others
//	here     on this machine, in the repository

type step struct {
	host          int
	command       string
	input, prints []string
}

var (
	commandLine = regexp.MustCompile(`^(host2)?\$ (.*)`)
	comment     = regexp.MustCompile(` {2,}% .*`)
	inputLine   = regexp.MustCompile(`^(?:\([^ )]+\))?\d+> (.*)`)
)

func (b block) steps(t *testing.T) (steps []step) {
	t.Helper()
	for line := range strings.Lines(b.text) {
		line = strings.TrimRight(line, " \n")
		if m := commandLine.FindStringSubmatch(line); m != nil {
			s := step{host: 1, command: m[2]}
			if m[1] != "" {
				s.host = 2
			}
			steps = append(steps, s)
			continue
		}
		if len(steps) == 0 {
			t.Fatalf("%v does not begin with a command", b)
		}
		s := &steps[len(steps)-1]
		if m := inputLine.FindStringSubmatch(line); m != nil {
			s.input = append(s.input, m[1])
		} else if line != "" {
			s.prints = append(s.prints, comment.ReplaceAllString(line, ""))
		}
	}
	return steps
}

// printed is what a shell or a node said, without what is always there.
func printed(out string) (lines []string) {
	noise := regexp.MustCompile(`^(Eshell V|Erlang/OTP |\*\*\* Terminating erlang|handover: building )`)
	prompt := regexp.MustCompile(`^(\([^ )]+\)\d+> )+`)
	for line := range strings.Lines(out) {
		line = strings.TrimRight(prompt.ReplaceAllString(strings.TrimRight(line, "\n"), ""), " ")
		if line != "" && !noise.MatchString(line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// pattern matches what a transcript lets a command print.
func pattern(lines []string) *regexp.Regexp {
	var p strings.Builder
	for _, line := range lines {
		if line == "..." {
			p.WriteString(`(?:.*\n)*?`)
			continue
		}
		p.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), `\.\.\.`, `.*`) + "\n")
	}
	return regexp.MustCompile(`^` + p.String() + `$`)
}

// alike makes all numbers the same, and the spaces before them; not those within
// names and addresses.
func alike(lines []string) (list []string) {
	number := regexp.MustCompile(`^\d+(\.\d+)?([.,;:)]*)$`)
	for _, line := range lines {
		words := strings.Fields(line)
		for i, word := range words {
			words[i] = number.ReplaceAllString(word, "0$2")
		}
		list = append(list, strings.Join(words, " "))
	}
	return list
}

// TestConsole does what the transcripts do.
func TestConsole(t *testing.T) {
	for _, p := range manual(t) {
		var blocks []block
		for _, b := range p.blocks() {
			if b.is("console") {
				blocks = append(blocks, b)
			}
		}
		if len(blocks) > 0 {
			t.Run(strings.TrimSuffix(filepath.Base(p.path), ".md"), func(t *testing.T) { transcripts(t, blocks) })
		}
	}
}

func transcripts(t *testing.T, blocks []block) {
	h := newHosts(t)
	// README.md's .../handover/ebin
	err := os.Mkdir(filepath.Join(h.dir, "..."), 0o700)
	if err == nil {
		err = os.Symlink(absolute(t, "_build/default/lib/handover"), filepath.Join(h.dir, ".../handover"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"n2", "n3"} {
		h.node(t, 2, name, overHandover()...)
	}
	for _, b := range blocks {
		if b.has("open") {
			for host := range 2 {
				h.must(t, 1+host, "", "nft", "flush", "ruleset")
			}
		}
		for _, s := range b.steps(t) {
			h.compare(t, b, s)
		}
	}
}

func (h *hosts) compare(t *testing.T, b block, s step) {
	t.Helper()
	like := func(lines []string) []string { return lines }
	if b.has("numbers") {
		like = alike
	}
	want := pattern(like(s.prints))
	var out string
	once := func() bool {
		cmd := h.command(t, s.host, "sh", "-c", s.command)
		if b.has("here") {
			cmd = exec.CommandContext(t.Context(), "sh", "-c", s.command)
			cmd.Dir = top
		}
		var err error
		if out, err = output(t, cmd, strings.Join(append(s.input, ""), "\n")); err != nil {
			out += "\n" + err.Error() + "\n"
		}
		out = strings.Join(append(like(printed(out)), ""), "\n")
		return want.MatchString(out)
	}
	ok := once()
	for end := time.Now().Add(commandTimeout); !ok && b.has("soon") && time.Now().Before(end); ok = once() {
		time.Sleep(50 * time.Millisecond)
	}
	if !ok {
		t.Errorf("%v: %s prints\n%s\nand not\n%s", b, s.command, out, strings.Join(s.prints, "\n"))
	}
}
