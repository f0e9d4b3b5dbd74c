package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// ErrStranded: a node is the only one that may announce an address.
var ErrStranded = errors.New("no other node may announce what it does")

// Explanation says of an address which node announces it, and how each node
// stands with it.
type Explanation struct {
	Address netip.Addr `json:"address"`
	// Services that carry the address, and the pool that it is of, "" for none.
	Services []string `json:"services,omitempty"`
	Pool     string   `json:"pool,omitempty"`
	// Policies that announce it.
	Policies []string `json:"policies,omitempty"`
	// Node that does, since when and why; "": none.
	Node       string       `json:"node,omitempty"`
	Since      time.Time    `json:"since,omitzero"`
	Generation int64        `json:"generation,omitempty"`
	Reason     state.Reason `json:"reason,omitempty"`
	Previous   string       `json:"previous,omitempty"`
	// Nodes that may announce it, or why not, by name; empty without a policy.
	Nodes []NodeStanding `json:"nodes,omitempty"`
	// Advice is what to do when no node announces it, a line each.
	Advice []string `json:"advice,omitempty"`
}

// NodeStanding is how a node stands with an address.
type NodeStanding struct {
	Node string `json:"node"`
	// Interfaces it would be announced on.
	Interfaces []string `json:"interfaces,omitempty"`
	// Lease is what the asked daemon thinks of the node's.
	Lease string `json:"lease"`
	// Candidate: the node may announce the address. Otherwise Bar is the reason,
	// one CamelCase word. Why says it for people, and what to do.
	Candidate bool   `json:"candidate"`
	Bar       string `json:"bar,omitempty"`
	Why       string `json:"why,omitempty"`
}

// Drain has a node give its addresses up for as long as it is drained. With
// force, also those that no other node may announce: else that is ErrStranded.
func (c *Client) Drain(ctx context.Context, node string, force bool) error {
	query := url.Values{"force": {strconv.FormatBool(force)}}
	return c.call(ctx, http.MethodPut, drainPath(node), query, nil, nil)
}

// Undrain lets a node have addresses again.
func (c *Client) Undrain(ctx context.Context, node string) error {
	return c.call(ctx, http.MethodDelete, drainPath(node), nil, nil, nil)
}

func drainPath(node string) string { return "nodes/" + url.PathEscape(node) + "/drain" }

// Explain asks how every node stands with an address.
func (c *Client) Explain(ctx context.Context, addr netip.Addr) (e Explanation, err error) {
	err = c.call(ctx, http.MethodGet, "announcements/"+url.PathEscape(addr.String())+"/explanation", nil, nil, &e)
	return e, err
}

func (s *Server) drain(r *http.Request) (any, error) {
	if s.Drain == nil {
		return nil, ErrNoDatapath
	}
	force := false
	if text := r.FormValue("force"); text != "" {
		var err error
		if force, err = strconv.ParseBool(text); err != nil {
			return nil, fmt.Errorf("%w: force %q: want true or false", errInvalid, text)
		}
	}
	return struct{}{}, s.Drain(r.Context(), r.PathValue("node"), r.Method == http.MethodPut, force)
}

func (s *Server) explain(r *http.Request) (any, error) {
	if s.Explain == nil {
		return nil, ErrNoDatapath
	}
	addr, err := netip.ParseAddr(r.PathValue("address"))
	if err != nil {
		return nil, fmt.Errorf("%w: %q is no address", errInvalid, r.PathValue("address"))
	}
	return s.Explain(addr)
}
