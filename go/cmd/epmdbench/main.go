// Command epmdbench loads an EPMD on this host's loopback and prints what it measured as one JSON object.
//
//	epmdbench lookups   -port P -name NAME -clients N -duration D   PORT_PLEASE2, a connection each, as OTP's nodes ask
//	epmdbench handovers -port P -name NAME -clients N -duration D   HANDOVER_REQ until HANDOVER_RESP, then a reset
//	epmdbench register  -port P -count N [-hold]                    ALIVE2 one after another; -hold: until stdin ends
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
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
)

type load struct {
	port, clients, count int
	name                 string
	duration             time.Duration
	hold                 bool
}

type result struct {
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: epmdbench lookups|handovers|register -port P ...")
		os.Exit(2)
	}
	var l load
	flags := flag.NewFlagSet("epmdbench", flag.ExitOnError)
	flags.IntVar(&l.port, "port", 4369, "EPMD's `port` on 127.0.0.1")
	flags.IntVar(&l.clients, "clients", 1, "at once")
	flags.IntVar(&l.count, "count", 1, "names to register")
	flags.StringVar(&l.name, "name", "", "alive name")
	flags.DurationVar(&l.duration, "duration", time.Second, "of the load")
	flags.BoolVar(&l.hold, "hold", false, "keep the registrations until stdin ends")
	_ = flags.Parse(os.Args[2:])
	if err := l.run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "epmdbench:", err)
		os.Exit(1)
	}
}

func (l load) run(what string) error {
	switch what {
	case "lookups":
		request := append([]byte{0, byte(len(l.name) + 1), 'z'}, l.name...)
		return l.many(func() error { return l.ask(request, isFound) })
	case "handovers":
		request, err := epmdproto.AppendHandoverReq(nil, l.name)
		if err != nil {
			return err
		}
		return l.many(func() error { return l.ask(request, isHandedOver) })
	case "register":
		return l.register()
	}
	return fmt.Errorf("no load %q", what)
}

// many runs one from all clients until the time is over.
func (l load) many(one func() error) error {
	var wg sync.WaitGroup
	took := make([][]time.Duration, l.clients)
	errs := make([]error, l.clients)
	start := time.Now()
	end := start.Add(l.duration)
	for i := range l.clients {
		wg.Go(func() {
			for begin := time.Now(); begin.Before(end); {
				if errs[i] = one(); errs[i] != nil {
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
	return print(slices.Concat(took...), elapsed)
}

func print(took []time.Duration, elapsed time.Duration) error {
	slices.Sort(took)
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Nanoseconds()) / 1000 }
	return json.NewEncoder(os.Stdout).Encode(result{
		PerSecond: float64(len(took)) / elapsed.Seconds(), P50: at(0.5), P99: at(0.99),
	})
}

func isFound(answer []byte) bool { return len(answer) > 2 && answer[0] == 'w' && answer[1] == 0 }

func isHandedOver(answer []byte) bool { return len(answer) >= 4 && answer[0] == 'i' && answer[1] == 0 }

// ask opens a connection, writes the request and reads the answer: of a lookup until EPMD closes, as OTP's nodes do.
func (l load) ask(request []byte, good func([]byte) bool) error {
	fd, err := l.dial()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, request); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	var buf [512]byte
	got := 0
	lookup := request[2] == 'z'
	for lookup || !good(buf[:got]) {
		n, err := unix.Read(fd, buf[got:])
		if n == 0 && lookup && good(buf[:got]) {
			return nil
		}
		if err != nil || n <= 0 {
			return fmt.Errorf("answer % x: %w", buf[:got], errors.Join(err, io.ErrUnexpectedEOF))
		}
		got += n
	}
	if !lookup { // a reset leaves no TIME_WAIT: the ports of one address are soon used up
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	return nil
}

func (l load) dial() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: l.port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
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
		fd, err := l.registerOne(fmt.Sprintf("%sn%05d", l.name, i))
		if err != nil {
			return err
		}
		fds = append(fds, fd)
		took = append(took, time.Since(begin))
	}
	if err := print(took, time.Since(start)); err != nil || !l.hold {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func (l load) registerOne(name string) (int, error) {
	request, err := epmdproto.Alive2Req{Port: 1, NodeType: 77, Highest: 6, Lowest: 5, Name: name}.Append(nil)
	if err != nil {
		return -1, err
	}
	fd, err := l.dial()
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
