package policy

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// MaxSources is how many sources a rate limit remembers. One more replaces the source
// that has not asked for the longest time, whose count then starts again.
const MaxSources = 4096

// limiter has a token bucket for each source. golang.org/x/time/rate has the bucket but
// not the bounded table, which is most of the work.
type limiter struct {
	perSecond, burst float64

	mu       sync.Mutex
	bySource map[netip.Prefix]*list.Element
	recent   list.List // of *bucket; the source that asked last is at the front
}

type bucket struct {
	source netip.Prefix
	tokens float64
	at     time.Time // when tokens was updated
}

func newLimiter(perSecond float64, burst int) *limiter {
	return &limiter{perSecond: perSecond, burst: float64(burst), bySource: make(map[netip.Prefix]*list.Element)}
}

// allow reports whether the source may ask now, and counts the request if so.
func (l *limiter) allow(source netip.Prefix, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucketLocked(source, now)
	if passed := now.Sub(b.at).Seconds(); passed > 0 {
		b.tokens = min(l.burst, b.tokens+passed*l.perSecond)
		b.at = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// bucketLocked returns the source's bucket, perhaps a new one. l.mu must be held.
func (l *limiter) bucketLocked(source netip.Prefix, now time.Time) *bucket {
	if e := l.bySource[source]; e != nil {
		l.recent.MoveToFront(e)
		return e.Value.(*bucket)
	}
	if l.recent.Len() >= MaxSources {
		oldest := l.recent.Back()
		delete(l.bySource, oldest.Value.(*bucket).source)
		l.recent.Remove(oldest)
	}
	b := &bucket{source: source, tokens: l.burst, at: now}
	l.bySource[source] = l.recent.PushFront(b)
	return b
}
