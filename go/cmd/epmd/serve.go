package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/signal"
	"sync/atomic"

	"github.com/coreos/go-systemd/v22/activation"
	sddaemon "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"handover/go/internal/epmd"
	"handover/go/internal/listen"
)

// debugOld is how many old names -d remembers, as in the stock epmd.
const debugOld = 5

// serve listens and answers until a signal or KILL. It reports the result of listening
// to ready, if that is not nil.
func serve(o options, ready *os.File) error {
	listeners, err := openListeners(o)
	reportReady(ready, err)
	if err != nil {
		return err
	}
	opts := serverOptions(o, ready != nil)
	for _, l := range listeners {
		opts.Log.Debug().Stringer("on", l.Addr()).Msg("listening")
	}
	return serveUntilEnd(o, opts, ready != nil, func(s *epmd.Server) error { return s.Serve(listeners) })
}

// serveInherited is like serve, for a program that resumes after an upgrade.
func serveInherited(o options, pred *predecessor) error {
	daemon := pred.mode == "daemon"
	opts := serverOptions(o, daemon)
	opts.Log.Info().Int("nodes", len(pred.state.Nodes)).Msg("upgraded")
	return serveUntilEnd(o, opts, daemon, func(s *epmd.Server) error { return s.Resume(pred.state) })
}

// serveUntilEnd serves until the end of the server. After a failed upgrade it serves on
// with a new server.
func serveUntilEnd(o options, opts epmd.Options, daemon bool, serve func(*epmd.Server) error) error {
	for {
		server := epmd.New(opts)
		signals := handleSignals(server)
		notifySystemd(o, opts)
		stop := startServices(server, &o, opts.Log)
		err := serve(server)
		stop()
		state := server.TakeState()
		if state == nil || signals.ending.Load() {
			return err
		}
		err = execSuccessor(state, daemon)
		state.SetFailed(err)
		opts.Log.Error().Err(err).Msg("upgrade failed; going on as before")
		signals.stop()
		serve = func(s *epmd.Server) error { return s.Resume(state) }
	}
}

func notifySystemd(o options, opts epmd.Options) {
	if o.systemd {
		if _, err := sddaemon.SdNotify(false, sddaemon.SdNotifyReady+"\nSTATUS=Processing port mapping requests..."); err != nil {
			opts.Log.Warn().Err(err).Msg("cannot notify systemd")
		}
	}
}

func openListeners(o options) ([]*net.TCPListener, error) {
	if !o.systemd {
		return listen.Listen(o.addresses, o.port)
	}
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("cannot obtain sockets from systemd: %w", err)
	}
	if len(passed) == 0 {
		return nil, errors.New("systemd provides no sockets (start the .socket unit instead)")
	}
	var listeners []*net.TCPListener
	for i, l := range passed {
		tcp, ok := l.(*net.TCPListener)
		if !ok {
			return nil, fmt.Errorf("systemd's socket %d is not a listening TCP socket (use ListenStream= with a port)", i+1)
		}
		if err := checkListener(tcp, i+1); err != nil {
			return nil, err
		}
		listeners = append(listeners, tcp)
	}
	return listeners, nil
}

// checkListener returns an error for a socket that does not listen, and for an IPv6
// listener that accepts IPv4 connections too: nodes cannot adopt those.
func checkListener(l *net.TCPListener, number int) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	both, listens := false, false
	err = raw.Control(func(fd uintptr) {
		sa, err1 := unix.Getsockname(int(fd))
		_, is6 := sa.(*unix.SockaddrInet6)
		only, err2 := unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		accepts, err3 := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		listens = err3 == nil && accepts != 0
		both = err1 == nil && err2 == nil && is6 && only == 0
	})
	if err == nil && !listens {
		err = fmt.Errorf("systemd's socket %d, %v, does not listen: the .socket unit needs ListenStream= with a port, and Accept=no", number, l.Addr())
	}
	if err == nil && both {
		err = fmt.Errorf("systemd's socket %v takes IPv4 connections too: set BindIPv6Only=ipv6-only in the .socket unit, and ListenStream=0.0.0.0:PORT beside it", l.Addr())
	}
	return err
}

// maxFiles returns how many files may be open, or 0 if that is not known. Go has raised
// the soft limit to the hard limit at start.
func maxFiles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(uint64(limit.Cur), math.MaxInt32)) // signed on FreeBSD
}

func serverOptions(o options, daemon bool) epmd.Options {
	opts := epmd.Options{
		Port: int(o.port), RelaxedCommandCheck: o.relaxed, PacketTimeout: o.packetTimeout,
		DelayAccept: o.delayAccept, DelayWrite: o.delayWrite,
		Files: maxFiles(), Log: newLog(o.debug, daemon), Trial: runTrial,
	}
	if o.debug > 0 {
		opts.MaxOld = debugOld
	}
	return opts
}

// signals handles the signals for one server: SIGTERM and SIGINT end it, SIGUSR2 starts
// an upgrade.
type signals struct {
	ending atomic.Bool
	c      chan os.Signal
}

func handleSignals(s *epmd.Server) *signals {
	g := &signals{c: make(chan os.Signal, 4)}
	signal.Notify(g.c, unix.SIGTERM, unix.SIGINT, unix.SIGUSR2)
	go func() {
		for sig := range g.c {
			if sig == unix.SIGUSR2 {
				go func() { _ = s.Upgrade() }() // the log has the error
				continue
			}
			g.ending.Store(true)
			s.Close()
		}
	}()
	return g
}

func (g *signals) stop() {
	signal.Stop(g.c)
	close(g.c)
}
