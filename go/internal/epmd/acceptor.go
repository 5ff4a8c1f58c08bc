package epmd

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// batchSize is how many connections of one listener are accepted before it is the
// turn of the others.
const batchSize = 64

// acceptor accepts on all listeners. It waits in poll(2) and not in the runtime's
// poller, so that a lookup wakes one thread up and no more. It sets no option on a
// connection, as net.Listener would.
type acceptor struct {
	admit           func(fd int, peer netip.AddrPort) // must not wait; must close fd
	delay           time.Duration                     // Options.DelayAccept
	tasks           *tasks
	log             zerolog.Logger
	fds             []unix.PollFd // first the wake-up file, which ends the wait, then listeners
	wakeIn, wakeOut *os.File      // the two ends of the wake-up file
	backoff         time.Duration
	logged          time.Time
}

// newAcceptor closes the listeners, even if it fails; the acceptor has its own copies.
func newAcceptor(listeners []*net.TCPListener, o Options, t *tasks, admit func(int, netip.AddrPort)) (*acceptor, error) {
	a := &acceptor{admit: admit, delay: o.DelayAccept, tasks: t, log: o.Log, backoff: minBackoff}
	in, out, err := newWakeup()
	if err == nil {
		a.wakeIn, a.wakeOut = in, out
		a.watch(int(in.Fd()))
	}
	for _, l := range listeners {
		fd, dupErr := dupListener(l)
		if err = cmp.Or(err, dupErr); dupErr == nil {
			a.watch(fd)
			deferAccept(fd)
		}
		_ = l.Close()
	}
	if err != nil {
		a.close()
		return nil, fmt.Errorf("epmd: taking over the listeners: %w", err)
	}
	return a, nil
}

func dupListener(l *net.TCPListener) (fd int, err error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(listener uintptr) { fd, err = dupCloexec(int(listener)) })
	return fd, cmp.Or(controlErr, err)
}

func (a *acceptor) watch(fd int) {
	a.fds = append(a.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
}

// stop makes run return.
func (a *acceptor) stop() { _, _ = a.wakeOut.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// close must be called after run has returned.
func (a *acceptor) close() {
	if a.wakeIn != nil {
		_, _ = a.wakeIn.Close(), a.wakeOut.Close()
		a.fds = a.fds[1:]
	}
	for _, p := range a.fds {
		_ = unix.Close(int(p.Fd))
	}
}

// listenerCopies returns another descriptor of each listener. The caller must close
// them.
func (a *acceptor) listenerCopies() (fds []int) {
	for _, p := range a.fds[1:] {
		if fd, err := dupCloexec(int(p.Fd)); err == nil {
			fds = append(fds, fd)
		}
	}
	return fds
}

// run accepts until stop.
func (a *acceptor) run() {
	for {
		_, err := unix.Poll(a.fds, -1)
		if err != nil && err != unix.EINTR {
			a.backOff(err)
		}
		if a.fds[0].Revents != 0 {
			return
		}
		if a.delay > 0 {
			a.tasks.sleep(a.delay)
		}
		for _, p := range a.fds[1:] {
			if p.Revents == 0 {
				continue
			}
			if err := a.acceptBatch(int(p.Fd)); err != nil {
				a.backOff(err)
			}
		}
	}
}

// acceptBatch accepts until no connection waits any more, but at most batchSize.
func (a *acceptor) acceptBatch(listener int) error {
	for range batchSize {
		fd, peer, err := acceptNow(listener)
		switch err {
		case nil:
			a.backoff = minBackoff
			a.admit(fd, peer)
		case unix.EAGAIN:
			return nil
		case unix.EINTR, unix.ECONNABORTED, unix.EPROTO, unix.EPERM:
			// This connection is lost (or a firewall forbids it), the listener is not.
		default:
			return err
		}
		if a.delay > 0 {
			return nil
		}
	}
	return nil
}

// backOff waits after an error that may go away: no files, no memory.
func (a *acceptor) backOff(err error) {
	if time.Since(a.logged) > logEvery {
		a.logged = time.Now()
		a.log.Error().Err(err).Msg("accept failed; retrying (raise the limit of open files?)")
	}
	a.tasks.sleep(a.backoff)
	a.backoff = min(2*a.backoff, maxBackoff)
}
