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

// A block in the language `console` is a transcript of commands and their output:
//
//	$ COMMAND           a command on host1, one of the two hosts of ct/hosts.sh
//	host2$ COMMAND      a command on host2, where the nodes n2 and n3 run with handover
//	(n1@host1)1> INPUT  a line of input for the command
//	exit status 1       the last line of the output of a command that fails
//	any other line      output of the command, in this order
//
// In the output, ... matches any text, and as a whole line any lines. A comment begins with % after two spaces. The word
// `console` can be followed by:
//
//	open     the firewalls let everything through
//	soon     the command is repeated until it prints the expected output
//	numbers  numbers in the output may differ
//	here     the commands run on this machine, in the repository

// A step is one command of a transcript.
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

// parseSteps returns the commands of a transcript.
func (b block) parseSteps(t *testing.T) (steps []step) {
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
			t.Fatalf("%v must begin with a command", b)
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

// printedLines returns the lines of output, without prompts and without the lines that Erlang always prints.
func printedLines(out string) (lines []string) {
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

// outputPattern returns a pattern for the output in a transcript.
func outputPattern(lines []string) *regexp.Regexp {
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

// withoutNumbers replaces all numbers by 0, and spaces by one space. It keeps the numbers within names and addresses.
func withoutNumbers(lines []string) (list []string) {
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

// TestConsole runs the transcripts and compares the output.
func TestConsole(t *testing.T) {
	for _, p := range manualPages(t) {
		var blocks []block
		for _, b := range p.codeBlocks() {
			if b.is("console") {
				blocks = append(blocks, b)
			}
		}
		if len(blocks) > 0 {
			t.Run(strings.TrimSuffix(filepath.Base(p.path), ".md"), func(t *testing.T) { runTranscripts(t, blocks) })
		}
	}
}

// runTranscripts runs the transcripts of one page on two new hosts.
func runTranscripts(t *testing.T, blocks []block) {
	h := newHosts(t)
	// README.md writes .../handover/ebin for the path of the application
	err := os.Mkdir(filepath.Join(h.dir, "..."), 0o700)
	if err == nil {
		err = os.Symlink(absolutePath(t, "_build/default/lib/handover"), filepath.Join(h.dir, ".../handover"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"n2", "n3"} {
		h.startNode(t, 2, name, handoverArgs()...)
	}
	for _, b := range blocks {
		if b.has("open") {
			for host := range 2 {
				h.mustRun(t, 1+host, "", "nft", "flush", "ruleset")
			}
		}
		for _, s := range b.parseSteps(t) {
			h.runStep(t, b, s)
		}
	}
}

// runStep runs a command and compares its output.
func (h *hosts) runStep(t *testing.T, b block, s step) {
	t.Helper()
	normalize := func(lines []string) []string { return lines }
	if b.has("numbers") {
		normalize = withoutNumbers
	}
	want := outputPattern(normalize(s.prints))
	var out string
	once := func() bool {
		cmd := h.command(t, s.host, "sh", "-c", s.command)
		if b.has("here") {
			cmd = exec.CommandContext(t.Context(), "sh", "-c", s.command)
			cmd.Dir = top
		}
		var err error
		if out, err = runCommand(t, cmd, strings.Join(append(s.input, ""), "\n")); err != nil {
			out += "\n" + err.Error() + "\n"
		}
		out = strings.Join(append(normalize(printedLines(out)), ""), "\n")
		return want.MatchString(out)
	}
	ok := once()
	for end := time.Now().Add(commandTimeout); !ok && b.has("soon") && time.Now().Before(end); ok = once() {
		time.Sleep(50 * time.Millisecond)
	}
	if !ok {
		t.Errorf("%v: %s prints\n%s\nwant\n%s", b, s.command, out, strings.Join(s.prints, "\n"))
	}
}
