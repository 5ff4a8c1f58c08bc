package registry

import "handover/go/internal/epmdproto"

// Record is a name with its creation as the registry counts it (a Node of an old
// distribution version shows another one): what a successor needs to go on.
type Record struct {
	epmdproto.Alive2Req
	Count uint32
}

// Record returns what [Registry.Restore] takes.
func (n *Node) Record() Record { return Record{Alive2Req: n.Alive2Req, Count: n.creation} }

// Restore registers n with the creation that it had in another registry, as the
// most recent one. The error wraps ErrTaken.
func (r *Registry) Restore(n *Node, count uint32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byName[n.Name] != nil {
		return takenError(n.Name)
	}
	n.creation = count
	r.addLiveLocked(n)
	return nil
}

// RestoreOld remembers a name that was given up, as the most recent one. The
// error wraps ErrTaken.
func (r *Registry) RestoreOld(record Record, fd int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byName[record.Name] != nil {
		return takenError(record.Name)
	}
	r.addOldLocked(&Node{Alive2Req: record.Alive2Req, FD: fd, creation: record.Count})
	return nil
}
