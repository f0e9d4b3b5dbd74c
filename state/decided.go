package state

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Allocation is what LB-IPAM decided for one Service: its addresses, or why it has none.
type Allocation struct {
	Service ObjectName
	UID     string
	Addrs   []netip.Addr
	// Pool each address came from, in the order of Addrs.
	Pools []string
	// Lost are addresses that no pool held any longer. While the Service has no
	// other of the family, and a pool holds one again, it is given that one.
	Lost []netip.Addr
	// Reason is Satisfied, or why not; Message says what to do.
	Reason  Reason
	Message string
	Status  Status
}

// RowKey of an Allocation is its Service's name.
func (a Allocation) RowKey() string { return a.Service.String() }

// RowStatus and WithStatus make an Allocation reconcilable.
func (a Allocation) RowStatus() Status { return a.Status }

// WithStatus returns a with its status replaced.
func (a Allocation) WithStatus(s Status) Allocation { a.Status = s; return a }

// SameSpec compares everything but the status.
func (a Allocation) SameSpec(b Allocation) bool {
	return a.Service == b.Service && a.UID == b.UID && slices.Equal(a.Addrs, b.Addrs) &&
		slices.Equal(a.Pools, b.Pools) && slices.Equal(a.Lost, b.Lost) && a.Reason == b.Reason && a.Message == b.Message
}

// PoolStatus is what LB-IPAM has to say of one Pool. The counts are decimal
// strings, since IPv6 blocks exceed 64 bits.
type PoolStatus struct {
	Pool                   string
	Total, Available, Used string
	// Conflict names the older pool and the range shared with it; "" when none.
	Conflict string
	// Invalid as in Pool.
	Invalid string
	Status  Status
}

// RowKey of a PoolStatus is its Pool's name.
func (p PoolStatus) RowKey() string { return p.Pool }

// RowStatus and WithStatus make a PoolStatus reconcilable.
func (p PoolStatus) RowStatus() Status { return p.Status }

// WithStatus returns p with its status replaced.
func (p PoolStatus) WithStatus(s Status) PoolStatus { p.Status = s; return p }

// SameSpec compares everything but the status.
func (p PoolStatus) SameSpec(q PoolStatus) bool {
	p.Status, q.Status = Status{}, Status{}
	return p == q
}

// PolicyStatus is what the coordinator has to say of one L2Policy.
type PolicyStatus struct {
	Policy string
	// Problem is what keeps the policy from doing what it says, with the
	// field and the cure; "" when nothing does.
	Problem string
	Status  Status
}

// RowKey of a PolicyStatus is its L2Policy's name.
func (p PolicyStatus) RowKey() string { return p.Policy }

// RowStatus and WithStatus make a PolicyStatus reconcilable.
func (p PolicyStatus) RowStatus() Status { return p.Status }

// WithStatus returns p with its status replaced.
func (p PolicyStatus) WithStatus(s Status) PolicyStatus { p.Status = s; return p }

// SameSpec compares everything but the status.
func (p PolicyStatus) SameSpec(q PolicyStatus) bool {
	return p.Policy == q.Policy && p.Problem == q.Problem
}

// AnnouncedStatus is what the coordinator has to say of how a Service's addresses
// are announced.
type AnnouncedStatus struct {
	Service ObjectName
	UID     string
	// Reason is Announced, or why an address is not; "": there is nothing to say,
	// and what was said once is to go.
	Reason  Reason
	Message string
	Status  Status
}

// RowKey of an AnnouncedStatus is its Service's name.
func (a AnnouncedStatus) RowKey() string { return a.Service.String() }

// RowStatus and WithStatus make an AnnouncedStatus reconcilable.
func (a AnnouncedStatus) RowStatus() Status { return a.Status }

// WithStatus returns a with its status replaced.
func (a AnnouncedStatus) WithStatus(s Status) AnnouncedStatus { a.Status = s; return a }

// SameSpec compares everything but the status.
func (a AnnouncedStatus) SameSpec(b AnnouncedStatus) bool {
	a.Status, b.Status = Status{}, Status{}
	return a == b
}

// ObjectStatus is what the coordinator has to say of an object of a kind that
// has no status row of its own: whether it is in force, and what of it cannot be honoured.
type ObjectStatus struct {
	Object ObjectRef
	// Problem names the fields and the cures; "" when there is none.
	Problem string
	// InForce: but for the Problem, the object does what it says.
	InForce bool
	// Of a CiliumBGPClusterConfig: no node has it, and which of the configurations
	// that its peers name are not there.
	NoNode         bool
	MissingConfigs string
	Status         Status
}

// RowKey of an ObjectStatus is its object, with the group.
func (o ObjectStatus) RowKey() string { return o.Object.Group + "/" + o.Object.String() }

// RowStatus and WithStatus make an ObjectStatus reconcilable.
func (o ObjectStatus) RowStatus() Status { return o.Status }

// WithStatus returns o with its status replaced.
func (o ObjectStatus) WithStatus(s Status) ObjectStatus { o.Status = s; return o }

// SameSpec compares everything but the status.
func (o ObjectStatus) SameSpec(p ObjectStatus) bool {
	o.Status, p.Status = Status{}, Status{}
	return o == p
}

// Assignment is the coordinator's decision for one address, as the
// AnnouncementSlices hold it.
type Assignment struct {
	Addr    netip.Addr
	Service ObjectName
	// Node that announces; "": nobody may, and Reason says why.
	Node       string
	Interfaces []string
	// Since the node has held it (the coordinator's wall clock; for people).
	Since time.Time
	// Generation rises by one each time the address changes hands.
	Generation int64
	Reason     Reason
	Previous   string
	Status     Status
}

// RowKey of an Assignment is its address.
func (a Assignment) RowKey() string { return a.Addr.String() }

// RowStatus and WithStatus make an Assignment reconcilable.
func (a Assignment) RowStatus() Status { return a.Status }

// WithStatus returns a with its status replaced.
func (a Assignment) WithStatus(s Status) Assignment { a.Status = s; return a }

// SameSpec compares everything but the status.
func (a Assignment) SameSpec(b Assignment) bool {
	return a.Addr == b.Addr && a.Service == b.Service && a.Node == b.Node &&
		slices.Equal(a.Interfaces, b.Interfaces) && a.Since.Equal(b.Since) &&
		a.Generation == b.Generation && a.Reason == b.Reason && a.Previous == b.Previous
}

// Frontend is one address:port that this node serves, and its backends.
type Frontend struct {
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
	Service  ObjectName
	PortName string
	Kind     FrontendKind
	// Backends sorted by address and port: the ready ones, or, when none is,
	// those that terminate but still serve. With externalTrafficPolicy Local
	// only those of this node.
	Backends []Backend
	// Inside are the backends for connections of this node's own pods, by
	// internalTrafficPolicy and topology.
	Inside []Backend
	// Draining backends are in neither and keep the flows they have (KEP-1669).
	Draining []Backend
	// Forwarding and Dispatch are how packets reach backends on other nodes.
	Forwarding Forwarding
	Dispatch   Dispatch
	// Affinity is how long a client keeps its backend after its last
	// connection; 0: each connection is balanced by itself.
	Affinity time.Duration
	// Sources are the prefixes of clients that are let in from outside; nil: any.
	Sources []netip.Prefix
	// TableSize is the number of slots of the Maglev table, a prime; 0: by the
	// number of backends.
	TableSize uint32
	// Exposed: a ClusterIP that is served to packets from outside, too, since it is
	// advertised to routers. They go to the Inside backends.
	Exposed bool
	// Refuse: what has no backend is answered (TCP RST, ICMP port
	// unreachable), not dropped in silence.
	Refuse bool
	Status Status
}

// FrontendKind says where a frontend's address comes from.
type FrontendKind string

// The kinds of frontend. A ClusterIP is served to pods of this node only, unless it
// is Exposed.
const (
	KindLoadBalancer FrontendKind = "LoadBalancer"
	KindExternalIP   FrontendKind = "ExternalIP"
	KindNodePort     FrontendKind = "NodePort"
	KindClusterIP    FrontendKind = "ClusterIP"
	KindHostPort     FrontendKind = "HostPort"
)

// Forwarding is how packets reach a backend on another node, and how its
// answers come back.
type Forwarding string

// The forwardings. (hybrid is DSR for TCP and SNAT for UDP: decided per port.)
const (
	ForwardDSR  Forwarding = "dsr"  // the client's packet as it is, in a tunnel; the answer goes straight to the client
	ForwardSNAT Forwarding = "snat" // translated to come from this node; the answer comes back here
	// Not by Seamark: kube-proxy, or whoever stands in for it, has the packets from outside.
	ForwardKubeProxy Forwarding = "kube-proxy"
)

// Dispatch is the tunnel of DSR.
type Dispatch string

// The dispatches.
const (
	DispatchIPIP   Dispatch = "ipip"   // to the pod's address, which the network between nodes must know
	DispatchGeneve Dispatch = "geneve" // to the node's address
)

// RowKey of a Frontend is addr:port/protocol.
func (f Frontend) RowKey() string {
	key := netip.AddrPortFrom(f.Addr, f.Port).AppendTo(make([]byte, 0, 64))
	return string(append(append(key, '/'), f.Protocol.String()...))
}

// RowStatus and WithStatus make a Frontend reconcilable.
func (f Frontend) RowStatus() Status { return f.Status }

// WithStatus returns f with its status replaced.
func (f Frontend) WithStatus(s Status) Frontend { f.Status = s; return f }

// SameSpec compares everything but the status.
func (f Frontend) SameSpec(g Frontend) bool {
	return f.Addr == g.Addr && f.Port == g.Port && f.Protocol == g.Protocol && f.Service == g.Service &&
		f.PortName == g.PortName && f.Kind == g.Kind && f.Forwarding == g.Forwarding && f.Dispatch == g.Dispatch &&
		f.Affinity == g.Affinity && f.TableSize == g.TableSize && f.Refuse == g.Refuse && f.Exposed == g.Exposed &&
		slices.Equal(f.Backends, g.Backends) && slices.Equal(f.Inside, g.Inside) &&
		slices.Equal(f.Draining, g.Draining) && (f.Sources == nil) == (g.Sources == nil) && slices.Equal(f.Sources, g.Sources)
}

// HealthCheck is a port of this node on which load balancers in front of the
// cluster ask whether a Service has a backend here (spec.healthCheckNodePort).
type HealthCheck struct {
	Service ObjectName
	Port    uint16
	// Local is how many ready backends of the Service run on this node.
	Local  int
	Status Status
}

// RowKey of a HealthCheck is its port: who has one, has it on every node.
func (h HealthCheck) RowKey() string { return strconv.Itoa(int(h.Port)) }

// RowStatus and WithStatus make a HealthCheck reconcilable.
func (h HealthCheck) RowStatus() Status { return h.Status }

// WithStatus returns h with its status replaced.
func (h HealthCheck) WithStatus(s Status) HealthCheck { h.Status = s; return h }

// SameSpec compares everything but the status.
func (h HealthCheck) SameSpec(i HealthCheck) bool {
	h.Status, i.Status = Status{}, Status{}
	return h == i
}

// Announcement is an address that this node answers ARP/NDP for, on one interface.
type Announcement struct {
	Addr       netip.Addr
	Interface  string
	Service    ObjectName
	Generation int64
	// Index and MAC of the interface: one that has others is announced on anew.
	Index  int
	MAC    string
	Status Status
}

// RowKey of an Announcement is addr@interface.
func (a Announcement) RowKey() string { return a.Addr.String() + "@" + a.Interface }

// RowStatus and WithStatus make an Announcement reconcilable.
func (a Announcement) RowStatus() Status { return a.Status }

// WithStatus returns a with its status replaced.
func (a Announcement) WithStatus(s Status) Announcement { a.Status = s; return a }

// SameSpec compares everything but the status.
func (a Announcement) SameSpec(b Announcement) bool {
	a.Status, b.Status = Status{}, Status{}
	return a == b
}

// Device is a network interface of this node, as the kernel has it now.
type Device struct {
	Name     string
	Index    int
	MAC      string
	Up       bool // administratively up, with carrier
	Type     string
	Prefixes []netip.Prefix
	// Gateways of the default routes through it.
	Gateways []netip.Addr
}

// RowKey of a Device is its name.
func (d Device) RowKey() string { return d.Name }

// Endpoint is a pod on this node that seamark-cni wired up.
type Endpoint struct {
	// ContainerID and Interface identify the attachment (CNI_CONTAINERID, CNI_IFNAME).
	ContainerID string
	Interface   string
	Pod         ObjectName
	Addr        netip.Addr
	// HostDevice is the veth's name on the host.
	HostDevice string
	// PodMAC and HostMAC are the two ends of the veth.
	PodMAC, HostMAC string
	// HostPorts are the ports of the node that lead to the pod.
	HostPorts []HostPort
	Status    Status
}

// HostPort is a port of the node that leads to a port of a pod.
type HostPort struct {
	// Addr of the node; the zero Addr: each.
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
	// Target is the port of the pod.
	Target uint16
}

// Overlaps says whether a packet could be for both.
func (p HostPort) Overlaps(q HostPort) bool {
	return p.Port == q.Port && p.Protocol == q.Protocol && (!p.Addr.IsValid() || !q.Addr.IsValid() || p.Addr == q.Addr)
}

func (p HostPort) String() string {
	port := strconv.Itoa(int(p.Port))
	if p.Addr.IsValid() {
		port = netip.AddrPortFrom(p.Addr, p.Port).String()
	}
	return port + "/" + p.Protocol.String()
}

// RowKey of an Endpoint is containerID/interface.
func (e Endpoint) RowKey() string { return e.ContainerID + "/" + e.Interface }

// RowStatus and WithStatus make an Endpoint reconcilable.
func (e Endpoint) RowStatus() Status { return e.Status }

// WithStatus returns e with its status replaced.
func (e Endpoint) WithStatus(s Status) Endpoint { e.Status = s; return e }

// SameSpec compares everything but the status.
func (e Endpoint) SameSpec(f Endpoint) bool {
	return e.ContainerID == f.ContainerID && e.Interface == f.Interface && e.Pod == f.Pod && e.Addr == f.Addr &&
		e.HostDevice == f.HostDevice && e.PodMAC == f.PodMAC && e.HostMAC == f.HostMAC && slices.Equal(e.HostPorts, f.HostPorts)
}

// Route is a route to another node's pods that this node installs.
type Route struct {
	Dst    netip.Prefix
	Via    netip.Addr
	Node   string // whose pods
	Status Status
}

// RowKey of a Route is its destination.
func (r Route) RowKey() string { return r.Dst.String() }

// RowStatus and WithStatus make a Route reconcilable.
func (r Route) RowStatus() Status { return r.Status }

// WithStatus returns r with its status replaced.
func (r Route) WithStatus(s Status) Route { r.Status = s; return r }

// SameSpec compares everything but the status.
func (r Route) SameSpec(s Route) bool {
	r.Status, s.Status = Status{}, Status{}
	return r == s
}

// Problem is something a person should mend: a decider found it in what the
// sources say or in what this node is, and went on without it.
type Problem struct {
	// Object that is wrong.
	Object ObjectRef
	// Field of it, as a path; "" for the whole.
	Field string
	// Message says what is wrong, and Cure what to do.
	Message, Cure string
	// Finder is who found it: several may find the same.
	Finder string
}

// FinderSegment finds what is wrong on the segments of its node, which no other
// node need hear.
const FinderSegment = "segment"

// RowKey of a Problem is its object, field, message and finder.
func (p Problem) RowKey() string {
	return strings.Join([]string{p.Object.String(), p.Field, p.Message, p.Finder}, " ")
}

func (p Problem) String() string {
	s := p.Object.String() + ": "
	if p.Field != "" {
		s += p.Field + ": "
	}
	s += p.Message
	if p.Cure != "" {
		s += "; " + p.Cure
	}
	return s
}

// Attachment is an outside device that the load balancer's programs run on.
type Attachment struct {
	Device string
	Index  int
	// MAC that frames for this node go to.
	MAC    string
	Status Status
}

// RowKey of an Attachment is the device's name.
func (a Attachment) RowKey() string { return a.Device }

// RowStatus and WithStatus make an Attachment reconcilable.
func (a Attachment) RowStatus() Status { return a.Status }

// WithStatus returns a with its status replaced.
func (a Attachment) WithStatus(s Status) Attachment { a.Status = s; return a }

// SameSpec compares everything but the status.
func (a Attachment) SameSpec(b Attachment) bool {
	a.Status, b.Status = Status{}, Status{}
	return a == b
}
