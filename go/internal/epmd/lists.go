package epmd

import (
	"encoding/binary"
	"fmt"
)

// namesList is the answer to NAMES: "Port:32", then "name N at port P\n" a node,
// the most recent first, of those that the asker may see.
func (s *Server) namesList(seen func(name string) bool) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(s.o.Port))
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
	b := binary.BigEndian.AppendUint32(nil, uint32(s.o.Port))
	for _, n := range s.names.Live() {
		b = fmt.Appendf(b, "active name     <%s> at port %d, fd = %d\n\x00", n.Name, n.Port, n.FD)
	}
	for _, n := range s.names.Old() {
		b = fmt.Appendf(b, "old/unused name <%s>, port = %d, fd = %d \n\x00", n.Name, n.Port, n.FD)
	}
	return b
}
