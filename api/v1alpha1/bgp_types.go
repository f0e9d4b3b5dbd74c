package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPInstance is a BGP speaker on each node that it selects. Two instances may
// share a node if they listen on different ports.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=bgpinstances,singular=bgpinstance
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Local ASN",type=integer,JSONPath=`.spec.localASN`
// +kubebuilder:printcolumn:name="Router ID",type=string,JSONPath=`.spec.routerID`,priority=1
// +kubebuilder:printcolumn:name="Listen Port",type=integer,JSONPath=`.spec.listenPort`,priority=1
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="seamark.dev/Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPInstance struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BGPInstanceSpec   `json:"spec"`
	Status BGPInstanceStatus `json:"status,omitempty"`
}

// BGPInstanceSpec says where the speaker runs and who it is.
//
// +kubebuilder:validation:XValidation:rule="self.localASN == oldSelf.localASN",fieldPath=".localASN",message="cannot be changed: create another BGPInstance, and delete this one"
type BGPInstanceSpec struct {
	// NodeSelector selects the nodes that the speaker runs on. Absent: all.
	//
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	// LocalASN is the AS number of the nodes.
	LocalASN ASN `json:"localASN"`
	// RouterID identifies the speaker (RFC 4271 §4.2). Absent: the node's first
	// IPv4 address, or else a number made of the node's name, so that it fits
	// several nodes.
	//
	// +optional
	RouterID RouterID `json:"routerID,omitempty"`
	// ListenPort is the TCP port that peers may connect to; Cilium's localPort.
	// Absent: the speaker only connects, and cannot have passive peers.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ListenPort int32 `json:"listenPort,omitempty"`
	// NodeOverrides are what differs on single nodes.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +listType=map
	// +listMapKey=node
	NodeOverrides []BGPInstanceNodeOverride `json:"nodeOverrides,omitempty"`
}

// BGPInstanceNodeOverride replaces fields of the instance on one node. An
// absent field leaves the instance's.
type BGPInstanceNodeOverride struct {
	// Node is the name of the node.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
	// LocalASN of the node.
	//
	// +optional
	LocalASN ASN `json:"localASN,omitempty"`
	// RouterID of the node.
	//
	// +optional
	RouterID RouterID `json:"routerID,omitempty"`
	// ListenPort of the node.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ListenPort int32 `json:"listenPort,omitempty"`
}

// BGPInstanceStatus says whether the instance is in force.
type BGPInstanceStatus struct {
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BGPInstanceList is a list of BGPInstances.
//
// +kubebuilder:object:root=true
type BGPInstanceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPInstance `json:"items"`
}

// ASN is a number of an autonomous system (RFC 6793) that a speaker can have.
//
// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 4294967294 && self != 23456 && self != 65535",message="must be an AS number from 1 to 4294967294, other than the reserved 23456 (RFC 6793) and 65535 (RFC 7300)"
type ASN int64

// RouterID is a BGP Identifier, written as an IPv4 address (RFC 4271 §4.2).
//
// +kubebuilder:validation:MaxLength=45
// +kubebuilder:validation:XValidation:rule="isIP(self) && ip(self).family() == 4 && !ip(self).isUnspecified()",message="must be written as an IPv4 address other than 0.0.0.0, such as 192.168.10.101"
type RouterID string

// InterfaceName is the name of a Linux network interface.
//
// +kubebuilder:validation:MaxLength=256
// +kubebuilder:validation:XValidation:rule="self.matches('^[^/: ]{1,15}$') && self != '.' && self != '..'",message="must be the name of a network interface such as eth1: up to 15 characters, without slash, colon or space"
type InterfaceName string

// BGPAdvertisement says which addresses are advertised over BGP, with which
// attributes, from which nodes and to which peers. The peer's families may
// select advertisements too: then both have to agree.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=bgpadvertisements,singular=bgpadvertisement
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Peers",type=string,JSONPath=`.spec.peers`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="seamark.dev/Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPAdvertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BGPAdvertisementSpec   `json:"spec"`
	Status BGPAdvertisementStatus `json:"status,omitempty"`
}

// BGPAdvertisementSpec selects addresses, nodes and peers.
type BGPAdvertisementSpec struct {
	// Advertisements are the kinds of address that are advertised. An address
	// that several of them select is advertised as the first of them says.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	Advertisements []Advertisement `json:"advertisements"`
	// Peers are the names of the BGPPeers that get the routes. Without Peers
	// and PeerSelector: all.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	Peers []string `json:"peers,omitempty"`
	// PeerSelector selects the BGPPeers that get the routes by their labels;
	// together with Peers, those of either.
	//
	// +optional
	PeerSelector *metav1.LabelSelector `json:"peerSelector,omitempty"`
	// NodeSelectors select the nodes that advertise: those that match any one
	// of them. Absent: all.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
}

// Advertisement is one kind of address, which of it, and its attributes.
//
// +kubebuilder:validation:XValidation:rule="self.type != 'PodCIDR' || !(has(self.serviceSelector) || has(self.aggregationLengthIPv4) || has(self.aggregationLengthIPv6))",message="serviceSelector and aggregation lengths are for addresses of Services, not for PodCIDR"
// +kubebuilder:validation:XValidation:rule="self.type == 'LoadBalancer' || !(has(self.pools) || has(self.poolSelector))",message="pools and poolSelector go with type LoadBalancer alone: other addresses come from no pool"
type Advertisement struct {
	// Type of address: what LB-IPAM gave (LoadBalancer), spec.externalIPs
	// (ExternalIP) or spec.clusterIPs (ClusterIP) of Services, or the node's
	// own pod CIDRs (PodCIDR). A Service's address comes from every node, or,
	// where its traffic policy is Local, from nodes with a ready local backend;
	// from none when no backend is ready.
	//
	// +kubebuilder:validation:Enum=LoadBalancer;ExternalIP;ClusterIP;PodCIDR
	Type AdvertisementType `json:"type"`
	// ServiceSelector limits it to Services with these labels; the
	// pseudo-labels are those of IPPool. Absent: all.
	//
	// +optional
	ServiceSelector *metav1.LabelSelector `json:"serviceSelector,omitempty"`
	// Pools limits it to addresses of the pools with these names. Absent:
	// those of every pool.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	Pools []string `json:"pools,omitempty"`
	// PoolSelector limits it to addresses of the pools with these labels;
	// together with Pools, to those of either. Absent: Pools alone counts.
	//
	// +optional
	PoolSelector *metav1.LabelSelector `json:"poolSelector,omitempty"`
	// AggregationLengthIPv4 advertises the prefixes of this length that hold
	// the addresses, instead of the addresses: each from the nodes that would
	// advertise at least one address in it, for as long as they would. The
	// addresses of Services whose traffic policy is Local are advertised by
	// themselves all the same. Absent: 32, the addresses alone.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32
	AggregationLengthIPv4 int32 `json:"aggregationLengthIPv4,omitempty"`
	// AggregationLengthIPv6 is the same for IPv6. Absent: 128.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=128
	AggregationLengthIPv6 int32 `json:"aggregationLengthIPv6,omitempty"`
	// Attributes that the routes get besides those that every route has.
	//
	// +optional
	Attributes *BGPAttributes `json:"attributes,omitempty"`
}

// AdvertisementType is a kind of address.
type AdvertisementType string

// Kinds of address that can be advertised.
const (
	AdvertiseLoadBalancer AdvertisementType = "LoadBalancer"
	AdvertiseExternalIP   AdvertisementType = "ExternalIP"
	AdvertiseClusterIP    AdvertisementType = "ClusterIP"
	AdvertisePodCIDR      AdvertisementType = "PodCIDR"
)

// BGPAttributes are path attributes of routes.
type BGPAttributes struct {
	// Communities of the routes.
	//
	// +optional
	Communities *BGPCommunities `json:"communities,omitempty"`
	// LocalPreference of the routes (RFC 4271 §5.1.5): higher is better. Only
	// internal peers get it.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="0 <= self && self <= 4294967295",message="must be from 0 to 4294967295"
	LocalPreference *int64 `json:"localPreference,omitempty"`
	// MED is the MULTI_EXIT_DISC of the routes (RFC 4271 §5.1.4): lower is better.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="0 <= self && self <= 4294967295",message="must be from 0 to 4294967295"
	MED *int64 `json:"med,omitempty"`
	// ASPathPrepend is how many times more the local AS number stands in the
	// path that external peers get: longer is worse.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32
	ASPathPrepend int32 `json:"asPathPrepend,omitempty"`
}

// BGPCommunities are the communities of routes.
type BGPCommunities struct {
	// Standard communities (RFC 1997), such as 65000:100.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	Standard []StandardCommunity `json:"standard,omitempty"`
	// WellKnown are standard communities by their names.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	WellKnown []WellKnownCommunity `json:"wellKnown,omitempty"`
	// Large communities (RFC 8092), such as 65000:1:2.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	Large []LargeCommunity `json:"large,omitempty"`
}

// StandardCommunity is two 16-bit numbers (RFC 1997).
//
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]{1,5}:[0-9]{1,5}$') && self.split(':').all(n, int(n) <= 65535)",message="must be two numbers up to 65535 with a colon between them, such as 65000:100"
type StandardCommunity string

// LargeCommunity is three 32-bit numbers (RFC 8092).
//
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10}$') && self.split(':').all(n, int(n) <= 4294967295)",message="must be three numbers up to 4294967295 with colons between them, such as 65000:1:2"
type LargeCommunity string

// WellKnownCommunity is a name of IANA's registry, in the spelling that
// Cilium and GoBGP have; planned-shut is GRACEFUL_SHUTDOWN (RFC 8326).
//
// +kubebuilder:validation:Enum=internet;planned-shut;accept-own;route-filter-translated-v4;route-filter-v4;route-filter-translated-v6;route-filter-v6;llgr-stale;no-llgr;blackhole;no-export;no-advertise;no-export-subconfed;no-peer
type WellKnownCommunity string

// BGPAdvertisementStatus says whether the advertisement is in force.
type BGPAdvertisementStatus struct {
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BGPAdvertisementList is a list of BGPAdvertisements.
//
// +kubebuilder:object:root=true
type BGPAdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPAdvertisement `json:"items"`
}
