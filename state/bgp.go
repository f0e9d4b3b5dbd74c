package state

import (
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPInstance is a BGPInstance as written.
type BGPInstance struct {
	Name         string
	Origin       ObjectRef
	NodeSelector *metav1.LabelSelector
	BGPIdentity
	// Overrides of single nodes, by name: what is zero there is as above.
	Overrides map[string]BGPIdentity
}

// BGPIdentity is who a speaker is.
type BGPIdentity struct {
	ASN uint32
	// RouterID is the BGP Identifier; the zero Addr: made from the node.
	RouterID netip.Addr
	// ListenPort for peers that connect; 0: none may.
	ListenPort uint16
}

// RowKey of a BGPInstance is its name.
func (i BGPInstance) RowKey() string { return i.Name }

// BGPPeer is a BGPPeer as written.
type BGPPeer struct {
	Name   string
	Origin ObjectRef
	Labels map[string]string
	// Instances that it belongs to; none: all. NodeSelectors, of which a node
	// matches any; none: all nodes of the instances.
	Instances     []string
	NodeSelectors []metav1.LabelSelector

	// Exactly one of these says where the peer is: its address, an interface
	// (unnumbered), or the family of the default route whose gateway it is.
	Remote     netip.Addr
	Interface  string
	GatewayOf  string // "ipv4" or "ipv6"
	RemotePort uint16
	ASN        BGPPeerASN
	// Source of the sessions, or the interface whose address it is, or, by node, another.
	Source          netip.Addr
	SourceInterface string
	Sources         map[string]netip.Addr
	BGPSessionConfig
	// PasswordSecret holds the password of TCP MD5 (RFC 2385), or PasswordFile does.
	PasswordSecret ObjectName
	PasswordFile   string
	// BFDProfile is the name of the profile of the BFD session beside; "": none.
	BFDProfile string
	// Families that are exchanged, with the advertisements that go to them.
	Families []BGPPeerFamily
	// Import are the prefixes that are taken from it; none: none.
	Import []BGPImport
}

// Secret is a Secret, as far as BGPPeers may name it.
type Secret struct {
	Name ObjectName
	// Password is the last one that could be read of it, "" for none so far. It
	// is in no output.
	Password string `json:"-"`
	// Invalid says why the Secret does not hold Password any more, or holds none,
	// and Cure what to do; "": it does.
	Invalid, Cure string
}

// ForeignObject is an object of another project that has no rows of its own: it
// says more of others, which have.
type ForeignObject struct{ Object ObjectRef }

// RowKey of a ForeignObject is its object, with the group.
func (o ForeignObject) RowKey() string { return o.Object.Group + "/" + o.Object.String() }

// MaxPassword is how long a password of TCP MD5 may be, in bytes (TCP_MD5SIG_MAXKEYLEN).
const MaxPassword = 80

// RowKey of a Secret is its name.
func (s Secret) RowKey() string { return s.Name.String() }

// BGPPeerASN is the AS number that a peer has to have.
type BGPPeerASN struct {
	// Number; 0: Mode says which may be.
	Number uint32
	// Mode is "Internal", "External" or "Any".
	Mode string
}

// BGPSessionConfig is how a session is kept.
type BGPSessionConfig struct {
	ConnectRetry, Hold time.Duration
	// KeepAlive; 0: a third of the hold time agreed on.
	KeepAlive time.Duration
	// Multihop is the TTL towards an external peer; 0: 1.
	Multihop uint8
	// TTLSecurity is how many hops away the peer may be by GTSM (RFC 5082); 0: no GTSM.
	TTLSecurity uint8
	Passive     bool
	// GracefulRestart (RFC 4724) and how long the peer keeps the routes; 0: not offered.
	GracefulRestart time.Duration
	// AllowASIn is how often the own AS number may be in the path of what is received.
	AllowASIn uint8
}

// BGPPeerFamily is an address family of a peer.
type BGPPeerFamily struct {
	IPv6 bool
	// Advertisements that the peer gets in it, by their labels; nil: all.
	Advertisements *metav1.LabelSelector
	// MaxPrefixes that the peer may send; 0: any number.
	MaxPrefixes uint32
}

// RowKey of a BGPPeer is its name.
func (p BGPPeer) RowKey() string { return p.Name }

// BGPAdvertisement is a BGPAdvertisement as written.
type BGPAdvertisement struct {
	Name   string
	Origin ObjectRef
	Labels map[string]string
	// Peers by name or label; both absent: all. Nodes that match any selector; none: all.
	Peers         []string
	PeerSelector  *metav1.LabelSelector
	NodeSelectors []metav1.LabelSelector
	Addresses     []BGPAddresses
}

// BGPAddresses are addresses of one kind that are advertised.
type BGPAddresses struct {
	Kind            FrontendKind // KindLoadBalancer, KindExternalIP or KindClusterIP; "": the node's pod CIDRs
	ServiceSelector *metav1.LabelSelector
	// Pools (by Pool.Called) and PoolSelector limit those of KindLoadBalancer; both absent: any pool.
	Pools        []string
	PoolSelector *metav1.LabelSelector
	// Aggregate4 and Aggregate6 are the lengths of the prefixes that are advertised
	// in place of the addresses; 0: the addresses.
	Aggregate4, Aggregate6 uint8
	Attributes             BGPAttributes
}

// BGPAttributes are the path attributes of a route.
type BGPAttributes struct {
	// Communities are standard ones (RFC 1997), high half first; Large those of
	// RFC 8092. Sorted.
	Communities []uint32
	Large       [][3]uint32
	// LocalPref for internal peers, and MED; nil: none.
	LocalPref, MED *uint32
	// Prepend is how many times more the own AS number stands in the path.
	Prepend uint8
}

// Equal compares attributes.
func (a BGPAttributes) Equal(b BGPAttributes) bool {
	same := func(x, y *uint32) bool { return (x == nil) == (y == nil) && (x == nil || *x == *y) }
	return slices.Equal(a.Communities, b.Communities) && slices.Equal(a.Large, b.Large) &&
		same(a.LocalPref, b.LocalPref) && same(a.MED, b.MED) && a.Prepend == b.Prepend
}

// RowKey of a BGPAdvertisement is its name.
func (a BGPAdvertisement) RowKey() string { return a.Name }

// BGPSpeaker is a BGP instance that this node runs.
type BGPSpeaker struct {
	Instance string
	BGPIdentity
	Status Status
}

// RowKey of a BGPSpeaker is its instance.
func (s BGPSpeaker) RowKey() string { return s.Instance }

// RowStatus and WithStatus make a BGPSpeaker reconcilable.
func (s BGPSpeaker) RowStatus() Status { return s.Status }

// WithStatus returns s with its status replaced.
func (s BGPSpeaker) WithStatus(t Status) BGPSpeaker { s.Status = t; return s }

// SameSpec compares everything but the status.
func (s BGPSpeaker) SameSpec(t BGPSpeaker) bool {
	return s.Instance == t.Instance && s.BGPIdentity == t.BGPIdentity
}

// BGPSession is a session that an instance on this node is to have with a peer.
type BGPSession struct {
	Instance string
	// Peer is the BGPPeer's name, unique within the instance.
	Peer string
	// Remote is the peer's address, with its zone if it is link-local; the zero
	// Addr with Interface: whoever sends router advertisements there.
	Remote     netip.Addr
	Interface  string
	RemotePort uint16
	ASN        BGPPeerASN
	// Source; the zero Addr: as routes give it.
	Source netip.Addr
	BGPSessionConfig
	// Password of TCP MD5, "" for none. It is in no output.
	Password string `json:"-"`
	IPv4     bool
	IPv6     bool
	// NextHop6 of IPv6 routes in a session over IPv4; the zero Addr: this end of the session.
	NextHop6 netip.Addr
	// MaxPrefixes that it may send, of each family; 0: any number.
	MaxPrefixes4, MaxPrefixes6 uint32
	// BFD session beside it.
	BFD BFDConfig
	// Bar is why the node cannot have it, with what can be done; "": it can.
	Bar    string
	Status Status
}

// RowKey of a BGPSession is instance/peer.
func (s BGPSession) RowKey() string { return s.Instance + "/" + s.Peer }

// RowStatus and WithStatus make a BGPSession reconcilable.
func (s BGPSession) RowStatus() Status { return s.Status }

// WithStatus returns s with its status replaced.
func (s BGPSession) WithStatus(t Status) BGPSession { s.Status = t; return s }

// SameSpec compares everything but the status.
func (s BGPSession) SameSpec(t BGPSession) bool {
	s.Status, t.Status = Status{}, Status{}
	return s == t
}

// BGPRoute is a prefix that an instance on this node advertises.
type BGPRoute struct {
	Instance string
	Prefix   netip.Prefix
	// Offers say who gets it, and how. No peer is in two of them.
	Offers []BGPOffer
	// Addrs of Services for which it is advertised, sorted; none: pods.
	Addrs  []netip.Addr
	Status Status
}

// BGPOffer is a route as some peers get it.
type BGPOffer struct {
	// Advertisement that says so.
	Advertisement string
	// Peers, sorted.
	Peers []string
	BGPAttributes
}

// Equal compares offers.
func (o BGPOffer) Equal(p BGPOffer) bool {
	return o.Advertisement == p.Advertisement && slices.Equal(o.Peers, p.Peers) && o.BGPAttributes.Equal(p.BGPAttributes)
}

// OfPods says whether the prefix is one of the node's pods, and of no Service. It stays
// when the node leaves: its pods do.
func (r BGPRoute) OfPods() bool { return len(r.Addrs) == 0 }

// Aggregate says whether the prefix is one that holds addresses of Services.
func (r BGPRoute) Aggregate() bool { return !r.Prefix.IsSingleIP() && len(r.Addrs) > 0 }

// RowKey of a BGPRoute is instance/prefix.
func (r BGPRoute) RowKey() string { return r.Instance + "/" + r.Prefix.String() }

// RowStatus and WithStatus make a BGPRoute reconcilable.
func (r BGPRoute) RowStatus() Status { return r.Status }

// WithStatus returns r with its status replaced.
func (r BGPRoute) WithStatus(s Status) BGPRoute { r.Status = s; return r }

// SameSpec compares everything but the status. Addrs too: a route is held until
// all of them are served.
func (r BGPRoute) SameSpec(s BGPRoute) bool {
	return r.Instance == s.Instance && r.Prefix == s.Prefix && slices.EqualFunc(r.Offers, s.Offers, BGPOffer.Equal) &&
		slices.Equal(r.Addrs, s.Addrs)
}

// BGPSessionState is how a BGPSession stands, written by its target.
type BGPSessionState struct {
	Instance, Peer string
	Remote         netip.Addr
	// Local is this end's address, as the session has it or the node's routes give
	// it; the zero Addr while there is none.
	Local netip.Addr
	ASN   uint32
	// State is that of RFC 4271 §8.2.2, such as "Established".
	State string
	// WasEstablished: it has been since it was begun with this peer.
	WasEstablished bool
	// Since it has been in State (wall clock; for people).
	Since time.Time
	// Flaps is how often it was established, and is not any more.
	Flaps int
	// LastError is why it last ended, in words, and when that was (wall clock; the
	// zero Time: it is so now); "": it has not.
	LastError string
	ErrorAt   time.Time
	// BFD is how the BFD session beside it stands (a BFDPhase), "" without one.
	BFD string
	// Told: the peer has sent all that it had (End-of-RIB, RFC 4724 §2).
	Told bool
	// IPv4 and IPv6: both ends exchange routes of it. None, while not established.
	IPv4, IPv6 bool
	// Received from the peer, accepted, and advertised to it: prefixes of all families.
	Received, Accepted, Advertised int
	// UPDATEs received and sent since it was begun with this peer.
	UpdatesReceived, UpdatesSent uint64
}

// Exchanges says whether routes of an address's family are exchanged.
func (s BGPSessionState) Exchanges(a netip.Addr) bool { return s.IPv4 && a.Is4() || s.IPv6 && a.Is6() }

// BGPPeerStatus is what the coordinator has to say of the sessions with a BGPPeer.
type BGPPeerStatus struct {
	Peer string
	// Sessions that there should be on all nodes, and how many are established.
	Sessions, Established int
	// Reason is Established, or why not all are.
	Reason  Reason
	Message string
	Status  Status
}

// RowKey of a BGPPeerStatus is its BGPPeer's name.
func (s BGPPeerStatus) RowKey() string { return s.Peer }

// RowStatus and WithStatus make a BGPPeerStatus reconcilable.
func (s BGPPeerStatus) RowStatus() Status { return s.Status }

// WithStatus returns s with its status replaced.
func (s BGPPeerStatus) WithStatus(t Status) BGPPeerStatus { s.Status = t; return s }

// SameSpec compares everything but the status.
func (s BGPPeerStatus) SameSpec(t BGPPeerStatus) bool {
	s.Status, t.Status = Status{}, Status{}
	return s == t
}

// BGPEstablished is the State of a session that routes go over.
const BGPEstablished = "Established"

// RowKey of a BGPSessionState is its BGPSession's.
func (s BGPSessionState) RowKey() string { return s.Instance + "/" + s.Peer }
