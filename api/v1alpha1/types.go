package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Condition types that Seamark writes on its own kinds and on Services.
const (
	// ConditionAccepted on one of Seamark's kinds: the spec was understood and
	// is in force. False names the field that is not and how to mend it.
	ConditionAccepted = "seamark.dev/Accepted"
	// ConditionConflicting on an IPPool: its ranges overlap an older pool's,
	// and it allocates nothing until they no longer do.
	ConditionConflicting = "seamark.dev/Conflicting"
	// ConditionEstablished on a BGPPeer: every session that there should be is
	// established. False names the nodes whose is not, and why.
	ConditionEstablished = "seamark.dev/Established"
	// ConditionAnnounced on a Service: each of its addresses is announced by a
	// node; the message names them. It follows what happens within seconds or, when
	// many addresses move at once, minutes: seamark get announcement says what is.
	ConditionAnnounced = "seamark.dev/Announced"
	// ConditionIPAMRequestSatisfied on a Service: every address it asked for
	// was given. False carries the reason and what to do.
	ConditionIPAMRequestSatisfied = "seamark.dev/IPAMRequestSatisfied"
)

// Values of spec.loadBalancerClass that are Seamark's. A Service without a
// class is Seamark's too, and is announced by whatever selects it.
const (
	// ClassL2: announced by ARP and NDP, as L2Policies say.
	ClassL2 = "seamark.dev/l2"
	// ClassBGP: advertised over BGP, as BGPAdvertisements say.
	ClassBGP = "seamark.dev/bgp"
)

// Annotations that Seamark reads on Services and EndpointSlices, and those it
// keeps on its node Leases.
const (
	// AnnotationIPs on a Service: addresses asked for, separated by commas.
	AnnotationIPs = "seamark.dev/ips"
	// AnnotationPool on a Service: the pool that its addresses come from.
	AnnotationPool = "seamark.dev/pool"
	// AnnotationSharingKey on a Service: Services with the same key may have
	// one address, if their ports do not collide.
	AnnotationSharingKey = "seamark.dev/sharing-key"
	// AnnotationSharingCrossNamespace on a Service: namespaces, separated by
	// commas, or *, whose Services it shares an address with.
	AnnotationSharingCrossNamespace = "seamark.dev/sharing-cross-namespace"
	// AnnotationWeight on an EndpointSlice: Maglev weight of its endpoints, 1 to 65535.
	AnnotationWeight = "seamark.dev/weight"
	// AnnotationForwardingMode on a Service: how packets reach backends on other
	// nodes: dsr, snat, or hybrid (dsr for TCP and SCTP, snat for UDP); or kube-proxy,
	// which forwards in place of Seamark.
	AnnotationForwardingMode = "seamark.dev/forwarding-mode"
	// AnnotationDSRDispatch on a Service: the tunnel of dsr: ipip or geneve.
	AnnotationDSRDispatch = "seamark.dev/dsr-dispatch"
	// AnnotationAlgorithm on a Service: how a backend is chosen: maglev.
	AnnotationAlgorithm = "seamark.dev/lb-algorithm"
	// AnnotationTableSize on a Service: slots of its Maglev tables, a prime: 251,
	// 1021, 4093, 10007, 16381, 65521 or 131071. Of up to 10007 there are 16381 for more
	// than 128 backends.
	AnnotationTableSize = "seamark.dev/maglev-table-size"
	// AnnotationUnserved on a Service: what becomes of packets that it has no
	// backend for: drop, or refuse (TCP RST, ICMP port unreachable).
	AnnotationUnserved = "seamark.dev/unserved"
	// AnnotationHealthCheck on a Service: how its backends outside the cluster
	// (endpoints without nodeName) are checked: tcp, http or none.
	AnnotationHealthCheck = "seamark.dev/health-check"
	// AnnotationHealthCheckPath on a Service: what is asked for by http; /.
	AnnotationHealthCheckPath = "seamark.dev/health-check-path"
	// AnnotationHealthCheckPort on a Service: the port that is checked, when it is
	// not the one that packets are sent to.
	AnnotationHealthCheckPort = "seamark.dev/health-check-port"
	// AnnotationHealthCheckInterval and AnnotationHealthCheckTimeout on a Service:
	// how often a backend is checked, 5s, and how long each check may take, 2s.
	AnnotationHealthCheckInterval = "seamark.dev/health-check-interval"
	AnnotationHealthCheckTimeout  = "seamark.dev/health-check-timeout"
	// AnnotationHealthCheckRise and AnnotationHealthCheckFall on a Service: how
	// many checks in a row must go well for a backend to be up again, and fail for
	// it to be down; 3 each.
	AnnotationHealthCheckRise = "seamark.dev/health-check-rise"
	AnnotationHealthCheckFall = "seamark.dev/health-check-fall"
	// AnnotationAppliance on a node's Lease, "true": the machine is in front of the
	// cluster, and need be no Node of it.
	AnnotationAppliance = "seamark.dev/appliance"
	// AnnotationAddresses on a node's Lease: JSON list of the addresses that its
	// devices have for themselves.
	AnnotationAddresses = "seamark.dev/addresses"
	// AnnotationInterfaces on a node's Lease: JSON list of the interfaces it could announce on.
	AnnotationInterfaces = "seamark.dev/interfaces"
	// AnnotationBGP on a node's Lease: JSON list of how its BGP sessions with each BGPPeer stand.
	AnnotationBGP = "seamark.dev/bgp"
	// AnnotationIdentity on a node's Lease: the daemon that renewed it, by a word that it chose when it started.
	AnnotationIdentity = "seamark.dev/identity"
	// AnnotationReleased on a node's Lease, "true": the node gave its addresses up.
	AnnotationReleased = "seamark.dev/released"
	// AnnotationDrain on a node's Lease: the node is to have no addresses for as
	// long as it is there, whatever its value, which is when it was written.
	AnnotationDrain = "seamark.dev/drain"
	// LabelNodeLease tells the Leases of nodes from those of elections: its value is the node.
	LabelNodeLease = "seamark.dev/node"
)

// IPPool is a set of addresses that Services of type LoadBalancer get theirs from.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=ippools,singular=ippool
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Disabled",type=boolean,JSONPath=`.spec.disabled`
// +kubebuilder:printcolumn:name="Conflicting",type=string,JSONPath=`.status.conditions[?(@.type=="seamark.dev/Conflicting")].status`
// +kubebuilder:printcolumn:name="IPs Available",type=string,JSONPath=`.status.available`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   IPPoolSpec   `json:"spec"`
	Status IPPoolStatus `json:"status,omitempty"`
}

// IPPoolSpec says which addresses the pool holds and which Services may have them.
type IPPoolSpec struct {
	// Blocks are the address ranges of the pool.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Blocks []IPBlock `json:"blocks"`
	// ServiceSelector limits the pool to Services with these labels. The
	// pseudo-labels io.kubernetes.service.namespace and
	// io.kubernetes.service.name select by namespace and name. Absent: all.
	//
	// +optional
	ServiceSelector *metav1.LabelSelector `json:"serviceSelector,omitempty"`
	// NamespaceSelector limits the pool to Services whose namespace has these
	// labels. Absent: all.
	//
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	// Disabled pools give out no new address; what was given stays.
	//
	// +optional
	// +kubebuilder:default=false
	Disabled bool `json:"disabled,omitempty"`
	// AutoAssign false: only Services that name the pool get its addresses.
	//
	// +optional
	// +kubebuilder:default=true
	AutoAssign *bool `json:"autoAssign,omitempty"`
	// Priority orders the pools that a Service may use: higher first.
	//
	// +optional
	Priority int32 `json:"priority,omitempty"`
	// AllowFirstLastIPs "No" withholds the first and the last address of each
	// CIDR block (the network and broadcast addresses of an on-link subnet).
	// It does not touch start–stop ranges, nor /31, /32, /127 and /128.
	//
	// +optional
	// +kubebuilder:default=Yes
	// +kubebuilder:validation:Enum=Yes;No
	AllowFirstLastIPs string `json:"allowFirstLastIPs,omitempty"`
	// AvoidBuggyIPs withholds IPv4 addresses that end in .0 or .255, which
	// some old equipment takes for a network's or a broadcast address.
	//
	// +optional
	AvoidBuggyIPs bool `json:"avoidBuggyIPs,omitempty"`
}

// IPBlock is one range of addresses: a CIDR, or first to last address inclusive.
//
// +kubebuilder:validation:XValidation:rule="has(self.cidr) != has(self.start)",message="exactly one of cidr and start must be set"
// +kubebuilder:validation:XValidation:rule="!has(self.cidr) || !has(self.stop)",message="stop goes with start, not with cidr"
// +kubebuilder:validation:XValidation:rule="!has(self.cidr) || isCIDR(self.cidr)",message="must be a CIDR such as 192.168.10.0/28 or fd00:10::/64",fieldPath=".cidr"
// +kubebuilder:validation:XValidation:rule="!has(self.start) || isIP(self.start)",message="must be an IP address such as 192.168.10.211 or fd00:10::1",fieldPath=".start"
// +kubebuilder:validation:XValidation:rule="!has(self.stop) || isIP(self.stop)",message="must be an IP address such as 192.168.10.215 or fd00:10::5",fieldPath=".stop"
// +kubebuilder:validation:XValidation:rule="!has(self.start) || !has(self.stop) || !isIP(self.start) || !isIP(self.stop) || ip(self.start).family() == ip(self.stop).family()",message="start and stop must be of one family: both IPv4 or both IPv6"
// +kubebuilder:validation:XValidation:rule="!has(self.start) || !has(self.stop) || !isIP(self.start) || !isIP(self.stop) || ip(self.start).family() == 6 || ip(self.stop).family() == 6 || (int(self.start.split('.')[0]) * 256 + int(self.start.split('.')[1])) * 65536 + int(self.start.split('.')[2]) * 256 + int(self.start.split('.')[3]) <= (int(self.stop.split('.')[0]) * 256 + int(self.stop.split('.')[1])) * 65536 + int(self.stop.split('.')[2]) * 256 + int(self.stop.split('.')[3])",message="start is after stop: swap them"
type IPBlock struct {
	// CIDR of the block.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=49
	CIDR string `json:"cidr,omitempty"`
	// Start is the first address of a range.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=45
	Start string `json:"start,omitempty"`
	// Stop is the last address of a range; absent, the range is Start alone.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=45
	Stop string `json:"stop,omitempty"`
}

// IPPoolStatus counts the pool's addresses. The counts are strings, because an
// IPv6 block holds more addresses than an int64 counts.
type IPPoolStatus struct {
	// +optional
	Total string `json:"total,omitempty"`
	// +optional
	Available string `json:"available,omitempty"`
	// +optional
	Used string `json:"used,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// IPPoolList is a list of IPPools.
//
// +kubebuilder:object:root=true
type IPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPPool `json:"items"`
}

// L2Policy says which addresses are announced by ARP and NDP, from which nodes
// and on which of their interfaces.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=l2policies,singular=l2policy
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="seamark.dev/Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type L2Policy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   L2PolicySpec   `json:"spec"`
	Status L2PolicyStatus `json:"status,omitempty"`
}

// L2PolicySpec selects addresses, nodes and interfaces.
type L2PolicySpec struct {
	// ServiceSelector selects the Services whose addresses are announced. Absent: all.
	//
	// +optional
	ServiceSelector *metav1.LabelSelector `json:"serviceSelector,omitempty"`
	// NodeSelector selects the nodes that may announce. Absent: all.
	//
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	// Interfaces are regular expressions (RE2, unanchored as in Cilium) over
	// the node's interface names. Absent: every outside interface.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	Interfaces []string `json:"interfaces,omitempty"`
	// LoadBalancerIPs: announce addresses that LB-IPAM gave.
	//
	// +optional
	LoadBalancerIPs bool `json:"loadBalancerIPs,omitempty"`
	// ExternalIPs: announce spec.externalIPs of Services.
	//
	// +optional
	ExternalIPs bool `json:"externalIPs,omitempty"`
	// Pools limits LoadBalancerIPs to addresses of the pools with these names.
	// Absent: those of every pool.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	Pools []string `json:"pools,omitempty"`
	// PoolSelector limits LoadBalancerIPs to addresses of the pools with these
	// labels; together with Pools, to those of either. Absent: Pools alone counts.
	//
	// +optional
	PoolSelector *metav1.LabelSelector `json:"poolSelector,omitempty"`
	// PreferredNodes are to announce rather than the others that NodeSelector
	// selects, whenever an address changes hands.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	PreferredNodes []NodePreference `json:"preferredNodes,omitempty"`
	// Failback: an address goes back as soon as a node that is preferred to its
	// holder may announce it. Otherwise it stays where it is for as long as it can.
	//
	// +optional
	Failback bool `json:"failback,omitempty"`
	// WithoutBackends says what becomes of the addresses of a Service that has no
	// backend to serve it: Keep announces them on, so that clients get the answer
	// that the Service gives without backends; Withdraw leaves them unannounced.
	//
	// +optional
	// +kubebuilder:default=Keep
	// +kubebuilder:validation:Enum=Keep;Withdraw
	WithoutBackends string `json:"withoutBackends,omitempty"`
}

// NodePreference prefers some nodes to others.
type NodePreference struct {
	// NodeSelector selects the nodes.
	NodeSelector metav1.LabelSelector `json:"nodeSelector"`
	// Weight of a node is the sum of the weights of the preferences that select
	// it; the node of the highest is preferred.
	//
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight,omitempty"`
}

// Values of L2PolicySpec.WithoutBackends.
const (
	WithoutBackendsKeep     = "Keep"
	WithoutBackendsWithdraw = "Withdraw"
)

// L2PolicyStatus says whether the policy is in force.
type L2PolicyStatus struct {
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// L2PolicyList is a list of L2Policies.
//
// +kubebuilder:object:root=true
type L2PolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Policy `json:"items"`
}

// AnnouncementSlice is a page of the coordinator's decisions: up to 1,000
// addresses, each with the node that announces it. Written by the coordinator
// alone; read by every node.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=announcementslices,singular=announcementslice
// +kubebuilder:printcolumn:name="First",type=string,JSONPath=`.announcements[0].address`
// +kubebuilder:printcolumn:name="Last",type=string,JSONPath=`.announcements[-1:].address`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AnnouncementSlice struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Announcements of the page.
	//
	// +kubebuilder:validation:MaxItems=1000
	Announcements []Announcement `json:"announcements,omitempty"`
}

// Announcement is one address and who announces it.
type Announcement struct {
	// Address that is announced.
	//
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address"`
	// Service that the address belongs to, namespace/name; the first by name when shared.
	Service string `json:"service"`
	// Node that announces it. Empty: nobody may, and Reason says why.
	//
	// +optional
	Node string `json:"node,omitempty"`
	// Interfaces of that node it is announced on.
	//
	// +optional
	Interfaces []string `json:"interfaces,omitempty"`
	// Since when this node has held it.
	Since metav1.MicroTime `json:"since"`
	// Generation rises by one each time the address changes hands; of two
	// nodes that claim it, the higher generation answers.
	Generation int64 `json:"generation"`
	// Reason of the last change, one CamelCase word.
	Reason string `json:"reason"`
	// Previous holder.
	//
	// +optional
	Previous string `json:"previous,omitempty"`
}

// AnnouncementSliceList is a list of AnnouncementSlices.
//
// +kubebuilder:object:root=true
type AnnouncementSliceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AnnouncementSlice `json:"items"`
}
