package bgp

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"

	"github.com/seamark-lb/seamark/state"
)

// Of a route in GoBGP's table there is one form, and peers may be offered
// different ones, or none. So a route carries tags, each of which stands for an
// offer, and the export policy gives a peer what the tag that is for it says,
// without the tags. Policies then are as many as there are different offers, and
// not as there are routes. A tag is a large community (RFC 8092) under an AS
// number that nobody has (RFC 7300).
const tagASN = 4294967295

const (
	exportPolicy = "seamark-export"
	anyTag       = "^4294967295:"
	// usualLocalPref is what routes have for internal peers that say nothing else.
	usualLocalPref = 100
)

// route is a row with the tags of its offers.
type route struct {
	row  state.BGPRoute
	tags []uint32
}

// offered says whether the session carries the route, or who else would get it.
func (i *instance) offered(s *session, r *route) (yes bool, mistaken string) {
	for _, o := range r.row.Offers {
		if slices.Contains(o.Peers, s.row.Peer) {
			mistaken = i.mistaken(s, o.Peers)
			return mistaken == "", mistaken
		}
	}
	return false, ""
}

// offer is what a tag stands for. It never changes.
type offer struct {
	tag uint32
	state.BGPOffer
}

// offers are those of an instance, by what they say.
type offers struct {
	byKey map[string]*offer
	last  uint32
	// set: the policies are for what is in byKey.
	set bool
}

func newOffers() *offers { return &offers{byKey: map[string]*offer{}} }

// keyOf is the same for offers that differ in nothing that peers see.
func keyOf(o state.BGPOffer) string {
	number := func(n *uint32) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprint(*n)
	}
	return fmt.Sprint(o.Peers, o.Communities, o.Large, number(o.LocalPref), number(o.MED), o.Prepend)
}

// want gives a route its tags.
func (o *offers) want(r *route) {
	r.tags = r.tags[:0]
	for _, row := range r.row.Offers {
		key := keyOf(row)
		one := o.byKey[key]
		if one == nil {
			o.last++
			one = &offer{o.last, row}
			o.byKey[key] = one
			o.set = false
		}
		r.tags = append(r.tags, one.tag)
	}
}

// forget leaves out the offers that no route has. What they were for was
// withdrawn or replaced while they were still known, as GoBGP needs it.
func (o *offers) forget(used map[uint32]bool) {
	for key, one := range o.byKey {
		if !used[one.tag] {
			delete(o.byKey, key)
		}
	}
}

// refuseAll lets nothing in or out that no policy speaks for. What comes in by
// the node's own hand is let in.
func (i *instance) refuseAll(ctx context.Context) error {
	for _, assignment := range []*api.PolicyAssignment{
		{Name: "global", Direction: api.PolicyDirection_POLICY_DIRECTION_IMPORT, DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT, Policies: []*api.Policy{ownRoutes}},
		{Name: "global", Direction: api.PolicyDirection_POLICY_DIRECTION_EXPORT, DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT, Policies: []*api.Policy{{Name: exportPolicy}}},
	} {
		if err := i.server.AddPolicy(ctx, &api.AddPolicyRequest{Policy: assignment.Policies[0]}); err != nil {
			return fmt.Errorf("add policy %s: %w", assignment.Policies[0].Name, err)
		}
		if err := i.server.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: assignment}); err != nil {
			return fmt.Errorf("assign policy %s: %w", assignment.Policies[0].Name, err)
		}
	}
	return nil
}

// ownRoutes is the import policy: GoBGP asks it about the node's own routes, too.
var ownRoutes = &api.Policy{Name: "seamark-import", Statements: []*api.Statement{{
	Name:       "own",
	Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
	Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
}}}

// setPolicies makes the export policy say what is offered to whom now.
func (i *instance) setPolicies(ctx context.Context) error {
	if i.offers.set {
		return nil
	}
	request := &api.SetPoliciesRequest{}
	policy := &api.Policy{Name: exportPolicy}
	for _, name := range slices.Sorted(maps.Keys(i.sessions)) {
		session := i.sessions[name]
		if !session.row.NextHop6.IsValid() {
			continue
		}
		peer := "peer-" + name
		request.DefinedSets = append(request.DefinedSets, &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: peer, List: []string{session.prefix()}})
		policy.Statements = append(policy.Statements, &api.Statement{ // which goes on to those below
			Name: "next-hop-" + name,
			Conditions: &api.Conditions{NeighborSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: peer},
				AfiSafiIn: []*api.Family{apiFamilyOf(true)}},
			Actions: &api.Actions{Nexthop: &api.NexthopAction{Address: session.row.NextHop6.String()}},
		})
	}
	for _, one := range sortedOffers(i.offers.byKey) {
		tags := fmt.Sprintf("tag-%d", one.tag)
		request.DefinedSets = append(request.DefinedSets, &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_LARGE_COMMUNITY, Name: tags,
			List: []string{fmt.Sprintf("%d:0:%d", uint32(tagASN), one.tag)}})
		for n, to := range i.takers(one.Peers) {
			peers := fmt.Sprintf("peers-%d-%d", one.tag, n)
			request.DefinedSets = append(request.DefinedSets, &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: peers, List: to.addresses})
			statement := &api.Statement{
				Name: fmt.Sprintf("offer-%d-%d", one.tag, n),
				Conditions: &api.Conditions{
					NeighborSet:       &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: peers},
					LargeCommunitySet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: tags},
				},
				Actions: i.actions(one, to.internal),
			}
			if to.own.IsValid() { // the next hop before policies is this end of the session
				statement.Conditions.NextHopInList = []string{to.own.String()}
			}
			policy.Statements = append(policy.Statements, statement)
		}
	}
	request.Policies = []*api.Policy{ownRoutes, policy}
	if err := i.server.SetPolicies(ctx, request); err != nil {
		return fmt.Errorf("set export policy: %w", err)
	}
	i.offers.set = true
	return nil
}

func sortedOffers(byKey map[string]*offer) []*offer {
	sorted := make([]*offer, 0, len(byKey))
	for _, one := range byKey {
		sorted = append(sorted, one)
	}
	slices.SortFunc(sorted, func(a, b *offer) int { return int(a.tag) - int(b.tag) })
	return sorted
}

// takersOf are peers that are told the same, by their addresses.
type takersOf struct {
	internal bool
	// own is this end's address of sessions with link-local addresses.
	own       netip.Addr
	addresses []string // as prefixes; at least one: none at all would be everybody
}

// takers of what is offered to the peers that there are sessions with, in order.
func (i *instance) takers(peers []string) (all []takersOf) {
	for _, peer := range peers {
		session := i.sessions[peer]
		if session == nil || i.mistaken(session, peers) != "" {
			continue
		}
		internal := session.internal(i.row.ASN)
		n := slices.IndexFunc(all, func(t takersOf) bool { return t.internal == internal && t.own == session.own })
		if n < 0 {
			n = len(all)
			all = append(all, takersOf{internal: internal, own: session.own})
		}
		all[n].addresses = append(all[n].addresses, session.prefix())
	}
	return all
}

// mistaken returns a peer other than those, of a session that GoBGP's policies do
// not tell from s: the addresses of both ends are the same link-local ones, on
// another interface. What is not for both of them is for none; "": there is no such peer.
func (i *instance) mistaken(s *session, peers []string) string {
	if !s.own.IsValid() {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(i.sessions)) {
		other := i.sessions[name]
		if other != s && other.own == s.own && other.prefix() == s.prefix() && !slices.Contains(peers, name) {
			return name
		}
	}
	return ""
}

// actions make of a route with tags what the offer says.
func (i *instance) actions(one *offer, internal bool) *api.Actions {
	a := &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
		LargeCommunity: &api.CommunityAction{Type: api.CommunityAction_TYPE_REMOVE, Communities: []string{anyTag}}}
	if len(one.Large) > 0 {
		a.LargeCommunity.Type, a.LargeCommunity.Communities = api.CommunityAction_TYPE_REPLACE, nil
		for _, c := range one.Large {
			a.LargeCommunity.Communities = append(a.LargeCommunity.Communities, fmt.Sprintf("%d:%d:%d", c[0], c[1], c[2]))
		}
	}
	if len(one.Communities) > 0 {
		a.Community = &api.CommunityAction{Type: api.CommunityAction_TYPE_REPLACE}
		for _, c := range one.Communities {
			a.Community.Communities = append(a.Community.Communities, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
		}
	}
	switch {
	case one.LocalPref == nil: // said, since another offer may have given the route the lowest
		a.LocalPref = &api.LocalPrefAction{Value: usualLocalPref}
	case *one.LocalPref > 0:
		a.LocalPref = &api.LocalPrefAction{Value: *one.LocalPref}
	}
	if one.MED != nil {
		a.Med = &api.MedAction{Type: api.MedAction_TYPE_REPLACE, Value: int64(*one.MED)}
	}
	if one.Prepend > 0 && !internal {
		a.AsPrepend = &api.AsPrependAction{Asn: i.row.ASN, Repeat: uint32(one.Prepend)}
	}
	return a
}
