// Package carrier is the port program of a node. It keeps the node registered with
// EPMD, takes the connections that EPMD passes, dials EPMD for the connections that the
// node asks for, and passes the descriptor of each connection to the BEAM. It never sees
// the data of a connection.
//
//	EPMD                      carrier                     BEAM
//	  |<== heartbeat =========== registrar                  |
//	  |--- 'h' --------------->|  opens a Unix socket       |
//	  |=== channel: PASS + fd =>  vets, HANDOVER_RESP       |
//	  |<-- ACK ----------------|                            |
//	  |                        | fd socket: CONNECTION + fd ==>
//	  |<== HANDOVER_REQ ======== connect                    |
//	  |                        |<-- control: stdin, stdout -->
//
// The words for a connection on its way in: EPMD passes it (PASS with the descriptor)
// over a channel. The carrier accepts it (HANDOVER_RESP OK to the initiator, then the
// ACK to EPMD), or refuses it. An accepted connection is handed over. The carrier then
// delivers it (CONNECTION with the descriptor) to the BEAM over the fd socket; until
// that, it may be queued. Towards the BEAM, portproto.Accepted and portproto.Connected
// distinguish the connections that other nodes opened from those that this node opened.
//
// One goroutine reads stdin and handles the messages, and one writes stdout. The
// heartbeat, each channel and each request that has to wait have a goroutine of their
// own. An idle carrier has no timers and polls nothing.
//
// Ownership of descriptors: the function that receives or dials a connection closes its
// descriptor, or gives it to links, which keeps it until the BEAM has closed its own.
//
// Stdout carries the protocol and nothing else. Log lines go to the BEAM's logger as
// {log, ...}, and to stderr before the hello.
package carrier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"handover/go/internal/peercred"
	"handover/go/internal/portproto"
)

// Options of [Run]. The zero value of a limit means its default.
type Options struct {
	// Program is the name and version for the answer to hello.
	Program string
	// FDConnectTimeout is how long the BEAM may take, after its hello, to connect to the
	// fd socket. Then the carrier ends. Default 5 s.
	FDConnectTimeout time.Duration
	// AcceptTimeout is how long EPMD may take to connect to a channel socket. Default 5 s.
	AcceptTimeout time.Duration
	// RegisterTimeout bounds one attempt to register. Default 5 s.
	RegisterTimeout time.Duration
	// StartTimeout bounds the start of EPMD. Default 5 s.
	StartTimeout time.Duration
	// SendTimeout is how long a send may wait. If the fd socket stays full for that long,
	// the connect fails; if a channel does (EPMD does not read the ACKs), the channel is
	// closed. Default 2 s.
	SendTimeout time.Duration
	// StopTimeout is how long stop waits for EPMD to unregister the node. Default 200 ms.
	StopTimeout time.Duration
	// MaxRequests is how many requests may be under way. Default 1,024.
	MaxRequests int
	// MaxChannels is how many channels may be open; a new one closes the oldest. Default 4.
	MaxChannels int
	// MaxQueued is how many handed-over connections may wait for their delivery to the
	// BEAM; more are refused as overloaded. Default 1,024, or a quarter of the limit of
	// open files if that is less.
	MaxQueued int
	// MaxLinks limits the copies that the carrier keeps of the BEAM's connections. It
	// shuts these down when the BEAM ends. The far end of a connection without a copy
	// notices the end only when the kernel has freed the BEAM's memory. Default half of
	// the limit of open files.
	MaxLinks int

	available func() error // peercred.Available, except in tests
}

func (o Options) withDefaults() Options {
	o.FDConnectTimeout = cmp.Or(o.FDConnectTimeout, 5*time.Second)
	o.AcceptTimeout = cmp.Or(o.AcceptTimeout, 5*time.Second)
	o.RegisterTimeout = cmp.Or(o.RegisterTimeout, 5*time.Second)
	o.StartTimeout = cmp.Or(o.StartTimeout, 5*time.Second)
	o.SendTimeout = cmp.Or(o.SendTimeout, 2*time.Second)
	o.StopTimeout = cmp.Or(o.StopTimeout, 200*time.Millisecond)
	o.MaxRequests = cmp.Or(o.MaxRequests, 1024)
	o.MaxChannels = cmp.Or(o.MaxChannels, 4)
	o.MaxQueued = cmp.Or(o.MaxQueued, min(1024, maxFiles()/4))
	o.MaxLinks = cmp.Or(o.MaxLinks, maxFiles()/2)
	if o.available == nil {
		o.available = peercred.Available
	}
	return o
}

// maxFiles returns how many files this process may have open.
func maxFiles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(uint64(limit.Cur), 1<<20)) // signed on FreeBSD
}

// The normal ends of a carrier.
var (
	errStop = errors.New("the BEAM said stop")
	errEOF  = errors.New("the BEAM closed stdin")
)

// carrier is the state of one [Run].
type carrier struct {
	o        Options
	hello    portproto.Hello
	log      zerolog.Logger
	out      *eventWriter
	fds      *fdSocket
	requests requests
	channels channels
	links    links
	lifeline lifeline
	ctx      context.Context // ends with the carrier; its cause is the reason
	end      context.CancelCauseFunc
	wg       sync.WaitGroup

	handleMu sync.Mutex // held while a message of the BEAM is handled
	greeted  bool       // the hello was accepted; guarded by handleMu

	mu         sync.Mutex
	registered bool // the node is registered, or an attempt is under way; guarded by mu
}

// Run serves one BEAM, from hello to the end. It returns nil after stop and after the
// end of stdin, the cause of ctx when ctx ends, and any other error after it has logged
// it. It does not wait for a Read of stdin or a Write to stdout that blocks.
func Run(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, o Options) error {
	ctx, end := context.WithCancelCause(ctx)
	out := newEventWriter(ctx, stdout, end)
	c := &carrier{o: o.withDefaults(), log: zerolog.New(stderr).With().Timestamp().Logger(), out: out, ctx: ctx, end: end}
	c.links.max = c.o.MaxLinks
	go c.readCommands(stdin)
	<-ctx.Done()
	c.endLinks()
	err := context.Cause(ctx)
	c.waitAndClose(err)
	out.flush()
	if errors.Is(err, errStop) || errors.Is(err, errEOF) {
		return nil
	}
	return err
}

// handleMessage handles one message, the first one as hello. The error ends the carrier.
func (c *carrier) handleMessage(b []byte) error {
	c.handleMu.Lock()
	defer c.handleMu.Unlock()
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	if c.greeted {
		return c.handleCommand(b)
	}
	err := c.handleHello(b)
	c.greeted = err == nil
	return err
}

// handleCommand handles one message after the hello. The error ends the carrier.
func (c *carrier) handleCommand(b []byte) error {
	m, err := portproto.ParseCommand(b)
	var bad *portproto.RequestError
	switch {
	case errors.As(err, &bad):
		c.out.send(portproto.Error{ID: bad.ID, Reason: portproto.BadRequest, Detail: bad.Error()})
		return nil
	case err != nil:
		c.log.Error().Err(err).Msg("bad message from the BEAM")
		return nil
	}
	switch m := m.(type) {
	case portproto.Hello:
		c.log.Error().Msg("a second hello from the BEAM")
	case portproto.Register:
		c.startRequest(m.ID, c.o.RegisterTimeout+c.o.StartTimeout, func(ctx context.Context) error { return c.handleRegister(ctx, m) })
	case portproto.Connect:
		c.handleConnect(m)
	case portproto.Cancel:
		c.requests.cancel(m.ID)
	case portproto.Closed:
		c.links.closeCopy(link{m.Kind, m.ID})
	case portproto.Stop:
		return errStop
	}
	return nil
}

// startRequest runs a request in a goroutine of its own, and sends the error if the
// request fails. It returns false, and has sent the error, if it cannot start it.
func (c *carrier) startRequest(id uint64, timeout time.Duration, do func(context.Context) error) bool {
	ctx, done, err := c.requests.begin(c.ctx, id, timeout, c.o.MaxRequests)
	if err != nil {
		c.sendError(id, err)
		return false
	}
	c.wg.Go(func() {
		err := do(ctx)
		done() // before the answer: then the BEAM may use the ID again
		if err != nil {
			c.sendError(id, err)
		}
	})
	return true
}

func (c *carrier) sendError(id uint64, err error) {
	c.out.send(portproto.Error{ID: id, Reason: reasonOf(err), Detail: err.Error()})
}

// waitAndClose waits for all goroutines except those of stdin and stdout, and closes what
// the carrier has open. c.ctx must have ended, which ends all waits of the goroutines.
func (c *carrier) waitAndClose(cause error) {
	c.handleMu.Lock() // no message is handled from now on
	defer c.handleMu.Unlock()
	if c.greeted && !errors.Is(cause, errStop) && !errors.Is(cause, errEOF) {
		c.log.Error().Err(cause).Msg("the carrier ends")
	}
	if c.fds != nil {
		c.fds.closeWhenReady()
	}
	c.wg.Wait()
	c.links.closeAll()
	c.links.beam.close()
	c.lifeline.setConn(nil)
}

// handleHello handles the first message and answers it. The error ends the carrier.
func (c *carrier) handleHello(b []byte) error {
	m, err := portproto.ParseCommand(b)
	hello, ok := m.(portproto.Hello)
	if err == nil && !ok {
		err = fmt.Errorf("the first message is %T instead of hello", m)
	}
	if err == nil {
		err = c.applyHello(hello)
	}
	if err != nil {
		c.refuseHello(err)
		return err
	}
	c.out.send(portproto.HelloReply{FDSocket: c.fds.name, Program: c.o.Program})
	return nil
}

func (c *carrier) refuseHello(err error) {
	reason := portproto.BadHello
	var version *portproto.VersionError
	if errors.As(err, &version) {
		reason = portproto.UnknownVersion
	}
	c.log.Error().Err(err).Msg("refusing the hello")
	c.out.send(portproto.Refused{Reason: reason, Detail: err.Error()})
}

// applyHello opens the sockets for the BEAM.
func (c *carrier) applyHello(hello portproto.Hello) (err error) {
	c.hello = hello
	c.links.beam = findProcess(hello.OSPid)
	stderrLog := c.log
	c.log = newLogger(c.out, hello.LogLevel)
	if c.fds, err = c.listenFDSocket(); err == nil {
		err = c.listenLifeline(c.fds.name)
	}
	if err != nil {
		// The first message to the BEAM must be Refused. A {log, ...} must not precede it.
		c.log = stderrLog
	}
	return err
}
