package state

import (
	"cmp"
	"net/netip"
	"slices"
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
	// Headless: spec.clusterIP is None. DNS names its pods, and nobody balances.
	Headless bool
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
	// FamilyPolicy is spec.ipFamilyPolicy: with PreferDualStack, one of two
	// Families will do.
	FamilyPolicy string
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
	// Affinity is how long a client keeps its backend (spec.sessionAffinity
	// ClientIP); 0: not at all.
	Affinity time.Duration
	// SourceRanges are the clients that LoadBalancer addresses are for; nil:
	// all. SourceRangesField is where they are written, for messages.
	SourceRanges      []netip.Prefix
	SourceRangesField string
	// Forwarding, Dispatch, TableSize and Unserved are as the annotations have
	// them; zero for the node's defaults.
	Forwarding Forwarding
	Dispatch   Dispatch
	TableSize  uint32
	Unserved   Unserved
	// ForwardingField and DispatchField are where they are written.
	ForwardingField, DispatchField string
	// Probing is how its backends outside the cluster are checked.
	Probing Probing
}

// ForwardHybrid is asked for, and decided per port: ForwardDSR for TCP and
// SCTP, ForwardSNAT for UDP. No Frontend has it.
const ForwardHybrid Forwarding = "hybrid"

// Unserved is what becomes of packets that nobody serves.
type Unserved string

// What can become of them.
const (
	UnservedDrop   Unserved = "drop"   // nothing, in silence
	UnservedRefuse Unserved = "refuse" // they are answered: TCP RST, ICMP port unreachable
)

// ServicePort is one port of a Service.
type ServicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
	NodePort uint16
}

// HasFamily says whether the Service is one of a's family: it has a clusterIP of
// it or, when it has none at all, it is to have addresses of it.
func (s Service) HasFamily(a netip.Addr) bool {
	if len(s.ClusterIPs) > 0 {
		return slices.ContainsFunc(s.ClusterIPs, func(ip netip.Addr) bool { return ip.Unmap().Is4() == a.Is4() })
	}
	family := "IPv6"
	if a.Is4() {
		family = "IPv4"
	}
	return slices.Contains(s.Families, family)
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
	// ForZones and ForNodes are the zones and the nodes whose traffic it is
	// for (hints), sorted, between commas. "" in a Frontend.
	ForZones, ForNodes string
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
	// Stopping: its kubelet says that the machine is shutting down.
	Stopping bool
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
	// Preferred nodes are chosen before others, and, with Failback, take an
	// address back.
	Preferred []NodePreference
	Failback  bool
	// Withdraw: the addresses of a Service without backends are not announced.
	Withdraw   bool
	Invalid    string
	Conditions []metav1.Condition
}

// NodePreference prefers the nodes that it selects, by its weight.
type NodePreference struct {
	Selector *metav1.LabelSelector
	Weight   int32
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
	// Identity of the daemon that renewed it: another one with each start.
	Identity string
	// Duration that the node asked the lease to be held for.
	Duration time.Duration
	// Renewal changes with every renewal; its value says nothing else. (The
	// renewing node's clock is never compared with ours.)
	Renewal string
	// Released: the node gave its addresses up, and answers for none (drain,
	// shutdown).
	Released bool
	// Drained: somebody asked that the node have no addresses, until it is
	// undrained. It is written by others than the node's renewals, which keep it.
	Drained    bool
	Interfaces []LeaseInterface
	// Addrs are the addresses that the node's devices have for themselves
	// (OwnAddrs), whether it announces on them or not.
	Addrs []netip.Addr
	// Appliance: the machine is in front of the cluster, and need be no Node of it.
	Appliance bool
	// Peers are how the node's BGP sessions with each BGPPeer stand, sorted.
	Peers []LeasePeer
}

// LeasePeer is how the BGP sessions of a node with a BGPPeer stand.
type LeasePeer struct {
	Peer string
	// Sessions that there should be, and how many of them are established.
	Sessions, Established int
	// Why the others are not, in words.
	Why string
}

// LeaseInterface is an interface a node could announce on.
type LeaseInterface struct {
	Name     string
	MAC      string
	Up       bool
	Prefixes []netip.Prefix
	// Gateways that the node's default routes through it lead to.
	Gateways []netip.Addr
	// Heard and Silent are, of the other nodes on the same segment, those that
	// answered when this one last asked, and those that did not: a few of all.
	Heard, Silent []string
	// Gateway is whether the gateway answered.
	Gateway Hearing
}

// Hearing is what came of asking for a machine.
type Hearing string

// The hearings; "" where nobody was asked.
const (
	Heard  Hearing = "heard"
	Silent Hearing = "silent"
)

// RowKey of a NodeLease is the node's name.
func (l NodeLease) RowKey() string { return l.Node }

// ConditionTrue says whether the condition of that type is there and true.
func ConditionTrue(conditions []metav1.Condition, conditionType string) bool {
	return slices.ContainsFunc(conditions, func(c metav1.Condition) bool {
		return c.Type == conditionType && c.Status == metav1.ConditionTrue
	})
}
