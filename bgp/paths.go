package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/seamark-lb/seamark/state"
)

func familyOf(v6 bool) packet.Family {
	if v6 {
		return packet.RF_IPv6_UC
	}
	return packet.RF_IPv4_UC
}

// apiFamilyOf is familyOf as the configuration of GoBGP has it.
func apiFamilyOf(v6 bool) *api.Family {
	family := familyOf(v6)
	return apiutil.ToApiFamily(family.Afi(), family.Safi())
}

// pathOf is a route as GoBGP's table has it. The next hop is this end of each
// session: an unspecified one is replaced by that.
func pathOf(prefix netip.Prefix, tags []uint32, more ...packet.PathAttributeInterface) (*apiutil.Path, error) {
	nlri, err := packet.NewIPAddrPrefix(prefix)
	if err != nil {
		return nil, err
	}
	unspecified := netip.IPv4Unspecified()
	if prefix.Addr().Is6() {
		unspecified = netip.IPv6Unspecified()
	}
	nextHop, err := packet.NewPathAttributeNextHop(unspecified) // of which GoBGP makes an MP_REACH_NLRI for IPv6
	if err != nil {
		return nil, err
	}
	var large []*packet.LargeCommunity
	for _, tag := range tags {
		large = append(large, &packet.LargeCommunity{ASN: tagASN, LocalData2: tag})
	}
	attributes := append([]packet.PathAttributeInterface{packet.NewPathAttributeOrigin(packet.BGP_ORIGIN_ATTR_TYPE_IGP), nextHop,
		packet.NewPathAttributeLargeCommunities(large)}, more...)
	return &apiutil.Path{Family: familyOf(prefix.Addr().Is6()), Nlri: nlri, Attrs: attributes, Age: time.Now().Unix()}, nil
}

// addPath puts a route into the table, in place of the one of its prefix.
func (i *instance) addPath(r *route) error {
	var more []packet.PathAttributeInterface
	if slices.ContainsFunc(r.row.Offers, func(o state.BGPOffer) bool { return o.LocalPref != nil && *o.LocalPref == 0 }) {
		more = append(more, packet.NewPathAttributeLocalPref(0)) // which no policy can set
	}
	path, err := pathOf(r.row.Prefix, r.tags, more...)
	if err != nil {
		return err
	}
	_, err = i.server.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}})
	return err
}

func (i *instance) deletePath(prefix netip.Prefix) error {
	path, err := pathOf(prefix, nil)
	if err != nil {
		return err
	}
	return i.server.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{path}})
}

// advertised are the prefixes that the server really has.
func (i *instance) advertised() ([]netip.Prefix, error) {
	if i.server == nil {
		return nil, nil
	}
	var prefixes []netip.Prefix
	for _, v6 := range []bool{false, true} {
		request := apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: familyOf(v6)}
		err := i.server.ListPath(request, func(nlri packet.NLRI, _ []*apiutil.Path) {
			if prefix, ok := prefixIn(nlri); ok {
				prefixes = append(prefixes, prefix)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list routes of BGP instance %s: %w", i.row.Instance, err)
		}
	}
	return prefixes, nil
}

// prefixIn is the prefix that a route is for; false: it is for something else.
func prefixIn(nlri packet.NLRI) (netip.Prefix, bool) {
	p, ok := nlri.(*packet.IPAddrPrefix)
	if !ok {
		return netip.Prefix{}, false
	}
	return p.Prefix, true
}

// nextHopsIn are the next hops that an attribute carries: for IPv6 there may be a
// link-local one beside the global one (RFC 2545 §3).
func nextHopsIn(attribute packet.PathAttributeInterface) (hops []netip.Addr) {
	var carried []netip.Addr
	switch a := attribute.(type) {
	case *packet.PathAttributeNextHop:
		carried = []netip.Addr{a.Value}
	case *packet.PathAttributeMpReachNLRI:
		carried = []netip.Addr{a.Nexthop, a.LinkLocalNexthop}
	}
	for _, hop := range carried {
		if hop.IsValid() {
			hops = append(hops, hop)
		}
	}
	return hops
}
