package carrier

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"handover/go/internal/portproto"
)

const (
	// pipeGrace is how long to read stderr after the program has ended: the daemon may keep
	// it open.
	pipeGrace = 100 * time.Millisecond
	// maxStartOutput is how many bytes of EPMD's output go into the error.
	maxStartOutput = 512
	listenPause    = 10 * time.Millisecond
)

// startEPMD runs the program of hello as a daemon and waits until an EPMD listens on addr,
// which may also be one that another node has just started.
func (c *carrier) startEPMD(ctx context.Context, addr netip.AddrPort) error {
	ctx, release := context.WithTimeout(ctx, c.o.StartTimeout)
	defer release()
	c.log.Info().Str("program", c.hello.EPMD).Stringer("epmd", addr).Msg("starting EPMD")
	startErr := runDaemon(ctx, c.hello.EPMD, addr.Port())
	var last error
	for {
		conn, err := dialEPMD(ctx, addr)
		if err == nil {
			_ = conn.Close()
			return nil
		}
		if startErr != nil {
			return notStartedError(c.hello.EPMD, startErr)
		}
		if last == nil || !isTimeout(err) {
			last = err // a timeout would hide the reason
		}
		select {
		case <-time.After(listenPause):
		case <-ctx.Done():
			return notStartedError(c.hello.EPMD, last)
		}
	}
}

func runDaemon(ctx context.Context, program string, port uint16) error {
	output := &headBuffer{}
	cmd := exec.CommandContext(ctx, program, "-port", strconv.Itoa(int(port)), "-daemon")
	cmd.Stderr, cmd.WaitDelay = output, pipeGrace
	err := cmd.Run()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("it did not go to the background in time: %w", err)
	case len(output.b) > 0:
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(output.b)))
	}
	return err
}

// headBuffer keeps the first maxStartOutput bytes that are written to it.
type headBuffer struct{ b []byte }

func (h *headBuffer) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), maxStartOutput-len(h.b))]...)
	return len(p), nil
}

// notStartedError is the error if EPMD could not be started.
func notStartedError(program string, err error) error {
	return withReason(portproto.EPMDNotStarted, fmt.Errorf("carrier: nothing listened on EPMD's port, and starting %s failed: %w", program, err))
}
