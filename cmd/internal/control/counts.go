package control

import (
	"context"
	"net/http"
	"net/netip"
	"time"
)

// Counts are what the datapath of one node has counted since its maps were
// made, and how full they are.
type Counts struct {
	Services []ServiceCount `json:"services"`
	Backends []BackendCount `json:"backends"`
	Tables   []TableFill    `json:"tables"`
	// Counted is when Flows and Tables were counted last; zero: not yet.
	Counted time.Time `json:"counted,omitzero"`
}

// ServiceCount is what was sent to one port of a Service by this node.
type ServiceCount struct {
	Service  string `json:"service"`
	Port     string `json:"port,omitempty"` // its name
	Protocol string `json:"protocol"`
	Packets  uint64 `json:"packets"`
	Bytes    uint64 `json:"bytes"`
	// Flows to pods of this node, or translated by it, that are not over.
	Flows uint64 `json:"flows"`
}

// BackendCount is what was sent to one backend by this node.
type BackendCount struct {
	Addr    netip.AddrPort `json:"addr"`
	Packets uint64         `json:"packets"`
	Bytes   uint64         `json:"bytes"`
	Flows   uint64         `json:"flows"` // as of a ServiceCount
}

// TableFill is how full a bounded table is. The tables of IPv6 end in 6.
type TableFill struct {
	Name    string `json:"name"`
	Entries uint64 `json:"entries"`
	Max     uint64 `json:"max"`
}

// Balanced is the sum of a node's Counts.
type Balanced struct {
	// Services is how many service ports there are.
	Services int         `json:"services"`
	Backends int         `json:"backends"`
	Packets  uint64      `json:"packets"`
	Bytes    uint64      `json:"bytes"`
	Flows    uint64      `json:"flows"`
	Tables   []TableFill `json:"tables,omitempty"`
}

func (c Counts) sum() *Balanced {
	b := &Balanced{Services: len(c.Services), Backends: len(c.Backends), Tables: c.Tables}
	for _, s := range c.Services {
		b.Packets += s.Packets
		b.Bytes += s.Bytes
		b.Flows += s.Flows
	}
	return b
}

// Counts asks for the datapath's counters.
func (c *Client) Counts(ctx context.Context) (counts Counts, err error) {
	err = c.call(ctx, http.MethodGet, "counts", nil, nil, &counts)
	return counts, err
}

func (s *Server) counts(*http.Request) (any, error) {
	if s.Counts == nil {
		return nil, ErrNoDatapath
	}
	return s.Counts()
}
