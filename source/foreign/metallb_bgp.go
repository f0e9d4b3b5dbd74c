package foreign

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"k8s.io/apimachinery/pkg/runtime"
)

// maxASN is the highest AS number there is (RFC 6793).
const maxASN = 1<<32 - 1

// metallbPeer makes a BGPInstance besides the BGPPeer: MetalLB writes the
// speaker's own AS number on each peer. Peers that agree on it make the same.
func (t *translation) metallbPeer() []runtime.Object {
	spec := t.spec()
	instance := &v1alpha1.BGPInstance{TypeMeta: typeMeta("BGPInstance"), Spec: v1alpha1.BGPInstanceSpec{
		LocalASN: v1alpha1.ASN(spec.number("myASN", 0, maxASN)),
		RouterID: v1alpha1.RouterID(spec.text("routerID")),
	}}
	if instance.Spec.LocalASN == 0 {
		t.fatal(spec.at("myASN"), "write the AS number of the nodes", "is missing")
	}
	instance.Name = fmt.Sprintf("as%d", instance.Spec.LocalASN)
	if id := string(instance.Spec.RouterID); id != "" {
		t.checkRouterID(spec.at("routerID"), id)
		instance.Name += "-" + id
	}
	peer := &v1alpha1.BGPPeer{TypeMeta: typeMeta("BGPPeer"), ObjectMeta: t.meta(t.obj.GetName()), Spec: v1alpha1.BGPPeerSpec{
		Instances:     []string{instance.Name},
		NodeSelectors: spec.selectors("nodeSelectors"),
		PeerAddress:   v1alpha1.PeerAddress(spec.text("peerAddress")),
		Interface:     v1alpha1.InterfaceName(spec.text("interface")),
		PeerASN:       v1alpha1.ASN(spec.number("peerASN", 0, maxASN)),
		PeerPort:      int32(spec.number("peerPort", 0, 65535)),
		SourceAddress: v1alpha1.IPAddress(spec.text("sourceAddress")),
		BFDProfile:    spec.text("bfdProfile"),
		Timers:        t.metallbTimers(spec),
	}}
	out := &peer.Spec
	t.checkPeerEnds(spec, out)
	switch mode := spec.oneOf("dynamicASN", "internal", "external"); {
	case (out.PeerASN == 0) == (mode == ""):
		t.fatal(spec.at("peerASN"), "write one of peerASN and dynamicASN", "is missing, or there beside dynamicASN")
	case mode == "internal":
		out.PeerASNMode = v1alpha1.PeerASNInternal
	case mode == "external":
		out.PeerASNMode = v1alpha1.PeerASNExternal
	}
	if spec.flag("ebgpMultiHop") {
		switch {
		case out.PeerASN == instance.Spec.LocalASN || out.PeerASNMode == v1alpha1.PeerASNInternal:
			t.fatal(spec.at("ebgpMultiHop"), "remove it", "is for external peers")
		case out.PeerAddress == "":
			t.fatal(spec.at("ebgpMultiHop"), "remove it", "goes with peerAddress: what interface finds is one hop away")
		default:
			out.EBGPMultihop = 255 // FRR's without a number
		}
	}
	if spec.flag("enableGracefulRestart") {
		out.GracefulRestart = &v1alpha1.BGPGracefulRestart{Enabled: true}
	}
	t.metallbPassword(spec, out)
	t.metallbFamilies(spec, out)
	if vrf := spec.text("vrf"); vrf != "" {
		t.fatal(spec.at("vrf"), "have the session in the node's main routing table, or leave it to MetalLB", "%q: Seamark's sessions are in no VRF", vrf)
	}
	return []runtime.Object{instance, peer}
}

// checkPeerEnds checks the addresses that the two ends of the sessions have.
func (t *translation) checkPeerEnds(spec *fields, peer *v1alpha1.BGPPeerSpec) {
	if (peer.PeerAddress == "") == (peer.Interface == "") {
		t.fatal(spec.at("peerAddress"), "write one of peerAddress and interface", "is missing, or there beside interface")
	}
	if a := string(peer.PeerAddress); a != "" {
		t.checkPeerAddr(spec.at("peerAddress"), a)
	}
	if a := string(peer.SourceAddress); a != "" {
		t.checkAddr(spec.at("sourceAddress"), a)
	}
}

func (t *translation) checkPeerAddr(path, text string) {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil || addr.Is4In6():
		t.fatal(path, "write an address such as 192.168.10.200 or fd00:10::1", "%q is no IP address", text)
	case addr.Is6() && addr.IsLinkLocalUnicast() && addr.Zone() == "":
		t.fatal(path, "write the interface after it, as in fe80::1%eth1", "%s is on every interface", text)
	}
}

func (t *translation) checkRouterID(path, text string) {
	if addr, err := netip.ParseAddr(text); err != nil || !addr.Is4() || addr.IsUnspecified() {
		t.fatal(path, "write it as an IPv4 address, such as 192.168.10.101", "%q is no router ID", text)
	}
}

func (t *translation) metallbTimers(spec *fields) *v1alpha1.BGPTimers {
	if !spec.has("holdTime") && !spec.has("keepaliveTime") && !spec.has("connectTime") {
		return nil
	}
	timers := &v1alpha1.BGPTimers{}
	hold, keepalive := spec.duration("holdTime"), spec.duration("keepaliveTime")
	if spec.has("holdTime") || spec.has("keepaliveTime") {
		if !spec.has("holdTime") {
			hold = 3 * keepalive // as MetalLB does
		}
		timers.HoldTimeSeconds = t.seconds(spec.at("holdTime"), hold, 0, 65535)
		if s := *timers.HoldTimeSeconds; s == 1 || s == 2 {
			t.fatal(spec.at("holdTime"), "write 0s, or 3s or more (RFC 4271 section 4.2)", "%s is too short", hold)
		}
	}
	switch {
	case keepalive == 0:
	case keepalive < hold:
		timers.KeepAliveTimeSeconds = t.seconds(spec.at("keepaliveTime"), keepalive, 1, 65535)
	default:
		t.unhonoured(spec.at("keepaliveTime"), "write a third of holdTime", "%s is not less than holdTime: a third of that is used", keepalive)
	}
	if d := spec.duration("connectTime"); d > 0 {
		timers.ConnectRetryTimeSeconds = t.seconds(spec.at("connectTime"), d, 1, 65535)
	}
	return timers
}

// seconds rounds down, into bounds.
func (t *translation) seconds(path string, d time.Duration, least, most int64) *int32 {
	s := min(max(int64(d/time.Second), least), most)
	if time.Duration(s)*time.Second != d {
		t.unhonoured(path, "write whole seconds", "%s counts as %ds", d, s)
	}
	return new(int32(s))
}

func (t *translation) metallbPassword(spec *fields, peer *v1alpha1.BGPPeerSpec) {
	if spec.text("password") != "" {
		t.unhonoured(spec.at("password"), "put it into a Secret of namespace seamark-system, with the key password, and name that in passwordSecret",
			"passwords are read from Secrets alone: the sessions have none")
	}
	secret := spec.object("passwordSecret")
	name, namespace := secret.text("name"), secret.text("namespace")
	if name == "" {
		return
	}
	if namespace == "" {
		namespace = t.obj.GetNamespace()
	}
	peer.PasswordSecretRef = &v1alpha1.SecretReference{Name: name, Namespace: namespace}
	if namespace != secretNamespace {
		t.unresolved(secret.at("name"), "let the daemon read it (a Role and RoleBinding there), or copy it to "+secretNamespace,
			"the daemon may read Secrets of namespace %s alone", secretNamespace)
	}
}

// secretNamespace is where the daemon may read Secrets.
const secretNamespace = "seamark-system"

// metallbFamilies: a session carries the routes of its own family alone,
// unless the peer says otherwise. An unnumbered one carries both.
func (t *translation) metallbFamilies(spec *fields, peer *v1alpha1.BGPPeerSpec) {
	both, disableMP := spec.flag("dualStackAddressFamily"), spec.flag("disableMP")
	if both && disableMP {
		t.fatal(spec.at("disableMP"), "remove one of the two", "contradicts dualStackAddressFamily")
	}
	addr, err := netip.ParseAddr(string(peer.PeerAddress))
	if both || err != nil {
		return
	}
	family := v1alpha1.BGPFamily{AFI: "ipv6", SAFI: "unicast"}
	if addr.Is4() {
		family.AFI = "ipv4"
	}
	peer.Families = []v1alpha1.BGPFamily{family}
}

func (t *translation) metallbAdvertisement() []runtime.Object {
	spec := t.spec()
	base := v1alpha1.Advertisement{
		Type:                  v1alpha1.AdvertiseLoadBalancer,
		AggregationLengthIPv4: int32(spec.number("aggregationLength", 1, 32)),
		AggregationLengthIPv6: int32(spec.number("aggregationLengthV6", 1, 128)),
	}
	var attributes v1alpha1.BGPAttributes
	if preference := spec.number("localPref", 0, 1<<32-1); preference != 0 {
		attributes.LocalPreference = &preference
	}
	if communities := t.metallbCommunities(spec); communities != nil {
		attributes.Communities = communities
	}
	if attributes != (v1alpha1.BGPAttributes{}) {
		base.Attributes = &attributes
	}
	out := &v1alpha1.BGPAdvertisement{TypeMeta: typeMeta("BGPAdvertisement"), ObjectMeta: t.meta(t.obj.GetName()), Spec: v1alpha1.BGPAdvertisementSpec{
		Peers:         spec.texts("peers"),
		NodeSelectors: spec.selectors("nodeSelectors"),
	}}
	for _, choice := range t.poolChoices(spec) {
		advertisement := *base.DeepCopy()
		advertisement.Pools, advertisement.PoolSelector = choice.names, choice.selector
		out.Spec.Advertisements = append(out.Spec.Advertisements, advertisement)
	}
	return []runtime.Object{out}
}

// metallbCommunities reads communities, and names of them that the Community
// objects explain; nil when there are none.
func (t *translation) metallbCommunities(spec *fields) *v1alpha1.BGPCommunities {
	aliases := map[string]string{}
	for _, other := range t.named(MetalLB, "Community", "") {
		for name, value := range newTranslation(other, nil).metallbCommunity() {
			aliases[name] = value
		}
	}
	var out v1alpha1.BGPCommunities
	texts := spec.texts("communities")
	for i, text := range texts {
		path := fmt.Sprintf("%s[%d]", spec.at("communities"), i)
		value := text
		if v, ok := aliases[text]; ok {
			value = v
		}
		switch {
		case addCommunity(&out, value):
		case strings.Contains(value, ":"):
			t.fatal(path, communityCure, "%q is no community", text)
		default:
			t.unresolved(path, "add the Community object that does, or write numbers", "%q is no community, and no Community object explains it", text)
		}
	}
	if len(out.Standard)+len(out.Large) == 0 {
		return nil
	}
	return &out
}

const communityCure = "write one such as 65000:100, or large:65000:1:2"

// addCommunity adds a community in MetalLB's notation, if it is one.
func addCommunity(out *v1alpha1.BGPCommunities, text string) bool {
	if large, ok := strings.CutPrefix(text, "large:"); ok {
		if !numbersWithColons(large, 3, 32) {
			return false
		}
		if c := v1alpha1.LargeCommunity(large); !slices.Contains(out.Large, c) {
			out.Large = append(out.Large, c)
		}
		return true
	}
	if !numbersWithColons(text, 2, 16) {
		return false
	}
	if c := v1alpha1.StandardCommunity(text); !slices.Contains(out.Standard, c) {
		out.Standard = append(out.Standard, c)
	}
	return true
}

// numbersWithColons says whether text is that many numbers of so many bits,
// with colons between them.
func numbersWithColons(text string, count, bits int) bool {
	numbers := strings.Split(text, ":")
	return len(numbers) == count && !slices.ContainsFunc(numbers, func(n string) bool {
		_, err := strconv.ParseUint(n, 10, bits)
		return err != nil
	})
}

// metallbCommunity returns the communities that names stand for.
func (t *translation) metallbCommunity() map[string]string {
	aliases := map[string]string{}
	for _, c := range t.spec().objects("communities") {
		name, value := c.text("name"), c.text("value")
		switch {
		case name == "":
			t.fatal(c.at("name"), "name it", "is missing")
		case !addCommunity(&v1alpha1.BGPCommunities{}, value):
			t.fatal(c.at("value"), communityCure, "%q is no community", value)
		case aliases[name] != "":
			t.fatal(c.at("name"), "remove one", "%q is there twice", name)
		}
		aliases[name] = value
	}
	return aliases
}

func (t *translation) metallbBFDProfile() []runtime.Object {
	spec := t.spec()
	out := &v1alpha1.BFDProfile{TypeMeta: typeMeta("BFDProfile"), ObjectMeta: t.meta(t.obj.GetName()), Spec: v1alpha1.BFDProfileSpec{
		ReceiveInterval:  int32(spec.number("receiveInterval", 10, 60000)),
		TransmitInterval: int32(spec.number("transmitInterval", 10, 60000)),
		DetectMultiplier: int32(spec.number("detectMultiplier", 2, 255)),
		PassiveMode:      spec.flag("passiveMode"),
		MinimumTTL:       int32(spec.number("minimumTtl", 1, 254)),
	}}
	if spec.flag("echoMode") {
		t.unhonoured(spec.at("echoMode"), "remove it: lower receiveInterval and transmitInterval instead", "Seamark's BFD sessions have no echo function")
	}
	if spec.number("echoInterval", 10, 60000) != 0 {
		t.unhonoured(spec.at("echoInterval"), "remove it", "Seamark's BFD sessions have no echo function")
	}
	return []runtime.Object{out}
}
