package registry

import "handover/go/internal/epmdproto"

// Record is what a successor needs of a name. Count is the creation as the registry
// counts it; Node.Creation differs for old distribution versions.
type Record struct {
	epmdproto.Alive2Req
	Count uint32
}

// Record returns n as a Record, see [Registry.Restore].
func (n *Node) Record() Record { return Record{Alive2Req: n.Alive2Req, Count: n.creation} }

// Restore registers n as the most recent node, with the count of its Record in another
// registry. The error wraps ErrTaken.
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

// RestoreOld remembers an unregistered name as the most recent one. The error wraps
// ErrTaken.
func (r *Registry) RestoreOld(record Record, fd int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byName[record.Name] != nil {
		return takenError(record.Name)
	}
	r.addOldLocked(&Node{Alive2Req: record.Alive2Req, FD: fd, creation: record.Count})
	return nil
}
