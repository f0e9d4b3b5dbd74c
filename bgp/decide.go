package bgp

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/seamark-lb/seamark/state"
)

// Inputs is all that is decided by.
type Inputs struct {
	// Node is this one, and Devices are its.
	Node           state.Node
	Devices        []state.Device
	Instances      []state.BGPInstance
	Peers          []state.BGPPeer
	Advertisements []state.BGPAdvertisement
	// Services are those of Rightful, and Frontends what this node serves of them.
	Services  []state.Service
	Frontends []state.Frontend
	Pools     []state.Pool
	// Leave is how far this node is with going away.
	Leave Leave
	// Profiles of BFD that peers name.
	Profiles []state.BFDProfile
	// Passwords of peers, by the name of the BGPPeer, and why others are Unread.
	Passwords, Unread map[string]string
}

// Decision is what this node does of BGP.
type Decision struct {
	Speakers []state.BGPSpeaker
	Sessions []state.BGPSession
	Routes   []state.BGPRoute
	// Problems are what in the objects cannot be done on this node.
	Problems []state.Problem
}

// Decide returns the speakers, sessions and routes of a node, each sorted by key.
func Decide(in Inputs) Decision {
	d := newDecider(in)
	for _, instance := range sortedBy(in.Instances, state.BGPInstance.RowKey) {
		d.instance(instance)
	}
	d.out.Routes = sortedBy(d.out.Routes, state.BGPRoute.RowKey)
	return d.out
}

func newDecider(in Inputs) *decider {
	d := &decider{Inputs: in, labels: labels.Set(in.Node.Labels), frontends: map[netip.Addr][]*state.Frontend{}}
	for i := range in.Frontends {
		f := &in.Frontends[i]
		d.frontends[f.Addr] = append(d.frontends[f.Addr], f)
	}
	return d
}

type decider struct {
	Inputs
	labels    labels.Set
	frontends map[netip.Addr][]*state.Frontend
	out       Decision
}

// sortedBy returns the rows by key, which is asked of each once.
func sortedBy[T any](rows []T, key func(T) string) []T {
	if len(rows) == 0 {
		return nil
	}
	type keyed struct {
		key string
		row int
	}
	order := make([]keyed, len(rows))
	for i, row := range rows {
		order[i] = keyed{key(row), i}
	}
	slices.SortFunc(order, func(a, b keyed) int { return strings.Compare(a.key, b.key) })
	sorted := make([]T, len(rows))
	for i, o := range order {
		sorted[i] = rows[o.row]
	}
	return sorted
}

func (d *decider) problem(object state.ObjectRef, field, cure, format string, args ...any) {
	d.out.Problems = append(d.out.Problems, state.Problem{Object: object, Field: field, Message: fmt.Sprintf(format, args...), Cure: cure})
}

// selected says whether a selector means this node; an absent one does. One that
// does not parse was refused where it was written, and selects nothing.
func (d *decider) selected(s *metav1.LabelSelector) bool { return matches(s, d.labels) }

func matches(s *metav1.LabelSelector, set labels.Labels) bool { return selector(s).Matches(set) }

// selector is ready to be asked about many.
func selector(s *metav1.LabelSelector) labels.Selector {
	if s == nil {
		return labels.Everything()
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

// anySelects says whether one of the selectors means this node; none of them: it does.
func (d *decider) anySelects(selectors []metav1.LabelSelector) bool {
	return len(selectors) == 0 || slices.ContainsFunc(selectors, func(s metav1.LabelSelector) bool { return d.selected(&s) })
}

// Wants says whether an instance on the node is to have a session with the peer.
func Wants(node state.Node, instance string, peer state.BGPPeer) bool {
	d := &decider{labels: labels.Set(node.Labels)}
	return (len(peer.Instances) == 0 || slices.Contains(peer.Instances, instance)) && d.anySelects(peer.NodeSelectors)
}

// peerHere is a peer that an instance of this node has a session with.
type peerHere struct {
	state.BGPPeer
	v4, v6 bool
}

func (d *decider) instance(row state.BGPInstance) {
	if row.ASN == 0 || !d.selected(row.NodeSelector) {
		return
	}
	identity := row.BGPIdentity
	if own, ok := row.Overrides[d.Node.Name]; ok {
		identity.ASN = cmp.Or(own.ASN, identity.ASN)
		identity.ListenPort = cmp.Or(own.ListenPort, identity.ListenPort)
		if own.RouterID.IsValid() {
			identity.RouterID = own.RouterID
		}
	}
	if !identity.RouterID.IsValid() {
		identity.RouterID = routerID(d.Node)
	}
	for _, other := range d.out.Speakers {
		if identity.ListenPort != 0 && other.ListenPort == identity.ListenPort {
			d.problem(row.Origin, "spec.listenPort", "give one of them another", "port %d of node %s is instance %s's",
				identity.ListenPort, d.Node.Name, other.Instance)
			identity.ListenPort = 0
		}
	}
	d.out.Speakers = append(d.out.Speakers, state.BGPSpeaker{Instance: row.Name, BGPIdentity: identity})
	var peers []peerHere
	for _, peer := range sortedBy(d.Peers, state.BGPPeer.RowKey) {
		if !Wants(d.Node, row.Name, peer) {
			continue
		}
		session := d.session(row.Name, identity, peer)
		d.out.Sessions = append(d.out.Sessions, session)
		if session.Bar != "" {
			continue
		}
		peers = append(peers, peerHere{peer, session.IPv4, session.IPv6})
	}
	d.out.Routes = append(d.out.Routes, leave(d.Leave, d.routes(row.Name, peers))...)
}

// routerID of a node without one: its first IPv4 address, or a number made of
// its name, which is no address of anybody's (RFC 6286 asks for no more).
func routerID(node state.Node) netip.Addr {
	for _, a := range node.Addrs {
		if a.Is4() {
			return a
		}
	}
	hash := fnv.New32a()
	hash.Write([]byte(node.Name))
	sum := hash.Sum32() | 1
	return netip.AddrFrom4([4]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
}

// session is that of an instance with a peer. One that cannot be had is a row, too.
func (d *decider) session(instance string, own state.BGPIdentity, peer state.BGPPeer) state.BGPSession {
	s := state.BGPSession{Instance: instance, Peer: peer.Name, Remote: peer.Remote, Interface: peer.Interface,
		RemotePort: peer.RemotePort, ASN: peer.ASN, BGPSessionConfig: peer.BGPSessionConfig, Password: d.Passwords[peer.Name]}
	if (peer.PasswordFile != "" || peer.PasswordSecret != (state.ObjectName{})) && s.Password == "" {
		// Without it the peer would be told nothing but resets.
		s.Bar = cmp.Or(d.Unread[peer.Name], "its password has not been read yet")
		return s // it is a problem where it is read
	}
	if peer.GatewayOf != "" {
		gateway, ok := d.gateway(peer.GatewayOf == "ipv6")
		if !ok {
			return d.barred(s, peer, "spec.autoDiscovery", "give the node a default route, or write peerAddress",
				"node %s has no default route of %s", d.Node.Name, peer.GatewayOf)
		}
		s.Remote = gateway
	}
	if s.Passive && own.ListenPort == 0 {
		return d.barred(s, peer, "spec.passive", "give the instance a listenPort, or remove passive",
			"instance %s of node %s listens on no port", instance, d.Node.Name)
	}
	s.Source = peer.Source
	if source, ok := peer.Sources[d.Node.Name]; ok {
		s.Source = source
	}
	if peer.SourceInterface != "" {
		source, ok := d.addressOn(peer.SourceInterface, s.Remote.Is6())
		if !ok {
			return d.barred(s, peer, "spec.sourceInterface", "give it one, or name another interface",
				"interface %s of node %s has no address of the peer's family", peer.SourceInterface, d.Node.Name)
		}
		s.Source = source
	}
	for _, other := range d.out.Sessions {
		switch {
		case other.Bar != "" || other.Remote != s.Remote || other.Interface != s.Interface:
		case other.Instance == instance:
			return d.barred(s, peer, "spec", "remove one of them", "peer %s is the same machine to node %s", other.Peer, d.Node.Name)
		case other.RemotePort == s.RemotePort && other.Source == s.Source: // the router would take one for the other
			return d.barred(s, peer, "spec.instances", "name one instance there, or give each another sourceAddress",
				"instance %s of node %s has a session with the same machine from the same address", other.Instance, d.Node.Name)
		}
	}
	s.BFD = d.profile(peer)
	for _, f := range peer.Families {
		if f.IPv6 {
			s.IPv6, s.MaxPrefixes6 = true, f.MaxPrefixes
		} else {
			s.IPv4, s.MaxPrefixes4 = true, f.MaxPrefixes
		}
	}
	if len(peer.Families) == 0 {
		s.IPv4, s.IPv6 = true, true
	}
	if s.IPv6 && s.Remote.Is4() {
		var ok bool
		if s.NextHop6, ok = d.nextHop6(s); !ok {
			s.IPv6 = false // an IPv4 address is no next hop of an IPv6 route
			if len(peer.Families) > 0 {
				d.problem(peer.Origin, "spec.families", "give the interface an IPv6 address, or remove afi ipv6",
					"node %s has no IPv6 address on the interface towards %s, for the next hop of IPv6 routes", d.Node.Name, s.Remote)
			}
		}
	}
	return s
}

// barred is a session that cannot be had, which is a problem of the peer's.
func (d *decider) barred(s state.BGPSession, peer state.BGPPeer, field, cure, format string, args ...any) state.BGPSession {
	d.problem(peer.Origin, field, cure, format, args...)
	s.Bar = fmt.Sprintf(format, args...) + ": " + cure
	return s
}

// profile of the BFD session beside a peer's. Without it BGP goes on alone.
func (d *decider) profile(peer state.BGPPeer) state.BFDConfig {
	if peer.BFDProfile == "" {
		return state.BFDConfig{}
	}
	for _, p := range d.Profiles {
		if p.Name == peer.BFDProfile {
			return p.BFDConfig
		}
	}
	d.problem(peer.Origin, "spec.bfdProfile", "write the BFDProfile, or remove the field", "there is no BFDProfile %s: the session has no BFD beside it", peer.BFDProfile)
	return state.BFDConfig{}
}

// nextHop6 is the IPv6 address of this node on the device of a session over IPv4:
// that with the session's source, or with the peer's subnet.
func (d *decider) nextHop6(s state.BGPSession) (netip.Addr, bool) {
	for _, device := range sortedBy(d.Devices, state.Device.RowKey) {
		if slices.ContainsFunc(device.Prefixes, func(p netip.Prefix) bool { return p.Addr() == s.Source || p.Contains(s.Remote) }) {
			if a, ok := d.addressOn(device.Name, true); ok {
				return a, true
			}
		}
	}
	for _, a := range d.Node.Addrs { // as of a loopback that has the source
		if a.Is6() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// gateway of the node's default route of a family, the first by device.
func (d *decider) gateway(v6 bool) (netip.Addr, bool) {
	for _, device := range sortedBy(d.Devices, state.Device.RowKey) {
		for _, a := range device.Gateways {
			if a.Is6() != v6 {
				continue
			}
			if a.IsLinkLocalUnicast() && v6 {
				a = a.WithZone(device.Name)
			}
			return a, true
		}
	}
	return netip.Addr{}, false
}

// addressOn is the first address of a family on a device.
func (d *decider) addressOn(name string, v6 bool) (netip.Addr, bool) {
	for _, device := range d.Devices {
		if device.Name != name {
			continue
		}
		for _, p := range device.Prefixes {
			if a := p.Addr(); a.Is6() == v6 && !a.IsLinkLocalUnicast() {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}
