package source

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
)

// followBGP gives rows to Seamark's own kinds for BGP.
func (t *Tables) followBGP() {
	t.follow(KindBGPInstance(), newRows(t.db.BGPInstances, func(_ state.Reader, i *v1alpha1.BGPInstance) ([]state.BGPInstance, Problems) {
		return []state.BGPInstance{BGPInstanceRow(i)}, nil
	}))
	t.follow(KindBGPPeer(), newRows(t.db.BGPPeers, func(r state.Reader, p *v1alpha1.BGPPeer) ([]state.BGPPeer, Problems) {
		row, problems := BGPPeerRow(p)
		return []state.BGPPeer{row}, append(problems, passwordProblems(t.db, r, row.PasswordSecret, fieldPasswordSecret)...)
	}))
	t.follow(KindBGPAdvertisement(), newRows(t.db.BGPAdvertisements, func(_ state.Reader, a *v1alpha1.BGPAdvertisement) ([]state.BGPAdvertisement, Problems) {
		row, problems := BGPAdvertisementRow(a)
		return []state.BGPAdvertisement{row}, problems
	}))
	t.follow(KindBFDProfile(), newRows(t.db.BFDProfiles, func(_ state.Reader, p *v1alpha1.BFDProfile) ([]state.BFDProfile, Problems) {
		row, problems := BFDProfileRow(p)
		return []state.BFDProfile{row}, problems
	}))
}

// addrOf reads an address that validation has seen; the zero Addr when it has not.
func addrOf[T ~string](text T) netip.Addr {
	a, _ := netip.ParseAddr(string(text))
	return a
}

// BGPInstanceRow is the row of a BGPInstance.
func BGPInstanceRow(i *v1alpha1.BGPInstance) state.BGPInstance {
	identity := func(asn v1alpha1.ASN, id v1alpha1.RouterID, port int32) state.BGPIdentity {
		return state.BGPIdentity{ASN: uint32(asn), RouterID: addrOf(id), ListenPort: uint16(port)}
	}
	row := state.BGPInstance{Name: i.Name, Origin: KindBGPInstance().ref(i.Name), NodeSelector: i.Spec.NodeSelector,
		BGPIdentity: identity(i.Spec.LocalASN, i.Spec.RouterID, i.Spec.ListenPort),
		Overrides:   map[string]state.BGPIdentity{}}
	for _, o := range i.Spec.NodeOverrides {
		row.Overrides[o.Node] = identity(o.LocalASN, o.RouterID, o.ListenPort)
	}
	return row
}

// BGPPeerRow is the row of a BGPPeer, with what of it is not in force.
func BGPPeerRow(p *v1alpha1.BGPPeer) (state.BGPPeer, Problems) {
	spec := &p.Spec
	row := state.BGPPeer{
		Name: p.Name, Origin: KindBGPPeer().ref(p.Name), Labels: p.Labels, Instances: spec.Instances, NodeSelectors: spec.NodeSelectors,
		Remote: addrOf(spec.PeerAddress), Interface: string(spec.Interface), RemotePort: uint16(spec.PeerPort),
		ASN:    state.BGPPeerASN{Number: uint32(spec.PeerASN), Mode: string(spec.PeerASNMode)},
		Source: addrOf(spec.SourceAddress), SourceInterface: string(spec.SourceInterface),
		BGPSessionConfig: sessionConfig(spec), PasswordFile: spec.PasswordFile, BFDProfile: spec.BFDProfile,
	}
	if row.RemotePort == 0 {
		row.RemotePort = 179
	}
	if spec.AutoDiscovery != nil {
		row.GatewayOf = spec.AutoDiscovery.AddressFamily
	}
	for _, o := range spec.NodeOverrides {
		if row.Sources == nil {
			row.Sources = map[string]netip.Addr{}
		}
		row.Sources[o.Node] = addrOf(o.SourceAddress)
	}
	for _, f := range spec.Families {
		row.Families = append(row.Families, state.BGPPeerFamily{IPv6: f.AFI == "ipv6", Advertisements: f.Advertisements, MaxPrefixes: uint32(f.MaxPrefixes)})
	}
	for _, p := range spec.ImportPrefixes {
		row.Import = append(row.Import, importRow(p))
	}
	var unhonoured Problems
	if ref := spec.PasswordSecretRef; ref != nil {
		row.PasswordSecret = state.ObjectName{Namespace: cmp.Or(ref.Namespace, Namespace), Name: ref.Name}
	}
	if t := spec.Timers; t != nil && t.HoldTimeSeconds != nil && *t.HoldTimeSeconds == 0 {
		unhonoured.add("spec.timers.holdTimeSeconds", "write 3 or more", "sessions without keepalives are not possible: the hold time is 90 s")
	}
	return row, unhonoured
}

// importRow has the lengths that an absent ge or le stands for. The CIDR of all
// addresses is the default route without them, and with them any other.
func importRow(p v1alpha1.ImportPrefix) state.BGPImport {
	cidr, _ := netip.ParsePrefix(p.CIDR)
	row := state.BGPImport{Prefix: cidr, From: uint8(max(0, cidr.Bits())), To: uint8(max(0, cidr.Bits()))}
	if p.GE == 0 && p.LE == 0 {
		return row
	}
	row.From, row.To = uint8(max(p.GE, int32(row.From), 1)), uint8(cidr.Addr().BitLen())
	if p.LE != 0 {
		row.To = uint8(p.LE)
	}
	return row
}

// BFDProfileRow is the row of a BFDProfile, with what of it is not in force.
func BFDProfileRow(p *v1alpha1.BFDProfile) (state.BFDProfile, Problems) {
	var unhonoured Problems
	interval := func(field string, ms int32) time.Duration {
		d := time.Duration(cmp.Or(ms, 300)) * time.Millisecond
		if d < state.MinBFDInterval {
			unhonoured.add(field, fmt.Sprintf("write %d or more", state.MinBFDInterval.Milliseconds()),
				"packets are sent and taken every %v at the most often: that is in force", state.MinBFDInterval)
		}
		return max(d, state.MinBFDInterval)
	}
	row := state.BFDProfile{Name: p.Name, Origin: KindBFDProfile().ref(p.Name), BFDConfig: state.BFDConfig{
		MinRx: interval("spec.receiveInterval", p.Spec.ReceiveInterval), MinTx: interval("spec.transmitInterval", p.Spec.TransmitInterval),
		Multiplier: uint8(cmp.Or(p.Spec.DetectMultiplier, 3)), Passive: p.Spec.PassiveMode, MinTTL: uint8(cmp.Or(p.Spec.MinimumTTL, 254))}}
	return row, unhonoured
}

func sessionConfig(spec *v1alpha1.BGPPeerSpec) state.BGPSessionConfig {
	c := state.BGPSessionConfig{ConnectRetry: 10 * time.Second, Hold: 90 * time.Second, Multihop: uint8(spec.EBGPMultihop),
		TTLSecurity: uint8(spec.TTLSecurityHops), Passive: spec.Passive, AllowASIn: uint8(spec.AllowASIn)}
	seconds := func(to *time.Duration, n *int32) {
		if n != nil && *n > 0 {
			*to = time.Duration(*n) * time.Second
		}
	}
	if t := spec.Timers; t != nil {
		seconds(&c.ConnectRetry, t.ConnectRetryTimeSeconds)
		seconds(&c.Hold, t.HoldTimeSeconds)
		seconds(&c.KeepAlive, t.KeepAliveTimeSeconds)
	}
	if g := spec.GracefulRestart; g != nil && g.Enabled {
		c.GracefulRestart = 120 * time.Second
		seconds(&c.GracefulRestart, g.RestartTimeSeconds)
	}
	return c
}

// BGPAdvertisementRow is the row of a BGPAdvertisement. All of it is in force.
func BGPAdvertisementRow(a *v1alpha1.BGPAdvertisement) (state.BGPAdvertisement, Problems) {
	row := state.BGPAdvertisement{Name: a.Name, Origin: KindBGPAdvertisement().ref(a.Name), Labels: a.Labels, Peers: a.Spec.Peers,
		PeerSelector: a.Spec.PeerSelector, NodeSelectors: a.Spec.NodeSelectors}
	kinds := map[v1alpha1.AdvertisementType]state.FrontendKind{v1alpha1.AdvertiseLoadBalancer: state.KindLoadBalancer,
		v1alpha1.AdvertiseExternalIP: state.KindExternalIP, v1alpha1.AdvertiseClusterIP: state.KindClusterIP}
	for _, one := range a.Spec.Advertisements {
		addresses := state.BGPAddresses{Kind: kinds[one.Type], ServiceSelector: one.ServiceSelector, Pools: one.Pools, PoolSelector: one.PoolSelector,
			Aggregate4: uint8(one.AggregationLengthIPv4), Aggregate6: uint8(one.AggregationLengthIPv6)}
		if one.Attributes != nil {
			addresses.Attributes = bgpAttributes(one.Attributes)
		}
		row.Addresses = append(row.Addresses, addresses)
	}
	return row, nil
}

func bgpAttributes(a *v1alpha1.BGPAttributes) state.BGPAttributes {
	number := func(n *int64) *uint32 {
		if n == nil {
			return nil
		}
		v := uint32(*n)
		return &v
	}
	row := state.BGPAttributes{LocalPref: number(a.LocalPreference), MED: number(a.MED), Prepend: uint8(a.ASPathPrepend)}
	if a.Communities == nil {
		return row
	}
	for _, c := range a.Communities.Standard {
		n := numbers(string(c))
		row.Communities = append(row.Communities, n[0]<<16|n[1])
	}
	for _, name := range a.Communities.WellKnown {
		row.Communities = append(row.Communities, wellKnown[name])
	}
	for _, c := range a.Communities.Large {
		n := numbers(string(c))
		row.Large = append(row.Large, [3]uint32{n[0], n[1], n[2]})
	}
	slices.Sort(row.Communities)
	row.Communities = slices.Compact(row.Communities)
	slices.SortFunc(row.Large, func(a, b [3]uint32) int { return slices.Compare(a[:], b[:]) })
	row.Large = slices.Compact(row.Large)
	return row
}

// numbers of a community as it is written; validation has seen it.
func numbers(text string) (n [3]uint32) {
	for i, part := range strings.SplitN(text, ":", len(n)) {
		v, _ := strconv.ParseUint(part, 10, 32)
		n[i] = uint32(v)
	}
	return n
}

// wellKnown are IANA's numbers of the communities that have names.
var wellKnown = map[v1alpha1.WellKnownCommunity]uint32{
	"internet": 0, "planned-shut": 0xffff0000, "accept-own": 0xffff0001, "route-filter-translated-v4": 0xffff0002,
	"route-filter-v4": 0xffff0003, "route-filter-translated-v6": 0xffff0004, "route-filter-v6": 0xffff0005, "llgr-stale": 0xffff0006,
	"no-llgr": 0xffff0007, "blackhole": 0xffff029a, "no-export": 0xffffff01, "no-advertise": 0xffffff02,
	"no-export-subconfed": 0xffffff03, "no-peer": 0xffffff04,
}
