package control

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"

	"github.com/seamark-lb/seamark/state"
)

// The tables of the datapath that can be listed, and the types of their rows.
const (
	TableFlows     = "flows"     // Flow
	TableNAT       = "nat"       // NATFlow
	TablePins      = "pins"      // Pin
	TableAffinity  = "affinity"  // Affinity
	TableSources   = "sources"   // SourceRange
	TableFragments = "fragments" // Fragment
	TableMaglev    = "maglev"    // MaglevTable
)

// ListQuery says which rows of a table are listed.
type ListQuery struct {
	// Service whose rows are meant; zero: all.
	Service state.ObjectName
	// Limit is how many rows are listed, the first in the order of their
	// addresses. 0: all of them, in the kernel's order.
	Limit int
}

// Flow is a flow to a pod of this node, as its connection tracking knows it.
type Flow struct {
	Client   netip.AddrPort `json:"client"`
	Frontend netip.AddrPort `json:"frontend"`
	Pod      netip.AddrPort `json:"pod"`
	Protocol string         `json:"protocol"`
	// State: "half-open" until both sides have spoken, then "established", and
	// "closing" after the first FIN or RST.
	State   string `json:"state"`
	Idle    uint32 `json:"idleSeconds"`
	Service string `json:"service,omitempty"`
}

// NATFlow is a flow that this node translates to another node's backend.
type NATFlow struct {
	Client   netip.AddrPort `json:"client"`
	Frontend netip.AddrPort `json:"frontend"`
	// Source is what the backend sees as its client.
	Source   netip.AddrPort `json:"source"`
	Backend  netip.AddrPort `json:"backend"`
	Protocol string         `json:"protocol"`
	State    string         `json:"state"` // as of a Flow
	// Inside: the client is a pod of this node.
	Inside  bool   `json:"inside,omitempty"`
	Idle    uint32 `json:"idleSeconds"`
	Service string `json:"service,omitempty"`
}

// Pin is the backend of one flow whose slot does not say it.
type Pin struct {
	Client   netip.AddrPort `json:"client"`
	Frontend netip.AddrPort `json:"frontend"`
	Backend  netip.AddrPort `json:"backend"`
	Protocol string         `json:"protocol"`
	State    string         `json:"state"` // "established" or "closing"
	Idle     uint32         `json:"idleSeconds"`
	Service  string         `json:"service,omitempty"`
}

// Affinity is the backend that a client had last.
type Affinity struct {
	Client  netip.Addr     `json:"client"`
	Backend netip.AddrPort `json:"backend"`
	Idle    uint32         `json:"idleSeconds"`
	Service string         `json:"service,omitempty"`
}

// SourceRange is a prefix of clients that a service port is open to.
type SourceRange struct {
	Prefix  netip.Prefix `json:"prefix"`
	Service string       `json:"service,omitempty"`
}

// Fragment is a packet that came in fragments, the first of which is known.
type Fragment struct {
	Source   netip.AddrPort `json:"source"`
	Dest     netip.AddrPort `json:"destination"`
	ID       uint32         `json:"id"`
	Protocol string         `json:"protocol"`
	Idle     uint32         `json:"idleSeconds"`
	Service  string         `json:"service,omitempty"`
}

// MaglevTable is the table that a frontend's packets are looked up in.
type MaglevTable struct {
	Frontend netip.AddrPort `json:"frontend"`
	Protocol string         `json:"protocol"`
	Set      uint32         `json:"set"`
	Slots    int            `json:"slots"`
	Backends int            `json:"backends"`
	// Moved slots have changed since the window of changes opened.
	Moved   int    `json:"moved"`
	Service string `json:"service,omitempty"`
}

// List calls each for the rows of a table, and returns how many more there are
// than the query's limit. T is the type of its rows.
func List[T any](ctx context.Context, c *Client, table string, q ListQuery, each func(T) error) (more int, err error) {
	query := url.Values{"limit": {strconv.Itoa(q.Limit)}}
	if q.Service != (state.ObjectName{}) {
		query.Set("service", q.Service.String())
	}
	return lines(ctx, c, "bpf/tables/"+url.PathEscape(table), query, func() {}, each)
}

func (s *Server) listTable(w http.ResponseWriter, r *http.Request) {
	out := lineWriter{w: w}
	out.end(s.listRows(r, &out))
}

func (s *Server) listRows(r *http.Request, out *lineWriter) (more int, err error) {
	var q ListQuery
	if q.Limit, err = strconv.Atoi(r.FormValue("limit")); err != nil || q.Limit < 0 {
		return 0, fmt.Errorf("%w: limit %q: want a number, 0 for all", errInvalid, r.FormValue("limit"))
	}
	if q.Service, err = parseService(r.FormValue("service")); err != nil {
		return 0, err
	}
	if s.List == nil {
		return 0, ErrNoDatapath
	}
	return s.List(r.Context(), r.PathValue("table"), q, func(row any) error { return out.write(line[any]{Row: &row}) })
}
