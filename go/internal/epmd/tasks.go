package epmd

import (
	"sync"
	"time"
)

// tasks are the goroutines of a server.
type tasks struct {
	sync.WaitGroup
	end chan struct{} // closed when the server is to end
}

// sleep waits for d. It returns false if the server ended before that.
func (t *tasks) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.end:
		return false
	}
}
