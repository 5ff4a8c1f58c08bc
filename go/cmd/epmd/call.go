package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"handover/go/internal/epmdproto"
	epmdstatus "handover/go/internal/status"
)

// callTimeout bounds a request to the running EPMD.
const callTimeout = 30 * time.Second

// runCommand sends the command to the EPMD of this host, prints the answer as the stock
// epmd does, and returns the exit status.
func (o options) runCommand(stdout, stderr io.Writer) int {
	if o.command == "-status" {
		return o.printStatus(stdout, stderr)
	}
	if isTerminal(stdout) {
		stdout = printableWriter{stdout}
	}
	silent := o.command == "-started"
	if silent {
		stdout, stderr = io.Discard, io.Discard
	}
	if len(o.name) > 1000 {
		fmt.Fprint(stdout, "epmd: Name too long!")
		return 1
	}
	c, err := dialLocal(o.port)
	if err != nil {
		fmt.Fprintln(stderr, "epmd: Cannot connect to local epmd")
		return 1
	}
	defer c.Close()
	op := map[string]byte{
		"-names": epmdproto.OpNames, "-started": epmdproto.OpNames, "-dump": epmdproto.OpDump,
		"-kill": epmdproto.OpKill, "-stop": epmdproto.OpStop, "-upgrade": epmdproto.OpUpgrade,
	}[o.command]
	if _, err := c.Write(epmdproto.AppendRequest(nil, op, o.name)); err != nil {
		fmt.Fprintln(stdout, "epmd: Can't write to epmd")
		return 1
	}
	switch o.command {
	case "-kill":
		return printKilled(c, stdout)
	case "-stop":
		return printStopped(c, stdout)
	case "-upgrade":
		return printUpgraded(c, stdout, stderr)
	}
	return printList(c, stdout)
}

func (o options) printStatus(stdout, stderr io.Writer) int {
	if err := epmdstatus.Run(stdout, o.port, o.json); err != nil {
		fmt.Fprintf(stderr, "epmd: %v\n", err)
		return 1
	}
	return 0
}

func dialLocal(port uint16) (c net.Conn, err error) {
	for _, host := range []string{"::1", "127.0.0.1"} {
		c, err = net.DialTimeout("tcp", net.JoinHostPort(host, strconv.Itoa(int(port))), callTimeout)
		if err == nil {
			return c, c.SetDeadline(time.Now().Add(callTimeout))
		}
	}
	return nil, err
}

// maxShown is how much of a list is written to a terminal, in one piece so that no
// character is split.
const maxShown = 64 << 20

// printableWriter escapes what a terminal must not get: any user of the host can
// register any name.
type printableWriter struct{ io.Writer }

// Write omits the NULs that end the lines of -dump.
func (w printableWriter) Write(b []byte) (int, error) {
	_, err := io.WriteString(w.Writer, epmdstatus.Printable(strings.ReplaceAll(string(b), "\x00", "")))
	return len(b), err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

func printKilled(c io.Reader, stdout io.Writer) int {
	answer, ok := readWord(c, stdout, 2)
	switch {
	case !ok:
		return 1
	case answer == "OK":
		fmt.Fprintln(stdout, "Killed")
		return 0
	}
	fmt.Fprintln(stdout, "Killing not allowed - living nodes in database.")
	return 1
}

func printStopped(c io.Reader, stdout io.Writer) int {
	answer, ok := readWord(c, stdout, 7)
	if !ok {
		return 1
	}
	fmt.Fprintln(stdout, answer)
	return 0
}

func printUpgraded(c io.Reader, stdout, stderr io.Writer) int {
	answer, err := io.ReadAll(io.LimitReader(c, 4096))
	if string(answer) == epmdproto.UpgradeOK {
		fmt.Fprintln(stdout, "Upgraded")
		return 0
	}
	reason, no := strings.CutPrefix(string(answer), epmdproto.UpgradeNo)
	switch {
	case no:
		fmt.Fprintf(stderr, "epmd: not upgraded: %s\n", epmdstatus.Printable(reason))
	case err != nil:
		fmt.Fprintf(stderr, "epmd: not known whether it is upgraded: %v\n", err)
	default:
		fmt.Fprintln(stderr, "epmd: not upgraded: the running epmd closed without an answer; is it the stock one?")
	}
	return 1
}

// readWord reads an answer of that length. If it is shorter, readWord prints the reason
// on stdout and returns false.
func readWord(c io.Reader, stdout io.Writer, length int) (string, bool) {
	word := make([]byte, length)
	switch _, err := io.ReadFull(c, word); err {
	case nil:
		return string(word), true
	case io.EOF, io.ErrUnexpectedEOF:
		// The stock epmd does not print the part that it has read either.
		fmt.Fprintln(stdout, "epmd: local epmd responded with <>")
	default:
		fmt.Fprintln(stdout, "epmd: failed to read answer from local epmd")
	}
	return "", false
}

func printList(c io.Reader, stdout io.Writer) int {
	var port [4]byte
	if _, err := io.ReadFull(c, port[:]); err != nil {
		fmt.Fprintln(stdout, "epmd: no response from local epmd")
		return 1
	}
	// In one piece, as from stdio: some readers read only once.
	out := bufio.NewWriter(stdout)
	if _, ok := stdout.(printableWriter); ok {
		out = bufio.NewWriterSize(stdout, maxShown)
		c = io.LimitReader(c, maxShown/2)
	}
	defer out.Flush()
	fmt.Fprintf(out, "epmd: up and running on port %d with data:\n", binary.BigEndian.Uint32(port[:]))
	// As in the stock epmd, an incomplete answer is no error.
	_, _ = io.Copy(out, c)
	return 0
}
