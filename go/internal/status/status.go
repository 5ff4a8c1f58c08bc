// Package status is EPMD's answer to STATUS_REQ (docs/PROTOCOL.md): its numbers and
// their names, the request, and the answer as text. The metrics have the same numbers.
package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"handover/go/internal/epmdproto"
)

// Status is the answer, as JSON. Counters start at 0 with the process.
type Status struct {
	PID     int     `json:"pid"`
	Port    int     `json:"port"`
	Seconds float64 `json:"up_seconds"`
	// Policy reports whether a policy applies to requests of other hosts.
	Policy bool `json:"policy"`

	Nodes    []Node `json:"nodes"` // the most recent first
	OldNames int    `json:"old_names"`

	Connections Connections `json:"connections"`
	Channels    Channels    `json:"channels"`
	// Requests counts by type, then by result.
	Requests map[string]map[string]uint64 `json:"requests"`
	// Handovers counts by result.
	Handovers map[string]uint64 `json:"handovers"`
	// HandoverSeconds has the successful handovers, from the request to the ACK.
	HandoverSeconds Histogram `json:"handover_seconds"`
	// Refusals counts by reason.
	Refusals map[string]uint64 `json:"refusals"`
}

// Node is a registered node.
type Node struct {
	Name     string `json:"name"`
	Port     uint16 `json:"port"`
	Creation uint32 `json:"creation"`
	Handover bool   `json:"handover"` // takes handovers
	// Channel is "open", "opening", or "none": not opened yet, or broken.
	Channel string `json:"channel"`
	// Unread is how many connections the node may not have read yet.
	Unread int `json:"unread"`
	// Queued is how many initiators wait for a slot.
	Queued int `json:"queued"`
}

// Connections counts client connections without heartbeats. Accepted includes heartbeats.
type Connections struct {
	Open     int64  `json:"open"`
	Waiting  int    `json:"waiting"` // have not sent their request yet
	Accepted uint64 `json:"accepted"`
	// Silent counts those that ended before their request was complete, or with a request of
	// invalid length.
	Silent uint64 `json:"silent"`
}

// Channels counts the channels to nodes that take handovers, by state.
type Channels struct {
	Open    int `json:"open"`
	Opening int `json:"opening"`
	None    int `json:"none"`
	// Passing is how many passes wait for their ACK, Queued how many handovers wait for a
	// slot.
	Passing int `json:"passing"`
	Queued  int `json:"queued"`
}

// Histogram has Counts[i] observations of at most Bounds[i] and more than the previous
// bound. The last of Counts, which has no bound, has those beyond.
type Histogram struct {
	Bounds []float64 `json:"bounds"`
	Counts []uint64  `json:"counts"`
	Sum    float64   `json:"sum"`
}

// Count returns the number of observations.
func (h Histogram) Count() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Timeout bounds a request to the EPMD of this host.
const Timeout = 10 * time.Second

// maxAnswer bounds the answer, in bytes. A node takes some 200 bytes.
const maxAnswer = 256 << 20

// ErrStock: the listener closed without a byte, as an EPMD without status does.
var ErrStock = errors.New("the running epmd has no status (it is a stock or an older one)")

// Ask sends STATUS_REQ to the EPMD of this host and returns its answer unchanged.
func Ask(port uint16) (answer []byte, err error) {
	var c net.Conn
	for _, host := range []string{"127.0.0.1", "::1"} {
		if c, err = net.DialTimeout("tcp", net.JoinHostPort(host, strconv.Itoa(int(port))), Timeout); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the local epmd: %w", err)
	}
	defer c.Close()
	if err = c.SetDeadline(time.Now().Add(Timeout)); err == nil {
		_, err = c.Write(epmdproto.AppendRequest(nil, epmdproto.OpStatus, ""))
	}
	if err == nil {
		answer, err = io.ReadAll(io.LimitReader(c, maxAnswer))
	}
	if err == nil && len(answer) == 0 {
		err = ErrStock
	}
	return answer, err
}

// Parse reads an answer. It ignores unknown fields, which a newer EPMD may send.
func Parse(answer []byte) (Status, error) {
	var s Status
	if err := json.Unmarshal(answer, &s); err != nil {
		return Status{}, fmt.Errorf("the answer to STATUS_REQ: %w", err)
	}
	return s, nil
}

// Run is `epmd -status` and `handover status`. It asks and prints the answer as text or,
// with asJSON, as JSON. The output is [Printable].
func Run(stdout io.Writer, port uint16, asJSON bool) error {
	answer, err := Ask(port)
	if err != nil {
		return err
	}
	s, err := Parse(answer)
	if err != nil {
		return err
	}
	if asJSON {
		_, err = fmt.Fprintf(stdout, "%s\n", Printable(string(answer)))
		return err
	}
	_, err = io.WriteString(stdout, Printable(s.Text()))
	return err
}
