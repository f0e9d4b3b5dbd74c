package foreign

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"k8s.io/apimachinery/pkg/runtime"
)

// ciliumClusterConfig makes a BGPInstance of each of its instances, and of
// each of their peers a BGPPeer, into which what the peer's CiliumBGPPeerConfig
// and the nodes' CiliumBGPNodeConfigOverrides say goes.
func (t *translation) ciliumClusterConfig() []runtime.Object {
	spec := t.spec()
	nodes := spec.selector("nodeSelector")
	var objects []runtime.Object
	for _, in := range spec.objects("bgpInstances") {
		name := t.ciliumName(in)
		instance := &v1alpha1.BGPInstance{TypeMeta: typeMeta("BGPInstance"), ObjectMeta: t.meta(objectName(t.obj.GetName(), name)), Spec: v1alpha1.BGPInstanceSpec{
			NodeSelector: nodes,
			LocalASN:     v1alpha1.ASN(in.number("localASN", 1, maxASN)),
			ListenPort:   int32(in.number("localPort", 1, 65535)),
		}}
		if instance.Spec.LocalASN == 0 {
			t.fatal(in.at("localASN"), "write the AS number of the nodes", "is missing")
		}
		objects = append(objects, instance)
		var peers []*v1alpha1.BGPPeer
		ends := in.objects("peers")
		for _, p := range ends {
			peers = append(peers, t.ciliumPeer(p, instance))
		}
		for _, other := range t.named(Cilium, "CiliumBGPNodeConfigOverride", "") {
			override, ok := newTranslation(other, nil).ciliumNodeOverride()[name]
			if !ok {
				continue
			}
			override.addTo(instance)
			for i, p := range ends {
				t.overridePeer(p, peers[i], override)
			}
		}
		for _, peer := range peers {
			objects = append(objects, peer)
		}
	}
	if spec.empty("bgpInstances") {
		t.fatal(spec.at("bgpInstances"), "add an instance", "is empty")
	}
	return objects
}

func (t *translation) ciliumName(f *fields) string {
	name := f.text("name")
	if name == "" {
		t.fatal(f.at("name"), "name it", "is missing")
	}
	return name
}

// objectName makes one name for an object out of names of any characters.
func objectName(parts ...string) string {
	name := strings.ToLower(strings.Join(parts, "-"))
	name = regexp.MustCompile(`[^a-z0-9.]+`).ReplaceAllString(name, "-")
	return strings.Trim(name[:min(len(name), 253)], "-.")
}

func (t *translation) ciliumPeer(p *fields, instance *v1alpha1.BGPInstance) *v1alpha1.BGPPeer {
	peer := &v1alpha1.BGPPeer{TypeMeta: typeMeta("BGPPeer"), ObjectMeta: t.meta(objectName(instance.Name, t.ciliumName(p)))}
	out := &peer.Spec
	out.Instances = []string{instance.Name}
	out.PeerAddress = v1alpha1.PeerAddress(p.text("peerAddress"))
	if out.PeerAddress != "" {
		t.checkPeerAddr(p.at("peerAddress"), string(out.PeerAddress))
	}
	// 0 and absent: what the peer says it has.
	if out.PeerASN = v1alpha1.ASN(p.number("peerASN", 0, maxASN)); out.PeerASN == 0 {
		out.PeerASNMode = v1alpha1.PeerASNAny
	}
	discovery := p.object("autoDiscovery")
	family := discovery.object("defaultGateway").oneOf("addressFamily", "ipv4", "ipv6")
	iface := discovery.object("unnumbered").text("interface")
	switch discovery.oneOf("mode", "DefaultGateway", "Unnumbered") {
	case "DefaultGateway":
		out.AutoDiscovery = &v1alpha1.BGPAutoDiscovery{Mode: "DefaultGateway", AddressFamily: family}
		if family == "" {
			t.fatal(discovery.at("defaultGateway"), "write addressFamily: ipv4 or ipv6 in it", "has no addressFamily")
		}
	case "Unnumbered":
		out.Interface = v1alpha1.InterfaceName(iface)
		if iface == "" {
			t.fatal(discovery.at("unnumbered"), "write interface: in it", "has no interface")
		}
	}
	if (out.PeerAddress == "") == (out.AutoDiscovery == nil && out.Interface == "") {
		t.fatal(p.at("peerAddress"), "write one of peerAddress and autoDiscovery", "is missing, or there beside autoDiscovery")
	}
	config := t.ciliumPeerConfigOf(p)
	config.apply(out, out.PeerASN == instance.Spec.LocalASN)
	if out.EBGPMultihop == 0 && config.multihop > 1 && out.PeerASN != instance.Spec.LocalASN {
		t.unhonoured(p.at("autoDiscovery"), "write peerAddress, or take ebgpMultihop out of the peer configuration",
			"what is discovered is one hop away: ebgpMultihop %d is not in force", config.multihop)
	}
	return peer
}

// peerConfig is what a CiliumBGPPeerConfig says.
type peerConfig struct {
	port     int32
	timers   *v1alpha1.BGPTimers
	password *v1alpha1.SecretReference
	restart  *v1alpha1.BGPGracefulRestart
	multihop int32
	families []v1alpha1.BGPFamily
}

func (c peerConfig) apply(peer *v1alpha1.BGPPeerSpec, internal bool) {
	peer.PeerPort, peer.Timers, peer.PasswordSecretRef = c.port, c.timers, c.password
	peer.GracefulRestart, peer.Families = c.restart, c.families
	if c.multihop > 1 && peer.PeerAddress != "" && !internal { // ignored for internal peers by Cilium, too
		peer.EBGPMultihop = c.multihop
	}
}

// ciliumPeerConfigOf reads the configuration that the peer names. What is to
// be said of it is said of that object.
func (t *translation) ciliumPeerConfigOf(p *fields) peerConfig {
	ref := p.object("peerConfigRef")
	name := ref.text("name")
	ref.oneOf("group", Cilium)
	ref.oneOf("kind", "CiliumBGPPeerConfig")
	if name != "" {
		if found := t.named(Cilium, "CiliumBGPPeerConfig", name); len(found) > 0 {
			return newTranslation(found[0], nil).ciliumPeerConfig()
		}
		t.unresolved(ref.at("name"), "add it", "there is no CiliumBGPPeerConfig %q: what it says of timers, families and password is not known", name)
	}
	return peerConfig{families: silentFamilies()}
}

// silentFamilies are those a peer of Cilium's has when nothing is said of
// them: both, and nothing is advertised.
func silentFamilies() []v1alpha1.BGPFamily {
	return []v1alpha1.BGPFamily{
		{AFI: "ipv6", SAFI: "unicast", Advertisements: nothing()},
		{AFI: "ipv4", SAFI: "unicast", Advertisements: nothing()},
	}
}

func (t *translation) ciliumPeerConfig() peerConfig {
	spec := t.spec()
	transport := spec.object("transport")
	config := peerConfig{
		port:     int32(transport.number("peerPort", 1, 65535)),
		timers:   t.ciliumTimers(spec),
		multihop: int32(spec.number("ebgpMultihop", 1, 255)),
	}
	if port := transport.number("localPort", 1, 65535); port != 0 {
		t.unhonoured(transport.at("localPort"), "remove it, or write localPort on the instance for the port that peers connect to",
			"%d: sessions come from a port that the kernel chooses", port)
	}
	if name := spec.text("authSecretRef"); name != "" {
		config.password = &v1alpha1.SecretReference{Name: name}
		t.unresolved(spec.at("authSecretRef"), "copy the Secret to "+secretNamespace,
			"Secret %s is read from namespace %s, and not from the one that Cilium is configured with (kube-system)", name, secretNamespace)
	}
	if spec.has("gracefulRestart") {
		restart := spec.object("gracefulRestart")
		config.restart = &v1alpha1.BGPGracefulRestart{Enabled: restart.flag("enabled")}
		if s := restart.number("restartTimeSeconds", 1, 4095); s != 0 {
			config.restart.RestartTimeSeconds = new(int32(s))
		}
	}
	for _, f := range spec.objects("families") {
		afi, safi := f.text("afi"), f.text("safi")
		advertisements := f.selector("advertisements")
		if advertisements == nil {
			advertisements = nothing()
		}
		family := v1alpha1.BGPFamily{AFI: afi, SAFI: safi, Advertisements: advertisements}
		switch {
		case afi == "" || safi == "":
			t.fatal(f.path, "write both, such as afi: ipv4 and safi: unicast", "has no afi or no safi")
		case afi != "ipv4" && afi != "ipv6" || safi != "unicast":
			t.unhonoured(f.path, "remove it", "Seamark speaks ipv4/unicast and ipv6/unicast, and not %s/%s", afi, safi)
		case slices.ContainsFunc(config.families, func(o v1alpha1.BGPFamily) bool { return o.AFI == afi }):
			t.unhonoured(f.path, "give the family once, with a selector of all its advertisements", "%s/%s is there twice: only the first counts", afi, safi)
		default:
			config.families = append(config.families, family)
		}
	}
	switch {
	case spec.empty("families"):
		config.families = silentFamilies()
	case len(config.families) == 0:
		t.fatal(spec.at("families"), "add ipv4/unicast or ipv6/unicast", "has no family that Seamark speaks")
	}
	return config
}

func (t *translation) ciliumTimers(spec *fields) *v1alpha1.BGPTimers {
	in, timers := spec.object("timers"), &v1alpha1.BGPTimers{}
	if !spec.has("timers") {
		return nil
	}
	if s := in.number("connectRetryTimeSeconds", 1, 1<<31-1); s > 65535 {
		t.unhonoured(in.at("connectRetryTimeSeconds"), "write a number up to 65535", "%d counts as 65535", s)
		timers.ConnectRetryTimeSeconds = new(int32(65535))
	} else if s > 0 {
		timers.ConnectRetryTimeSeconds = new(int32(s))
	}
	hold := in.number("holdTimeSeconds", 3, 65535)
	if hold > 0 {
		timers.HoldTimeSeconds = new(int32(hold))
	} else {
		hold = 90
	}
	keepalive := in.number("keepAliveTimeSeconds", 1, 65535)
	switch {
	case keepalive == 0:
	case keepalive < hold:
		timers.KeepAliveTimeSeconds = new(int32(keepalive))
	default:
		t.unhonoured(in.at("keepAliveTimeSeconds"), "write a third of holdTimeSeconds", "%d is not less than the hold time %d: a third of that is used", keepalive, hold)
	}
	return timers
}

// instanceOverride is what a CiliumBGPNodeConfigOverride says of one instance.
type instanceOverride struct {
	v1alpha1.BGPInstanceNodeOverride
	peers map[string]string // local addresses, by the name of the peer
}

// ciliumNodeOverride returns what is said, by the name of the instance.
func (t *translation) ciliumNodeOverride() map[string]instanceOverride {
	overrides := map[string]instanceOverride{}
	for _, in := range t.spec().objects("bgpInstances") {
		override := instanceOverride{peers: map[string]string{}}
		override.Node = t.obj.GetName()
		override.RouterID = v1alpha1.RouterID(in.text("routerID"))
		override.LocalASN = v1alpha1.ASN(in.number("localASN", 1, maxASN))
		override.ListenPort = int32(in.number("localPort", 1, 65535))
		if id := string(override.RouterID); id != "" {
			t.checkRouterID(in.at("routerID"), id)
		}
		for _, p := range in.objects("peers") {
			addr := p.text("localAddress")
			if addr != "" && t.checkAddr(p.at("localAddress"), addr) {
				override.peers[p.text("name")] = addr
			}
			if port := p.number("localPort", 1, 65535); port != 0 {
				t.unhonoured(p.at("localPort"), "remove it", "%d: sessions come from a port that the kernel chooses", port)
			}
			t.ciliumName(p)
		}
		overrides[t.ciliumName(in)] = override
	}
	return overrides
}

func (o instanceOverride) addTo(instance *v1alpha1.BGPInstance) {
	if o.RouterID != "" || o.LocalASN != 0 || o.ListenPort != 0 {
		instance.Spec.NodeOverrides = append(instance.Spec.NodeOverrides, o.BGPInstanceNodeOverride)
	}
}

func (t *translation) overridePeer(p *fields, peer *v1alpha1.BGPPeer, o instanceOverride) {
	addr := o.peers[p.text("name")]
	switch {
	case addr == "":
	case peer.Spec.Interface != "":
		t.unhonoured(p.at("autoDiscovery"), "take localAddress out of the CiliumBGPNodeConfigOverride of that node",
			"an unnumbered session has its interface's link-local address: %s on node %s is not in force", addr, o.Node)
	default:
		peer.Spec.NodeOverrides = append(peer.Spec.NodeOverrides, v1alpha1.BGPPeerNodeOverride{Node: o.Node, SourceAddress: v1alpha1.IPAddress(addr)})
	}
}

func (t *translation) ciliumAdvertisement() []runtime.Object {
	spec := t.spec()
	out := &v1alpha1.BGPAdvertisement{TypeMeta: typeMeta("BGPAdvertisement"), ObjectMeta: t.meta(t.obj.GetName())}
	for _, a := range spec.objects("advertisements") {
		out.Spec.Advertisements = append(out.Spec.Advertisements, t.ciliumAdvertised(a)...)
	}
	if len(out.Spec.Advertisements) == 0 {
		t.unhonoured(spec.at("advertisements"), "add an advertisement of type Service or PodCIDR", "nothing of it can be advertised")
		return nil
	}
	return []runtime.Object{out}
}

// ciliumAdvertised makes an Advertisement for each kind of address of one of
// Cilium's.
func (t *translation) ciliumAdvertised(a *fields) []v1alpha1.Advertisement {
	kind := a.oneOf("advertisementType", "PodCIDR", "CiliumPodIPPool", "Service", "CiliumLoadBalancerIP")
	selector, attributes := a.selector("selector"), t.ciliumAttributes(a)
	service := a.object("service")
	base := v1alpha1.Advertisement{
		ServiceSelector:       selector,
		AggregationLengthIPv4: int32(service.number("aggregationLengthIPv4", 0, 32)),
		AggregationLengthIPv6: int32(service.number("aggregationLengthIPv6", 0, 128)),
		Attributes:            attributes,
	}
	addresses := service.texts("addresses")
	var types []v1alpha1.AdvertisementType
	switch kind {
	case "PodCIDR":
		if selector != nil {
			t.unhonoured(a.at("selector"), "remove it", "has no meaning for PodCIDR: every node advertises its own pod CIDRs")
		}
		return []v1alpha1.Advertisement{{Type: v1alpha1.AdvertisePodCIDR, Attributes: attributes}}
	case "CiliumPodIPPool":
		t.unhonoured(a.at("advertisementType"), "advertise PodCIDR", "Seamark has no pools of pod addresses: nothing is advertised for it")
		return nil
	case "Service":
		for i, name := range addresses {
			ours, ok := map[string]v1alpha1.AdvertisementType{"LoadBalancerIP": v1alpha1.AdvertiseLoadBalancer,
				"ClusterIP": v1alpha1.AdvertiseClusterIP, "ExternalIP": v1alpha1.AdvertiseExternalIP}[name]
			if !ok {
				t.fatal(fmt.Sprintf("%s[%d]", service.at("addresses"), i), "write LoadBalancerIP, ClusterIP or ExternalIP", "%q is not a value it can have", name)
			}
			types = append(types, ours)
		}
		if len(types) == 0 {
			t.fatal(service.at("addresses"), "write LoadBalancerIP, ClusterIP or ExternalIP", "is missing")
		}
	case "CiliumLoadBalancerIP": // in v2alpha1, before Service
		types = []v1alpha1.AdvertisementType{v1alpha1.AdvertiseLoadBalancer}
	default:
		t.fatal(a.at("advertisementType"), "write PodCIDR or Service", "is missing")
	}
	if selector == nil {
		t.unhonoured(a.at("selector"), "add one: an empty one selects all", "is missing, and selects nothing then: nothing is advertised")
		return nil
	}
	all := make([]v1alpha1.Advertisement, len(types))
	for i := range types {
		all[i] = *base.DeepCopy()
		all[i].Type = types[i]
	}
	return all
}

func (t *translation) ciliumAttributes(a *fields) *v1alpha1.BGPAttributes {
	in := a.object("attributes")
	var out v1alpha1.BGPAttributes
	if in.has("localPreference") {
		out.LocalPreference = new(in.number("localPreference", 0, 1<<32-1))
	}
	communities := &v1alpha1.BGPCommunities{}
	for _, name := range []string{"communities", "community"} { // v2, v2alpha1
		t.ciliumCommunities(in.object(name), communities)
	}
	if len(communities.Standard)+len(communities.WellKnown)+len(communities.Large) > 0 {
		out.Communities = communities
	}
	if out == (v1alpha1.BGPAttributes{}) {
		return nil
	}
	return &out
}

func (t *translation) ciliumCommunities(in *fields, out *v1alpha1.BGPCommunities) {
	for i, text := range in.texts("standard") {
		if n, err := strconv.ParseUint(text, 10, 32); err == nil {
			text = fmt.Sprintf("%d:%d", n>>16, n&0xffff)
		}
		if !addCommunity(out, text) {
			t.fatal(fmt.Sprintf("%s[%d]", in.at("standard"), i), "write one such as 65000:100", "%q is no community", text)
		}
	}
	for _, name := range in.texts("wellKnown") {
		out.WellKnown = append(out.WellKnown, v1alpha1.WellKnownCommunity(name))
	}
	for i, text := range in.texts("large") {
		if !addCommunity(out, "large:"+text) {
			t.fatal(fmt.Sprintf("%s[%d]", in.at("large"), i), "write one such as 65000:1:2", "%q is no large community", text)
		}
	}
}
