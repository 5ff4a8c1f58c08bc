// Package carrier is the port program of a node: it keeps the node registered
// with EPMD, takes the connections that EPMD hands over, dials EPMD for those
// that the node asks for, and gives the BEAM each one's fd. What goes through a
// connection afterwards it never sees.
//
//	EPMD                      carrier                     BEAM
//	  |<== heartbeat =========== registrar                  |
//	  |--- 'h' --------------->|  offers a Unix socket      |
//	  |=== channel: PASS + fd =>  vets, HANDOVER_RESP       |
//	  |<-- ACK ----------------|                            |
//	  |                        | fd socket: CONNECTION + fd ==>
//	  |<== HANDOVER_REQ ======== connect                    |
//	  |                        |<-- control: stdin, stdout -->
//
// One goroutine reads stdin and does what it is told, one writes stdout; one more
// each for the heartbeat, a channel, a request that has to wait. At rest nothing
// runs.
//
// Ownership of fds: whoever receives or dials one closes its own copy, whether it
// went on to the BEAM or not. Stdout is protocol and nothing else; what there is
// to say goes to the BEAM's logger as {log, ...}, before hello to stderr.
package carrier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"handover/go/internal/portproto"
)

// Options of [Run]. The zero value of a limit stands for its default.
type Options struct {
	// Program is the name and version that hello tells.
	Program string
	// HelloTimeout: how long the BEAM may take to connect the fd socket.
	// Default 5 s; then the carrier ends.
	HelloTimeout time.Duration
	// AcceptTimeout: how long EPMD may take to connect where it was told to.
	// Default 5 s.
	AcceptTimeout time.Duration
	// RegisterTimeout bounds one attempt to register. Default 5 s.
	RegisterTimeout time.Duration
	// StartTimeout bounds the start of EPMD. Default 5 s.
	StartTimeout time.Duration
	// SendTimeout: how long the BEAM may leave the fd socket full, and EPMD a
	// channel, before a connection is refused. Default 2 s.
	SendTimeout time.Duration
	// StopTimeout: how long stop waits for EPMD to see that the node has left.
	// Default 200 ms.
	StopTimeout time.Duration
	// MaxRequests under way. Default 1,024.
	MaxRequests int
	// MaxChannels open at once; a new one closes the oldest. Default 4.
	MaxChannels int
}

func (o Options) withDefaults() Options {
	setDefault(&o.HelloTimeout, 5*time.Second)
	setDefault(&o.AcceptTimeout, 5*time.Second)
	setDefault(&o.RegisterTimeout, 5*time.Second)
	setDefault(&o.StartTimeout, 5*time.Second)
	setDefault(&o.SendTimeout, 2*time.Second)
	setDefault(&o.StopTimeout, 200*time.Millisecond)
	setDefault(&o.MaxRequests, 1024)
	setDefault(&o.MaxChannels, 4)
	return o
}

func setDefault[T int | time.Duration](v *T, otherwise T) {
	if *v == 0 {
		*v = otherwise
	}
}

// Why a carrier ends in good order.
var (
	errStop = errors.New("the BEAM said stop")
	errEOF  = errors.New("the BEAM closed stdin")
)

// carrier is one run after its hello.
type carrier struct {
	o        Options
	hello    portproto.Hello
	log      zerolog.Logger
	out      *writer
	dir      *socketDir
	fds      *fdSocket
	requests requests
	channels channels
	ctx      context.Context // ends with the carrier; its cause says why
	end      context.CancelCauseFunc
	wg       sync.WaitGroup

	busy    sync.Mutex // held to do one message of the BEAM
	greeted bool       // guarded by busy

	mu         sync.Mutex
	registered bool // or about to be
}

// Run is the carrier of one BEAM, from hello to the end. It returns nil after
// stop and after the end of stdin; when ctx ends, its cause; and else what went
// wrong, which it has told the BEAM. It does not wait for a Read of stdin or a
// Write to stdout that blocks.
func Run(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, o Options) error {
	ctx, end := context.WithCancelCause(ctx)
	out := newWriter(ctx, stdout, end)
	c := &carrier{o: o.withDefaults(), log: zerolog.New(stderr).With().Timestamp().Logger(), out: out, ctx: ctx, end: end}
	go c.obey(stdin)
	<-ctx.Done()
	err := context.Cause(ctx)
	c.close(err)
	out.close()
	if errors.Is(err, errStop) || errors.Is(err, errEOF) {
		return nil
	}
	return err
}

// do is greet for the first message, then command.
func (c *carrier) do(b []byte) error {
	c.busy.Lock()
	defer c.busy.Unlock()
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	if c.greeted {
		return c.command(b)
	}
	err := c.greet(b)
	c.greeted = err == nil
	return err
}

// command does one message of the BEAM. The error ends the carrier.
func (c *carrier) command(b []byte) error {
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
		c.start(m.ID, c.o.RegisterTimeout+c.o.StartTimeout, func(ctx context.Context) error { return c.register(ctx, m) })
	case portproto.Connect:
		c.connect(m)
	case portproto.Cancel:
		c.requests.cancel(m.ID)
	case portproto.Stop:
		return errStop
	}
	return nil
}

// start runs a request in its own goroutine and answers it if it fails. It
// returns false where it could not, and has said so.
func (c *carrier) start(id uint64, timeout time.Duration, do func(context.Context) error) bool {
	ctx, done, err := c.requests.begin(c.ctx, id, timeout, c.o.MaxRequests)
	if err != nil {
		c.fail(id, err)
		return false
	}
	c.wg.Go(func() {
		err := do(ctx)
		done() // before the answer: then the BEAM may use the ID again
		if err != nil {
			c.fail(id, err)
		}
	})
	return true
}

func (c *carrier) fail(id uint64, err error) {
	c.out.send(portproto.Error{ID: id, Reason: reasonOf(err), Detail: err.Error()})
}

// close waits for every goroutine but those of stdin and stdout, and leaves no
// socket file. end has been called: everything they wait for gives way.
func (c *carrier) close(why error) {
	c.busy.Lock() // from now on no message is done
	defer c.busy.Unlock()
	if c.greeted && !errors.Is(why, errStop) && !errors.Is(why, errEOF) {
		c.log.Error().Err(why).Msg("the carrier ends")
	}
	c.wg.Wait()
	if c.fds != nil {
		c.fds.close()
	}
	if c.dir != nil {
		c.dir.close()
	}
}

// greet answers hello.
func (c *carrier) greet(b []byte) error {
	m, err := portproto.ParseCommand(b)
	hello, ok := m.(portproto.Hello)
	if err == nil && !ok {
		err = fmt.Errorf("the first message is %T instead of hello", m)
	}
	if err == nil {
		err = c.setUp(hello)
	}
	if err != nil {
		c.refuse(err)
		return err
	}
	c.out.send(portproto.HelloReply{FDPath: c.fds.path, Program: c.o.Program})
	if c.dir.note != "" {
		c.log.Warn().Str("dir", c.dir.path).Msg(c.dir.note)
	}
	return nil
}

func (c *carrier) refuse(err error) {
	reason := portproto.BadHello
	var version *portproto.VersionError
	if errors.As(err, &version) {
		reason = portproto.UnknownVersion
	}
	c.log.Error().Err(err).Msg("refusing the hello")
	c.out.send(portproto.Refused{Reason: reason, Detail: err.Error()})
}

// setUp makes what hello asks for.
func (c *carrier) setUp(hello portproto.Hello) error {
	dir, err := openSocketDir(hello.SocketDir)
	if err != nil {
		return err
	}
	c.hello, c.dir = hello, dir
	stderr := c.log
	c.log = newLogger(c.out, hello.LogLevel)
	if c.fds, err = c.listenFD(); err != nil {
		c.log = stderr // the first message is to be Refused
	}
	return err
}
