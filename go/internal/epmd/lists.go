package epmd

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"handover/go/internal/policy"
	"handover/go/internal/status"
)

// lists has the answers to NAMES and DUMP, each made once for a state of the
// registry: connections that ask for one share it, however slowly they read.
type lists struct {
	mu         sync.Mutex
	all, shown list // NAMES: every node, and those that the policy shows to other hosts
	dump       list
	by         *policy.Policy // shown is this one's

	status statusAnswer
}

// statusAnswer is the answer to STATUS_REQ. All who ask while one is made share the
// next: however many ask, nobody waits for more than two.
type statusAnswer struct {
	mu    sync.Mutex
	begun time.Time
	bytes []byte
}

// answerSince returns an answer that was begun after asked.
func (a *statusAnswer) answerSince(asked time.Time, get func() status.Status) ([]byte, error) {
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

// list is an answer; nobody changes its bytes.
type list struct {
	changes uint64 // registry.Registry.Changes before it was made
	bytes   []byte
}

// answer gives l as make makes it, and makes it where the registry has changed. It
// must be called with lists.mu held.
func (l *list) answer(s *Server, make func() []byte) []byte {
	if changes := s.names.Changes(); l.bytes == nil || l.changes != changes {
		l.bytes, l.changes = make(), changes
	}
	return l.bytes
}

// namesList is the answer to NAMES: "Port:32", then "name N at port P\n" a node,
// the most recent first; of all nodes, or of those that p does not hide.
func (s *Server) namesList(p *policy.Policy) []byte {
	s.lists.mu.Lock()
	defer s.lists.mu.Unlock()
	if p == nil {
		return s.lists.all.answer(s, func() []byte { return s.makeNames(func(string) bool { return true }) })
	}
	if s.lists.by != p {
		s.lists.shown, s.lists.by = list{}, p
	}
	return s.lists.shown.answer(s, func() []byte { return s.makeNames(func(name string) bool { return !p.Hides(name) }) })
}

// listPort begins every list.
func (s *Server) listPort() []byte { return binary.BigEndian.AppendUint32(nil, uint32(s.o.Port)) }

func (s *Server) makeNames(seen func(name string) bool) []byte {
	b := s.listPort()
	for _, n := range s.names.Live() {
		if seen(n.Name) {
			b = fmt.Appendf(b, "name %s at port %d\n", n.Name, n.Port)
		}
	}
	return b
}

// dumpList is the answer to DUMP: "Port:32", then a line a node that is there and
// a line a node that was. Each line ends in a NUL, as the stock EPMD's do.
func (s *Server) dumpList() []byte {
	s.lists.mu.Lock()
	defer s.lists.mu.Unlock()
	return s.lists.dump.answer(s, func() []byte {
		b := s.listPort()
		for _, n := range s.names.Live() {
			b = fmt.Appendf(b, "active name     <%s> at port %d, fd = %d\n\x00", n.Name, n.Port, n.FD)
		}
		for _, n := range s.names.Old() {
			b = fmt.Appendf(b, "old/unused name <%s>, port = %d, fd = %d \n\x00", n.Name, n.Port, n.FD)
		}
		return b
	})
}
