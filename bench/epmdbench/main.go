// Command epmdbench puts load on an EPMD on the loopback of this host, or helps a benchmark to do so. bench/run.sh calls it.
//
// These commands print their result as one JSON object. The exit status is 1 if any request failed.
//
//	epmdbench lookups   -port P -name NAME -clients N -duration D   PORT_PLEASE2_REQ, each on a new connection, like OTP's nodes
//	epmdbench handovers -port P -name NAME -clients N -duration D   HANDOVER_REQ until HANDOVER_RESP, then a reset
//	epmdbench dials     -port P -name NAME -clients N -duration D   the same without handover: PORT_PLEASE2_REQ, dial, reset
//	    -handshake: handovers and dials continue with the distribution handshake until the node's challenge
//	epmdbench register  -port P -count N [-hold]                    ALIVE2_REQ, one after another; -hold: keep the names until
//	                                                                end of file on stdin
//
// These commands play a node, print a line when they are ready, and run until end of file on stdin:
//
//	epmdbench carrier   -port P -name NAME -program FILE            a carrier, with a BEAM that closes each passed connection
//	epmdbench listener  -port P -name NAME                          a node without handover that closes each accepted connection
//
// This command sends SIGKILL to a process and prints the time, in Unix microseconds:
//
//	epmdbench kill      -pid N
//
// Each client is a goroutine with a blocking socket, so that the load itself needs little processor time.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
)

// answerTimeout is how long the last answers may take.
const answerTimeout = 15 * time.Second

// load is the load that the flags describe.
type load struct {
	port, clients, count int
	pid                  int
	name, program        string
	duration             time.Duration
	hold, handshake      bool
}

// result is what a load prints.
type result struct {
	Count     int     `json:"count"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: epmdbench lookups|handovers|dials|register|carrier|listener|kill -port P ...")
		os.Exit(2)
	}
	var l load
	flags := flag.NewFlagSet("epmdbench", flag.ExitOnError)
	flags.IntVar(&l.port, "port", 4369, "EPMD's `port` on 127.0.0.1")
	flags.IntVar(&l.clients, "clients", 1, "`number` of clients at the same time")
	flags.IntVar(&l.count, "count", 1, "`number` of names to register")
	flags.IntVar(&l.pid, "pid", 0, "`pid` of the process to kill")
	flags.StringVar(&l.name, "name", "", "alive `name` of the node")
	flags.DurationVar(&l.duration, "duration", time.Second, "`duration` of the load")
	flags.BoolVar(&l.hold, "hold", false, "keep the registrations until stdin ends")
	flags.BoolVar(&l.handshake, "handshake", false, "continue with the distribution handshake")
	flags.StringVar(&l.program, "program", "priv/handover", "the carrier's `file`")
	_ = flags.Parse(os.Args[2:])
	if err := l.runCommand(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "epmdbench:", err)
		os.Exit(1)
	}
}

func (l load) runCommand(command string) error {
	runtime.GOMAXPROCS(l.clients + 2) // a client that waits in a system call occupies a thread
	switch command {
	case "lookups":
		return l.runClients(func(int, int) error { _, err := l.lookup(); return err })
	case "handovers":
		return l.runClients(l.requestHandover)
	case "dials":
		return l.runClients(l.lookUpAndDial)
	case "carrier":
		return l.runCarrier()
	case "listener":
		return l.runListener()
	case "register":
		return l.registerNames()
	case "kill":
		now := time.Now().UnixMicro()
		fmt.Println(now)
		return unix.Kill(l.pid, unix.SIGKILL)
	}
	return fmt.Errorf("unknown command %q", command)
}

// runClients calls request from all clients until the duration is over, and prints the result.
func (l load) runClients(request func(client, turn int) error) error {
	var wg sync.WaitGroup
	took := make([][]time.Duration, l.clients)
	errs := make([]error, l.clients)
	start := time.Now()
	end := start.Add(l.duration)
	timeout := time.AfterFunc(l.duration+answerTimeout, func() {
		fmt.Fprintf(os.Stderr, "epmdbench: no answer within %v\n", answerTimeout)
		os.Exit(1)
	})
	defer timeout.Stop()
	for i := range l.clients {
		wg.Go(func() {
			for begin := time.Now(); begin.Before(end); {
				if errs[i] = request(i, len(took[i])); errs[i] != nil {
					return
				}
				now := time.Now()
				took[i] = append(took[i], now.Sub(begin))
				begin = now
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return printResult(slices.Concat(took...), elapsed)
}

func printResult(took []time.Duration, elapsed time.Duration) error {
	if len(took) == 0 {
		return fmt.Errorf("no request was answered within %v", elapsed)
	}
	slices.Sort(took)
	quantile := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Nanoseconds()) / 1000 }
	return json.NewEncoder(os.Stdout).Encode(result{
		Count: len(took), PerSecond: float64(len(took)) / elapsed.Seconds(), P50: quantile(0.5), P99: quantile(0.99),
	})
}

// dial returns a blocking socket that is connected to the port. It sets no SO_RCVTIMEO, because reads would then fail at each
// signal of Go's scheduler; runClients has a deadline for the whole load.
func dial(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

// registerNames registers names one after another, each on a connection of its own, and prints the result.
func (l load) registerNames() error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	var took []time.Duration
	start := time.Now()
	for i := range l.count {
		begin := time.Now()
		fd, err := l.registerName(fmt.Sprintf("%sn%05d", l.name, i), 1)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
		took = append(took, time.Since(begin))
	}
	if err := printResult(took, time.Since(start)); err != nil || !l.hold {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// registerName registers one name and returns the connection, which the caller must close. The name is registered until then.
func (l load) registerName(name string, port uint16) (int, error) {
	request, err := epmdproto.Alive2Req{Port: port, NodeType: 77, Highest: 6, Lowest: 5, Name: name}.Append(nil)
	if err != nil {
		return -1, err
	}
	fd, err := dial(l.port)
	if err != nil {
		return -1, err
	}
	var answer [6]byte
	_, err = unix.Write(fd, request)
	if n, readErr := unix.Read(fd, answer[:]); err == nil && (readErr != nil || n != 6 || answer[1] != 0) {
		err = fmt.Errorf("register %s: % x: %w", name, answer[:max(n, 0)], errors.Join(readErr, io.ErrUnexpectedEOF))
	}
	return fd, err
}
