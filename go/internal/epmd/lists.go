package epmd

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"handover/go/internal/policy"
	"handover/go/internal/registry"
	"handover/go/internal/status"
)

// lists makes the answers to NAMES and DUMP, each once for a state of the registry:
// connections that ask for one share it, however slowly they read. It is safe for
// concurrent use.
type lists struct {
	names *registry.Registry
	port  uint32

	mu         sync.Mutex
	all, shown cachedList // NAMES: every node, and those that other hosts may see
	dump       cachedList
	policy     *policy.Policy // that shown was made for
}

// cachedList is an answer. Its bytes must not be changed.
type cachedList struct {
	changes uint64 // registry.Registry.Changes before it was made
	bytes   []byte
}

// header returns what every list begins with.
func (l *lists) header() []byte { return binary.BigEndian.AppendUint32(nil, l.port) }

// namesAnswer returns the answer to NAMES: "Port:32", then "name N at port P\n" for
// each node that p does not hide, the most recent first. If p is nil these are all.
func (l *lists) namesAnswer(p *policy.Policy) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p == nil {
		return l.updateLocked(&l.all, func() []byte { return l.makeNames(func(string) bool { return false }) })
	}
	if l.policy != p {
		l.shown, l.policy = cachedList{}, p
	}
	return l.updateLocked(&l.shown, func() []byte { return l.makeNames(p.Hides) })
}

// dumpAnswer returns the answer to DUMP: "Port:32", then a line for each registered
// node and each old one. Each line ends in a NUL, as the stock EPMD's do.
func (l *lists) dumpAnswer() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.updateLocked(&l.dump, l.makeDump)
}

// updateLocked returns the list's bytes, which it makes if the registry has changed.
// l.mu must be held.
func (l *lists) updateLocked(list *cachedList, make func() []byte) []byte {
	if changes := l.names.Changes(); list.bytes == nil || list.changes != changes {
		list.bytes, list.changes = make(), changes
	}
	return list.bytes
}

func (l *lists) makeNames(isHidden func(name string) bool) []byte {
	b := l.header()
	for _, n := range l.names.Live() {
		if !isHidden(n.Name) {
			b = fmt.Appendf(b, "name %s at port %d\n", n.Name, n.Port)
		}
	}
	return b
}

func (l *lists) makeDump() []byte {
	b := l.header()
	for _, n := range l.names.Live() {
		b = fmt.Appendf(b, "active name     <%s> at port %d, fd = %d\n\x00", n.Name, n.Port, n.FD)
	}
	for _, n := range l.names.Old() {
		b = fmt.Appendf(b, "old/unused name <%s>, port = %d, fd = %d \n\x00", n.Name, n.Port, n.FD)
	}
	return b
}

// statusAnswer is the answer to STATUS_REQ. Connections that ask while one answer is
// made share the next one: each waits for two at most, however many ask.
type statusAnswer struct {
	mu    sync.Mutex
	begun time.Time
	bytes []byte
}

// since returns an answer that was begun after asked.
func (a *statusAnswer) since(asked time.Time, get func() status.Status) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bytes != nil && a.begun.After(asked) {
		return a.bytes, nil
	}
	a.begun = time.Now()
	var err error
	a.bytes, err = json.Marshal(get())
	return a.bytes, err
}
