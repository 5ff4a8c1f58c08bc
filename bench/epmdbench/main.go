// Command epmdbench loads an EPMD on this host's loopback and prints what it measured as one JSON object.
//
//	epmdbench lookups   -port P -name NAME -clients N -duration D   PORT_PLEASE2, a connection each, as OTP's nodes ask
//	epmdbench handovers -port P -name NAME -clients N -duration D   HANDOVER_REQ until HANDOVER_RESP, then a reset
//	epmdbench dials     -port P -name NAME -clients N -duration D   what stands for it in stock: PORT_PLEASE2, dial, reset
//	    -handshake: and in both the distribution handshake until the node's challenge
//	epmdbench register  -port P -count N [-hold]                    ALIVE2 one after another; -hold: until stdin ends
//	epmdbench carrier   -port P -name NAME -program FILE            a carrier and a BEAM that closes what it gets
//	epmdbench listener  -port P -name NAME                          a stock node that closes what it accepts
//	    both until stdin ends; a line on stdout says that they are ready
//	epmdbench kill      -pid N                                      SIGKILL; prints when, in Unix microseconds
//
// Clients are goroutines with plain blocking sockets, so that little of the processor goes to the load itself. Exit status 1
// when a single request failed. bench/run.sh calls it.
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

// patience is how long the last answers may take.
const patience = 15 * time.Second

type load struct {
	port, clients, count int
	pid                  int
	name, program        string
	duration             time.Duration
	hold, handshake      bool
}

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
	flags.IntVar(&l.clients, "clients", 1, "at once")
	flags.IntVar(&l.count, "count", 1, "names to register")
	flags.IntVar(&l.pid, "pid", 0, "the process to kill")
	flags.StringVar(&l.name, "name", "", "alive name")
	flags.DurationVar(&l.duration, "duration", time.Second, "of the load")
	flags.BoolVar(&l.hold, "hold", false, "keep the registrations until stdin ends")
	flags.BoolVar(&l.handshake, "handshake", false, "begin the distribution handshake too")
	flags.StringVar(&l.program, "program", "priv/handover", "the carrier's `file`")
	_ = flags.Parse(os.Args[2:])
	if err := l.run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "epmdbench:", err)
		os.Exit(1)
	}
}

func (l load) run(what string) error {
	runtime.GOMAXPROCS(l.clients + 2) // a client that waits in the kernel has a thread of its own, and nothing to schedule
	switch what {
	case "lookups":
		return l.many(func(int, int) error { _, err := l.lookup(); return err })
	case "handovers":
		return l.many(l.handover)
	case "dials":
		return l.many(l.lookUpAndDial)
	case "carrier":
		return l.carrier()
	case "listener":
		return l.listener()
	case "register":
		return l.register()
	case "kill":
		now := time.Now().UnixMicro()
		fmt.Println(now)
		return unix.Kill(l.pid, unix.SIGKILL)
	}
	return fmt.Errorf("no load %q", what)
}

// many runs one from all clients until the time is over.
func (l load) many(one func(client, turn int) error) error {
	var wg sync.WaitGroup
	took := make([][]time.Duration, l.clients)
	errs := make([]error, l.clients)
	start := time.Now()
	end := start.Add(l.duration)
	late := time.AfterFunc(l.duration+patience, func() {
		fmt.Fprintf(os.Stderr, "epmdbench: no answer within %v\n", patience)
		os.Exit(1)
	})
	defer late.Stop()
	for i := range l.clients {
		wg.Go(func() {
			for begin := time.Now(); begin.Before(end); {
				if errs[i] = one(i, len(took[i])); errs[i] != nil {
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
	return report(slices.Concat(took...), elapsed)
}

func report(took []time.Duration, elapsed time.Duration) error {
	if len(took) == 0 {
		return fmt.Errorf("no request came to its end within %v", elapsed)
	}
	slices.Sort(took)
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Nanoseconds()) / 1000 }
	return json.NewEncoder(os.Stdout).Encode(result{
		Count: len(took), PerSecond: float64(len(took)) / elapsed.Seconds(), P50: at(0.5), P99: at(0.99),
	})
}

// dial gives a blocking socket. SO_RCVTIMEO would make reads fail at each signal of Go's scheduler, so the deadline is the
// load's as a whole.
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

func (l load) register() error {
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
		fd, err := l.registerOne(fmt.Sprintf("%sn%05d", l.name, i), 1)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
		took = append(took, time.Since(begin))
	}
	if err := report(took, time.Since(start)); err != nil || !l.hold {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func (l load) registerOne(name string, port uint16) (int, error) {
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
