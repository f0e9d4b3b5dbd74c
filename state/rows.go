package state

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ObjectName names a namespaced object. It prints as namespace/name.
type ObjectName struct{ Namespace, Name string }

func (n ObjectName) String() string { return n.Namespace + "/" + n.Name }

// Compare orders names by namespace, then name.
func (n ObjectName) Compare(m ObjectName) int {
	return cmp.Or(strings.Compare(n.Namespace, m.Namespace), strings.Compare(n.Name, m.Name))
}

// ObjectRef names an object of any kind. It prints as kind/name or
// kind/namespace/name, the kind in lower case.
type ObjectRef struct {
	// Group of the kind's API, "" for the core group.
	Group string `json:"group,omitempty"`
	Kind  string `json:"kind"`
	// Namespace is "" when the kind has none.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func (r ObjectRef) String() string {
	s := strings.ToLower(r.Kind) + "/"
	if r.Namespace != "" {
		s += r.Namespace + "/"
	}
	return s + r.Name
}

// ServiceRef and NodeRef name objects of the core group.
func ServiceRef(n ObjectName) ObjectRef {
	return ObjectRef{Kind: "Service", Namespace: n.Namespace, Name: n.Name}
}

// NodeRef names a Node.
func NodeRef(name string) ObjectRef { return ObjectRef{Kind: "Node", Name: name} }

// Protocol is an IP protocol number (IANA).
type Protocol uint8

// The protocols a frontend can have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "?"
}

// Service is a Kubernetes Service, as far as load balancing needs it.
type Service struct {
	Name        ObjectName
	UID         string
	Created     time.Time
	Labels      map[string]string
	Annotations map[string]string
	// Selector is spec.selector: the labels of the pods behind it.
	Selector map[string]string
	// Type as in Kubernetes: ClusterIP, NodePort, LoadBalancer, ExternalName.
	Type string
	// Class is spec.loadBalancerClass, "" when absent. Another project's class
	// that means what one of Seamark's does is given as Seamark's, and ClassOf
	// is the product whose it is.
	Class, ClassOf string
	ClusterIPs     []netip.Addr
	// ExternalIPs is spec.externalIPs.
	ExternalIPs []netip.Addr
	// RequestedIPs are the addresses asked for by spec.loadBalancerIP or by
	// an annotation, in that order.
	RequestedIPs []netip.Addr
	// RequestField is where RequestedIPs are asked for, for messages.
	RequestField string
	// Pool names the pool that addresses are wanted from, "" for any: by the
	// name of its row, or of its object. PoolField is where that is written.
	Pool, PoolField string
	// Sharing is the key under which the Service may share an address; ""
	// for none. SharingWith are the namespaces it shares with besides its
	// own, "*" for all.
	Sharing     string
	SharingWith []string
	// Families that LoadBalancer addresses are wanted for, in order of
	// preference: "IPv4", "IPv6".
	Families []string
	// Ingress is status.loadBalancer.ingress[].ip: what the Service carries
	// now, whoever wrote it.
	Ingress []netip.Addr
	// Conditions is status.conditions as the source holds it.
	Conditions []metav1.Condition
	Ports      []ServicePort
	// HealthCheckNodePort is spec.healthCheckNodePort, 0 when it has none.
	HealthCheckNodePort uint16
	// ExternalTrafficPolicyLocal and InternalTrafficPolicyLocal: only backends on the receiving node.
	ExternalTrafficPolicyLocal bool
	InternalTrafficPolicyLocal bool
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
	NodePort uint16
}

// RowKey of a Service is namespace/name.
func (s Service) RowKey() string { return s.Name.String() }

// EndpointSlice is a discovery/v1 EndpointSlice.
type EndpointSlice struct {
	Name ObjectName
	// Service that owns the slice (label kubernetes.io/service-name).
	Service   ObjectName
	Ports     []EndpointPort
	Endpoints []Backend
}

// EndpointPort is a port of every endpoint of its slice.
type EndpointPort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// RowKey of an EndpointSlice is namespace/name.
func (s EndpointSlice) RowKey() string { return s.Name.String() }

// Backend is one pod (or host) behind a Service. In an EndpointSlice Port is
// 0; in a Frontend it is the target port.
type Backend struct {
	Addr netip.Addr
	Port uint16
	// Node the backend runs on; "" when the endpoint names none.
	Node string
	// Ready backends get new connections.
	Ready bool
	// Serving and Terminating together: keeps its flows, and serves when no ready backend is left (KEP-1669).
	Serving, Terminating bool
	// Weight of the backend in Maglev; 0 counts as 1.
	Weight uint16
}

// Compare orders backends by address, then port.
func (b Backend) Compare(c Backend) int {
	return cmp.Or(b.Addr.Compare(c.Addr), cmp.Compare(b.Port, c.Port))
}

// Node is a cluster node.
type Node struct {
	Name   string
	Labels map[string]string
	// Addrs are the node's InternalIPs.
	Addrs    []netip.Addr
	PodCIDRs []netip.Prefix
	// Unschedulable is spec.unschedulable (cordoned).
	Unschedulable bool
}

// RowKey of a Node is its name.
func (n Node) RowKey() string { return n.Name }

// Namespace is a Kubernetes namespace.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// RowKey of a Namespace is its name.
func (n Namespace) RowKey() string { return n.Name }

// Agent is another project's program that does some of what Seamark does: a
// set of pods, found by the labels that its own manifests give it. There is one
// for as long as there are to be pods of it, ready or not: whose a Service is
// must not change while a pod is replaced.
type Agent struct {
	// Object is the DaemonSet or Deployment.
	Object ObjectRef
	// Product as people know it: "MetalLB", "Cilium", "kube-proxy".
	Product string
	Role    AgentRole
}

// AgentRole is what an Agent does. One that does several things has a row for each.
type AgentRole string

// The roles.
const (
	AgentAllocates AgentRole = "allocates" // gives Services of type LoadBalancer addresses
	AgentAnnounces AgentRole = "announces" // answers ARP for them, or advertises them over BGP
	AgentCNI       AgentRole = "cni"       // wires pods up
	AgentProxy     AgentRole = "proxy"     // forwards ClusterIPs and NodePorts
)

// RowKey of an Agent is its object and its role.
func (a Agent) RowKey() string { return a.Object.String() + " " + string(a.Role) }

// Pool is an IPPool, or another project's object that means one, parsed. One
// that does not parse has Invalid set, and the Ranges of the last spec that
// was right.
type Pool struct {
	// Name is the IPPool's; that of another kind's pool is kind/name or
	// kind/namespace/name, with the kind as it is written.
	Name    string
	Origin  ObjectRef
	UID     string
	Labels  map[string]string
	Created time.Time
	// Ranges in the order of spec.blocks, AllowFirstLastIPs applied.
	Ranges            []Range
	ServiceSelector   *metav1.LabelSelector
	NamespaceSelector *metav1.LabelSelector
	Disabled          bool
	AutoAssign        bool
	// AvoidBuggyIPs: IPv4 addresses that end in .0 or .255 are not given.
	AvoidBuggyIPs bool
	Priority      int32
	// Invalid names the field that does not parse and the cure.
	Invalid string
	// Conditions is status.conditions as the source holds it.
	Conditions []metav1.Condition
}

// RowKey of a Pool is its name.
func (p Pool) RowKey() string { return p.Name }

// Called says whether name means the pool: the row's name, or its object's own.
func (p Pool) Called(name string) bool { return name == p.Name || name == p.Origin.Name }

// Unread says whether nothing is known of the addresses that the pool holds: its
// spec does not parse, and no daemon here has seen one that did.
func (p Pool) Unread() bool { return p.Invalid != "" && len(p.Ranges) == 0 }

// Holds says whether a is in one of the pool's ranges.
func (p Pool) Holds(a netip.Addr) bool {
	return slices.ContainsFunc(p.Ranges, func(r Range) bool { return r.Contains(a) })
}

// Range is the addresses From to To, both inclusive and of one family.
type Range struct{ From, To netip.Addr }

// Contains says whether a is in the range.
func (r Range) Contains(a netip.Addr) bool {
	return r.From.BitLen() == a.BitLen() && r.From.Compare(a) <= 0 && a.Compare(r.To) <= 0
}

// Overlaps says whether the two ranges share an address.
func (r Range) Overlaps(s Range) bool {
	return r.From.BitLen() == s.From.BitLen() && r.From.Compare(s.To) <= 0 && s.From.Compare(r.To) <= 0
}

func (r Range) String() string { return r.From.String() + "–" + r.To.String() }

// L2Policy is an L2Policy as written; Invalid names what is wrong with it, and
// then the other fields are those of the last spec that was right.
type L2Policy struct {
	// Name as of a Pool.
	Name            string
	Origin          ObjectRef
	UID             string
	Created         time.Time
	ServiceSelector *metav1.LabelSelector
	NodeSelector    *metav1.LabelSelector
	// Interfaces are RE2 expressions; empty: every outside interface.
	Interfaces      []string
	LoadBalancerIPs bool
	ExternalIPs     bool
	// Pools (by Pool.Called) and PoolSelector limit LoadBalancerIPs to
	// addresses of the pools that either means; both absent: to nothing.
	Pools        []string
	PoolSelector *metav1.LabelSelector
	Invalid      string
	Conditions   []metav1.Condition
}

// Unread says whether nothing is known of what the policy announces: its spec
// does not parse, and no daemon here has seen one that did.
func (p L2Policy) Unread() bool { return p.Invalid != "" && !p.LoadBalancerIPs && !p.ExternalIPs }

// RowKey of an L2Policy is its name.
func (p L2Policy) RowKey() string { return p.Name }

// NodeLease is a node's sign of life and what it reports of its announcing
// interfaces (DESIGN §6: one per node).
type NodeLease struct {
	Node string
	// Duration that the node asked the lease to be held for.
	Duration time.Duration
	// Renewal changes with every renewal; its value says nothing else. (The
	// renewing node's clock is never compared with ours.)
	Renewal string
	// Released: the node gave its addresses up (drain, shutdown).
	Released   bool
	Interfaces []LeaseInterface
}

// LeaseInterface is an interface a node could announce on.
type LeaseInterface struct {
	Name     string
	MAC      string
	Up       bool
	Prefixes []netip.Prefix
	// Gateways that the node's default routes through it lead to.
	Gateways []netip.Addr
}

// RowKey of a NodeLease is the node's name.
func (l NodeLease) RowKey() string { return l.Node }

// Allocation is what LB-IPAM decided for one Service: its addresses, or why it has none.
type Allocation struct {
	Service ObjectName
	UID     string
	Addrs   []netip.Addr
	// Pool each address came from, in the order of Addrs.
	Pools []string
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
		slices.Equal(a.Pools, b.Pools) && a.Reason == b.Reason && a.Message == b.Message
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

// ObjectStatus is what the coordinator has to say of an object of a kind that
// has no status row of its own: what of it cannot be honoured.
type ObjectStatus struct {
	Object ObjectRef
	// Problem names the fields and the cures.
	Problem string
	Status  Status
}

// RowKey of an ObjectStatus is its object, with the group.
func (o ObjectStatus) RowKey() string { return o.Object.Group + "/" + o.Object.String() }

// RowStatus and WithStatus make an ObjectStatus reconcilable.
func (o ObjectStatus) RowStatus() Status { return o.Status }

// WithStatus returns o with its status replaced.
func (o ObjectStatus) WithStatus(s Status) ObjectStatus { o.Status = s; return o }

// SameSpec compares everything but the status.
func (o ObjectStatus) SameSpec(p ObjectStatus) bool {
	return o.Object == p.Object && o.Problem == p.Problem
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
	// those that terminate but still serve.
	Backends []Backend
	Status   Status
}

// FrontendKind says where a frontend's address comes from.
type FrontendKind string

// The kinds of frontend.
const (
	KindLoadBalancer FrontendKind = "LoadBalancer"
	KindExternalIP   FrontendKind = "ExternalIP"
)

// RowKey of a Frontend is addr:port/protocol.
func (f Frontend) RowKey() string {
	return netip.AddrPortFrom(f.Addr, f.Port).String() + "/" + f.Protocol.String()
}

// RowStatus and WithStatus make a Frontend reconcilable.
func (f Frontend) RowStatus() Status { return f.Status }

// WithStatus returns f with its status replaced.
func (f Frontend) WithStatus(s Status) Frontend { f.Status = s; return f }

// SameSpec compares everything but the status.
func (f Frontend) SameSpec(g Frontend) bool {
	return f.Addr == g.Addr && f.Port == g.Port && f.Protocol == g.Protocol && f.Service == g.Service &&
		f.PortName == g.PortName && f.Kind == g.Kind && slices.Equal(f.Backends, g.Backends)
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
	Status     Status
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
	Status          Status
}

// RowKey of an Endpoint is containerID/interface.
func (e Endpoint) RowKey() string { return e.ContainerID + "/" + e.Interface }

// RowStatus and WithStatus make an Endpoint reconcilable.
func (e Endpoint) RowStatus() Status { return e.Status }

// WithStatus returns e with its status replaced.
func (e Endpoint) WithStatus(s Status) Endpoint { e.Status = s; return e }

// SameSpec compares everything but the status.
func (e Endpoint) SameSpec(f Endpoint) bool {
	e.Status, f.Status = Status{}, Status{}
	return e == f
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

// ConditionTrue says whether the condition of that type is there and true.
func ConditionTrue(conditions []metav1.Condition, conditionType string) bool {
	return slices.ContainsFunc(conditions, func(c metav1.Condition) bool {
		return c.Type == conditionType && c.Status == metav1.ConditionTrue
	})
}
