package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/seamark-lb/seamark/state"
)

func familyOf(v6 bool) *api.Family {
	if v6 {
		return &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
	}
	return &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
}

// pathOf is a route as GoBGP's table has it. The next hop is this end of each
// session: an unspecified one is replaced by that.
func pathOf(prefix netip.Prefix, tags []uint32, more ...proto.Message) (*api.Path, error) {
	v6 := prefix.Addr().Is6()
	path := &api.Path{Family: familyOf(v6)}
	nlri := &api.IPAddressPrefix{Prefix: prefix.Addr().String(), PrefixLen: uint32(prefix.Bits())}
	var err error
	if path.Nlri, err = anypb.New(nlri); err != nil {
		return nil, err
	}
	attributes := append([]proto.Message{&api.OriginAttribute{Origin: 0}}, more...)
	if v6 {
		attributes = append(attributes, &api.MpReachNLRIAttribute{Family: familyOf(true), NextHops: []string{"::"}, Nlris: []*anypb.Any{path.Nlri}})
	} else {
		attributes = append(attributes, &api.NextHopAttribute{NextHop: "0.0.0.0"})
	}
	large := &api.LargeCommunitiesAttribute{}
	for _, tag := range tags {
		large.Communities = append(large.Communities, &api.LargeCommunity{GlobalAdmin: tagASN, LocalData2: tag})
	}
	for _, a := range append(attributes, large) {
		packed, err := anypb.New(a)
		if err != nil {
			return nil, err
		}
		path.Pattrs = append(path.Pattrs, packed)
	}
	return path, nil
}

// addPath puts a route into the table, in place of the one of its prefix.
func (i *instance) addPath(ctx context.Context, r *route) error {
	var more []proto.Message
	if slices.ContainsFunc(r.row.Offers, func(o state.BGPOffer) bool { return o.LocalPref != nil && *o.LocalPref == 0 }) {
		more = append(more, &api.LocalPrefAttribute{LocalPref: 0}) // which no policy can set
	}
	path, err := pathOf(r.row.Prefix, r.tags, more...)
	if err != nil {
		return err
	}
	_, err = i.server.AddPath(ctx, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: path})
	return err
}

func (i *instance) deletePath(ctx context.Context, prefix netip.Prefix) error {
	path, err := pathOf(prefix, nil)
	if err != nil {
		return err
	}
	return i.server.DeletePath(ctx, &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Path: path})
}

// advertised are the prefixes that the server really has.
func (i *instance) advertised(ctx context.Context) ([]netip.Prefix, error) {
	if i.server == nil {
		return nil, nil
	}
	var prefixes []netip.Prefix
	var bad error
	for _, v6 := range []bool{false, true} {
		err := i.server.ListPath(ctx, &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: familyOf(v6)}, func(d *api.Destination) {
			prefix, err := netip.ParsePrefix(d.Prefix)
			if err != nil {
				bad = err
				return
			}
			prefixes = append(prefixes, prefix)
		})
		if err == nil {
			err = bad
		}
		if err != nil {
			return nil, fmt.Errorf("list routes of BGP instance %s: %w", i.row.Instance, err)
		}
	}
	return prefixes, nil
}
