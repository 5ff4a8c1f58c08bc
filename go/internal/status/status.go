// Package status is what an EPMD says of itself: the numbers and their names, the
// question for them, and how a person reads them. It is EPMD's answer to
// STATUS_REQ (docs/PROTOCOL.md) and what its metrics are made of.
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

// Status is the answer, as JSON. Numbers count from the start of the process.
type Status struct {
	PID     int     `json:"pid"`
	Port    int     `json:"port"`
	Seconds float64 `json:"up_seconds"`
	// Policy says whether requests of other hosts are checked by one.
	Policy bool `json:"policy"`

	Nodes    []Node `json:"nodes"` // the most recent first
	OldNames int    `json:"old_names"`

	Connections Connections `json:"connections"`
	Channels    Channels    `json:"channels"`
	// Requests by type, then by result.
	Requests map[string]map[string]uint64 `json:"requests"`
	// Handovers by result.
	Handovers map[string]uint64 `json:"handovers"`
	// HandoverSeconds is of those that came to be, from the request to the ACK.
	HandoverSeconds Histogram `json:"handover_seconds"`
	// Refusals by reason.
	Refusals map[string]uint64 `json:"refusals"`
}

// Node is one that is registered.
type Node struct {
	Name     string `json:"name"`
	Port     uint16 `json:"port"`
	Creation uint32 `json:"creation"`
	Handover bool   `json:"handover"` // takes handovers
	// Channel is "open", "opening", or "none": not asked for yet, or lost.
	Channel string `json:"channel"`
	// Unread is how many connections the node may not have read yet.
	Unread int `json:"unread"`
	// Queued is how many initiators wait for room.
	Queued int `json:"queued"`
}

// Connections are those of no node. Accepted ones count nodes' too.
type Connections struct {
	Open     int64  `json:"open"`
	Waiting  int    `json:"waiting"` // have not asked yet
	Accepted uint64 `json:"accepted"`
	// Silent ended without a whole request.
	Silent uint64 `json:"silent"`
}

// Channels are the ways to nodes that take handovers, by state.
type Channels struct {
	Open    int `json:"open"`
	Opening int `json:"opening"`
	None    int `json:"none"`
	// Passing is how many connections are on their way, Queued how many wait.
	Passing int `json:"passing"`
	Queued  int `json:"queued"`
}

// Histogram has Counts[i] observations of at most Bounds[i] and more than the
// bound before; the last of Counts, which has no bound, those beyond.
type Histogram struct {
	Bounds []float64 `json:"bounds"`
	Counts []uint64  `json:"counts"`
	Sum    float64   `json:"sum"`
}

// Count is how many observations there are.
func (h Histogram) Count() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Timeout bounds a question to the EPMD of this host.
const Timeout = 10 * time.Second

// maxAnswer bounds the answer: some 200 bytes a node.
const maxAnswer = 256 << 20

// ErrStock: what listens closed without a byte, as an EPMD does that has no status.
var ErrStock = errors.New("the epmd that runs has no status to tell (a stock one, or an older one)")

// Ask asks the EPMD of this host and returns its answer as it is.
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

// Parse reads an answer. Unknown fields are a newer EPMD's, and left out.
func Parse(answer []byte) (Status, error) {
	var s Status
	if err := json.Unmarshal(answer, &s); err != nil {
		return Status{}, fmt.Errorf("the answer to STATUS_REQ: %w", err)
	}
	return s, nil
}

// Run is `epmd -status` and `handover status`: it asks, and prints for a person or,
// with asJSON, for a script. What is printed is [Printable].
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
