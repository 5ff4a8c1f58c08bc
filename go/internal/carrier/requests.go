package carrier

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"handover/go/internal/portproto"
)

// requests are the requests under way, by the BEAM's ID.
type requests struct {
	mu    sync.Mutex
	stops map[uint64]context.CancelCauseFunc
}

// begin adds a request. After a nil error the caller must call done when the request has
// ended.
func (r *requests) begin(parent context.Context, id uint64, timeout time.Duration, max int) (ctx context.Context, done func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stops == nil {
		r.stops = make(map[uint64]context.CancelCauseFunc)
	}
	if _, taken := r.stops[id]; taken {
		return nil, nil, withReason(portproto.BadRequest, fmt.Errorf("carrier: request %d is under way already", id))
	}
	if len(r.stops) >= max {
		return nil, nil, withReason(portproto.Overloaded, fmt.Errorf("carrier: %d requests under way", max))
	}
	ctx, stop := context.WithCancelCause(parent)
	ctx, release := context.WithTimeout(ctx, timeout)
	r.stops[id] = stop
	return ctx, func() {
		release()
		stop(nil)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.stops, id)
	}, nil
}

var errCancelled = errors.New("carrier: cancelled")

// cancel ends the request if it is under way.
func (r *requests) cancel(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if stop := r.stops[id]; stop != nil {
		stop(errCancelled)
	}
}
