package control

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
)

// BGPPath is a route as a BGP session carries it.
type BGPPath struct {
	Instance    string       `json:"instance"`
	Peer        string       `json:"peer"`
	Prefix      netip.Prefix `json:"prefix"`
	NextHop     string       `json:"nextHop"`
	ASPath      []uint32     `json:"asPath"`
	LocalPref   *uint32      `json:"localPref,omitempty"`
	MED         *uint32      `json:"med,omitempty"`
	Communities []string     `json:"communities,omitempty"`
	// Imported: a received route is in the node's kernel; NotImported is why not.
	Imported    bool   `json:"imported,omitempty"`
	NotImported string `json:"notImported,omitempty"`
}

// Directions of BGP routes, as they are asked for.
const (
	BGPAdvertised = "advertised"
	BGPReceived   = "received"
)

func (s *Server) bgpPaths(r *http.Request) (any, error) {
	if s.BGPPaths == nil {
		return nil, ErrNoDatapath
	}
	direction := r.PathValue("direction")
	if direction != BGPAdvertised && direction != BGPReceived {
		return nil, fmt.Errorf("%w: unknown direction %q: want %s or %s", errInvalid, direction, BGPAdvertised, BGPReceived)
	}
	paths, err := s.BGPPaths(r.Context(), direction == BGPReceived, r.FormValue("peer"))
	return emptyNotNull(paths), err
}

// BGPPaths asks for the routes that peers were sent or have sent; peer "": all of them.
func (c *Client) BGPPaths(ctx context.Context, direction, peer string) (paths []BGPPath, err error) {
	query := url.Values{}
	if peer != "" {
		query.Set("peer", peer)
	}
	err = c.call(ctx, http.MethodGet, "bgp/routes/"+url.PathEscape(direction), query, nil, &paths)
	return paths, err
}

// AdvertisementStanding is how a BGPAdvertisement stands with an address, towards
// one peer of the node.
type AdvertisementStanding struct {
	Advertisement string `json:"advertisement"`
	Instance      string `json:"instance"`
	Peer          string `json:"peer"`
	Advertised    bool   `json:"advertised"`
	// Prefix that it goes out by, with the Attributes; Why it does not.
	Prefix     netip.Prefix `json:"prefix,omitzero"`
	Attributes string       `json:"attributes,omitempty"`
	Why        string       `json:"why,omitempty"`
}

func (s *Server) explainAdvertisement(r *http.Request) (any, error) {
	if s.ExplainAdvertisement == nil {
		return nil, ErrNoDatapath
	}
	addr, err := netip.ParseAddr(r.PathValue("address"))
	if err != nil {
		return nil, fmt.Errorf("%w: %q is no address", errInvalid, r.PathValue("address"))
	}
	all, err := s.ExplainAdvertisement(addr)
	return emptyNotNull(all), err
}

// ExplainAdvertisement asks how each advertisement of the node stands with an address.
func (c *Client) ExplainAdvertisement(ctx context.Context, addr netip.Addr) (all []AdvertisementStanding, err error) {
	err = c.call(ctx, http.MethodGet, "bgp/advertisements/"+url.PathEscape(addr.String())+"/explanation", nil, nil, &all)
	return all, err
}
