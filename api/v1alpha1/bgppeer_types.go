package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPPeer is a router that the BGPInstances of the nodes have sessions with.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=bgppeers,singular=bgppeer
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Peer",type=string,JSONPath=`.spec['peerAddress','interface','autoDiscovery']`
// +kubebuilder:printcolumn:name="ASN",type=string,JSONPath=`.spec['peerASN','peerASNMode']`
// +kubebuilder:printcolumn:name="Sessions",type=integer,JSONPath=`.status.sessions`
// +kubebuilder:printcolumn:name="Established",type=integer,JSONPath=`.status.established`
// +kubebuilder:printcolumn:name="BFD Profile",type=string,JSONPath=`.spec.bfdProfile`,priority=1
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="seamark.dev/Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPPeer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BGPPeerSpec   `json:"spec"`
	Status BGPPeerStatus `json:"status,omitempty"`
}

// BGPPeerSpec says who the peer is, and how the sessions with it are kept.
//
// +kubebuilder:validation:XValidation:rule="[has(self.peerAddress), has(self.interface), has(self.autoDiscovery)].filter(x, x).size() == 1",message="exactly one of peerAddress, interface and autoDiscovery must be set"
// +kubebuilder:validation:XValidation:rule="has(self.peerASN) != has(self.peerASNMode)",message="exactly one of peerASN and peerASNMode must be set"
// +kubebuilder:validation:XValidation:rule="has(self.peerAddress) == has(oldSelf.peerAddress) && (!has(self.peerAddress) || self.peerAddress == oldSelf.peerAddress)",fieldPath=".peerAddress",message="cannot be changed: create another BGPPeer, and delete this one"
// +kubebuilder:validation:XValidation:rule="has(self.interface) == has(oldSelf.interface) && (!has(self.interface) || self.interface == oldSelf.interface)",fieldPath=".interface",message="cannot be changed: create another BGPPeer, and delete this one"
// +kubebuilder:validation:XValidation:rule="has(self.autoDiscovery) == has(oldSelf.autoDiscovery) && (!has(self.autoDiscovery) || self.autoDiscovery == oldSelf.autoDiscovery)",fieldPath=".autoDiscovery",message="cannot be changed: create another BGPPeer, and delete this one"
// +kubebuilder:validation:XValidation:rule="!(has(self.sourceAddress) && has(self.sourceInterface))",message="at most one of sourceAddress and sourceInterface may be set"
// +kubebuilder:validation:XValidation:rule="!has(self.interface) || !(has(self.sourceAddress) || has(self.sourceInterface) || has(self.nodeOverrides))",message="a session over interface has that interface's link-local address for its source: remove sourceAddress, sourceInterface and nodeOverrides"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceAddress) || !has(self.peerAddress) || !isIP(self.sourceAddress) || !isIP(self.peerAddress) || ip(self.sourceAddress).family() == ip(self.peerAddress).family()",fieldPath=".sourceAddress",message="must be of the same family, IPv4 or IPv6, as peerAddress"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceAddress) || !has(self.autoDiscovery) || !isIP(self.sourceAddress) || ip(self.sourceAddress).family() == (self.autoDiscovery.addressFamily == 'ipv6' ? 6 : 4)",fieldPath=".sourceAddress",message="must be of the family, IPv4 or IPv6, of autoDiscovery.addressFamily"
// +kubebuilder:validation:XValidation:rule="!(has(self.passwordSecretRef) && has(self.passwordFile))",message="at most one of passwordSecretRef and passwordFile may be set"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultihop) || self.ebgpMultihop == 1 || has(self.peerAddress)",fieldPath=".ebgpMultihop",message="goes with peerAddress: what interface and autoDiscovery find is one hop away"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultihop) || self.ebgpMultihop == 1 || !has(self.ttlSecurityHops)",message="at most one of ebgpMultihop and ttlSecurityHops may be set: with ttlSecurityHops every packet is sent with TTL 255"
// +kubebuilder:validation:XValidation:rule="!has(self.peerASNMode) || self.peerASNMode != 'Internal' || !has(self.ebgpMultihop) || self.ebgpMultihop == 1",fieldPath=".ebgpMultihop",message="is for external peers: internal ones may be any number of hops away"
type BGPPeerSpec struct {
	// Instances are the names of the BGPInstances that the peer belongs to.
	// Absent: all.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	Instances []string `json:"instances,omitempty"`
	// NodeSelectors select the nodes of those instances that have a session
	// with the peer: those that match any one of them. Absent: all.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`

	// PeerAddress is the IP address of the peer. A link-local one has its
	// interface after it: fe80::1%eth1.
	//
	// +optional
	PeerAddress PeerAddress `json:"peerAddress,omitempty"`
	// Interface that the peer is found on, at the IPv6 link-local address it
	// sends router advertisements from (unnumbered). IPv4 routes have an IPv6
	// next hop there (RFC 8950).
	//
	// +optional
	Interface InterfaceName `json:"interface,omitempty"`
	// AutoDiscovery finds the peer's address on the node.
	//
	// +optional
	AutoDiscovery *BGPAutoDiscovery `json:"autoDiscovery,omitempty"`
	// PeerASN is the AS number of the peer.
	//
	// +optional
	PeerASN ASN `json:"peerASN,omitempty"`
	// PeerASNMode takes the AS number that the peer says it has: if it is the
	// local one (Internal), if it is another (External), or either way (Any).
	//
	// +optional
	// +kubebuilder:validation:Enum=Internal;External;Any
	PeerASNMode PeerASNMode `json:"peerASNMode,omitempty"`
	// PeerPort is the TCP port of the peer.
	//
	// +optional
	// +kubebuilder:default=179
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	PeerPort int32 `json:"peerPort,omitempty"`

	// SourceAddress of the sessions. Absent: the address that the node's
	// routes give.
	//
	// +optional
	SourceAddress IPAddress `json:"sourceAddress,omitempty"`
	// SourceInterface whose address is the source of the sessions, such as a
	// loopback with one address of each family.
	//
	// +optional
	SourceInterface InterfaceName `json:"sourceInterface,omitempty"`
	// NodeOverrides are what differs on single nodes.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +listType=map
	// +listMapKey=node
	NodeOverrides []BGPPeerNodeOverride `json:"nodeOverrides,omitempty"`

	// Timers of the sessions. A change of the hold or keepalive time counts from
	// when a session begins next: it resets none.
	//
	// +optional
	// +kubebuilder:default={}
	Timers *BGPTimers `json:"timers,omitempty"`
	// PasswordSecretRef names a Secret whose key "password" holds the password
	// of TCP MD5 signatures (RFC 2385).
	//
	// +optional
	PasswordSecretRef *SecretReference `json:"passwordSecretRef,omitempty"`
	// PasswordFile is a file on the nodes that holds the password, without the
	// line's end; for nodes without Secrets.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="self.startsWith('/')",message="must be an absolute path such as /etc/seamark/tor1.password"
	PasswordFile string `json:"passwordFile,omitempty"`
	// EBGPMultihop is the TTL of packets to an external peer: how many hops
	// away it may be. Absent: 1, directly connected.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=255
	EBGPMultihop int32 `json:"ebgpMultihop,omitempty"`
	// TTLSecurityHops turns GTSM on (RFC 5082): packets are sent with TTL 255,
	// and those from further away than this many hops are dropped.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	TTLSecurityHops int32 `json:"ttlSecurityHops,omitempty"`
	// Passive: wait for the peer to connect. The instance needs a listenPort.
	//
	// +optional
	Passive bool `json:"passive,omitempty"`
	// GracefulRestart (RFC 4724): what the peer does with the routes while the
	// daemon restarts. Absent: it removes them.
	//
	// +optional
	GracefulRestart *BGPGracefulRestart `json:"gracefulRestart,omitempty"`
	// BFDProfile is the name of the BFDProfile of the BFD session beside each
	// BGP session. Absent: no BFD.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	BFDProfile string `json:"bfdProfile,omitempty"`

	// Families that are exchanged. Absent: ipv4 and ipv6 unicast, with all
	// advertisements.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=2
	// +listType=map
	// +listMapKey=afi
	// +listMapKey=safi
	Families []BGPFamily `json:"families,omitempty"`
	// AllowASIn is how many times the local AS number may stand in the path of
	// a route that the peer sends (RFC 4271 §9.1.2 takes it for a loop).
	// Absent: never.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	AllowASIn int32 `json:"allowASIn,omitempty"`
	// ImportPrefixes are the prefixes that are taken from the peer into the
	// node's routing table. Absent: none.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	ImportPrefixes []ImportPrefix `json:"importPrefixes,omitempty"`
}

// PeerAddress is an IP address that a session can be had with.
//
// +kubebuilder:validation:MaxLength=61
// +kubebuilder:validation:XValidation:rule="isIP(self.split('%')[0])",message="must be an IP address such as 192.168.10.200 or fd00:10::1"
// +kubebuilder:validation:XValidation:rule="!isIP(self.split('%')[0]) || ip(self.split('%')[0]).isGlobalUnicast() || ip(self.split('%')[0]).isLinkLocalUnicast() || ip(self.split('%')[0]).isLoopback()",message="must be the address of one machine: not unspecified, multicast or broadcast"
// +kubebuilder:validation:XValidation:rule="!isIP(self.split('%')[0]) || (ip(self.split('%')[0]).family() == 6 && ip(self.split('%')[0]).isLinkLocalUnicast()) == self.matches('^[^%]+%[^%/: ]{1,15}$')",message="an IPv6 link-local address has its interface after it, as in fe80::1%eth1, and other addresses have none"
type PeerAddress string

// IPAddress is an IPv4 or IPv6 address.
//
// +kubebuilder:validation:MaxLength=45
// +kubebuilder:validation:XValidation:rule="isIP(self)",message="must be an IP address such as 192.168.10.101 or fd00:10::101"
type IPAddress string

// BGPAutoDiscovery says how the peer's address is found.
type BGPAutoDiscovery struct {
	// Mode DefaultGateway: the peer is the next hop of the node's default route.
	//
	// +kubebuilder:validation:Enum=DefaultGateway
	Mode string `json:"mode"`
	// AddressFamily of the default route.
	//
	// +kubebuilder:validation:Enum=ipv4;ipv6
	AddressFamily string `json:"addressFamily"`
}

// PeerASNMode is which AS numbers a peer may have.
type PeerASNMode string

// AS numbers that a peer may have.
const (
	PeerASNInternal PeerASNMode = "Internal"
	PeerASNExternal PeerASNMode = "External"
	PeerASNAny      PeerASNMode = "Any"
)

// BGPPeerNodeOverride replaces fields of the peer on one node.
type BGPPeerNodeOverride struct {
	// Node is the name of the node.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
	// SourceAddress of the session on that node.
	SourceAddress IPAddress `json:"sourceAddress"`
}

// BGPTimers are the timers of a session (RFC 4271 §8), in seconds.
//
// +kubebuilder:validation:XValidation:rule="!has(self.keepAliveTimeSeconds) || !has(self.holdTimeSeconds) || self.holdTimeSeconds == 0 || self.keepAliveTimeSeconds < self.holdTimeSeconds",fieldPath=".keepAliveTimeSeconds",message="must be less than holdTimeSeconds, or the session ends between two keepalives; a third of it is usual"
type BGPTimers struct {
	// ConnectRetryTimeSeconds between two tries to connect.
	//
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ConnectRetryTimeSeconds *int32 `json:"connectRetryTimeSeconds,omitempty"`
	// HoldTimeSeconds without a message after which the session is over: 3 or
	// more, or 0 for a session without keepalives. The lower of both ends' counts.
	//
	// +optional
	// +kubebuilder:default=90
	// +kubebuilder:validation:XValidation:rule="self == 0 || (3 <= self && self <= 65535)",message="must be 0 or from 3 to 65535 (RFC 4271 section 4.2)"
	HoldTimeSeconds *int32 `json:"holdTimeSeconds,omitempty"`
	// KeepAliveTimeSeconds between two keepalives. Absent: a third of the hold
	// time that was agreed on.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	KeepAliveTimeSeconds *int32 `json:"keepAliveTimeSeconds,omitempty"`
}

// SecretReference names a Secret.
type SecretReference struct {
	// Name of the Secret.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Namespace of the Secret. In another one than seamark-system, the daemon
	// needs a Role that lets it list and watch the Secret, by its name alone.
	//
	// +optional
	// +kubebuilder:default=seamark-system
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// BGPGracefulRestart is the Graceful Restart Capability (RFC 4724).
type BGPGracefulRestart struct {
	// Enabled: the capability is offered.
	Enabled bool `json:"enabled"`
	// RestartTimeSeconds that the peer keeps the routes for.
	//
	// +optional
	// +kubebuilder:default=120
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4095
	RestartTimeSeconds *int32 `json:"restartTimeSeconds,omitempty"`
}

// BGPFamily is an address family (RFC 4760), and what is exchanged in it.
type BGPFamily struct {
	// AFI is the address family.
	//
	// +kubebuilder:validation:Enum=ipv4;ipv6
	AFI string `json:"afi"`
	// SAFI is the subsequent address family.
	//
	// +kubebuilder:default=unicast
	// +kubebuilder:validation:Enum=unicast
	SAFI string `json:"safi"`
	// Advertisements selects the BGPAdvertisements that the peer gets, by
	// their labels. Absent: all.
	//
	// +optional
	Advertisements *metav1.LabelSelector `json:"advertisements,omitempty"`
	// MaxPrefixes that the peer may send; when it sends more, the session is
	// taken down (RFC 4486). Absent: no limit.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	MaxPrefixes int32 `json:"maxPrefixes,omitempty"`
}

// ImportPrefix is a prefix that may be imported, alone or with longer ones
// inside it. 0.0.0.0/0 and ::/0 mean the default route only without GE and LE,
// and any other route with them.
//
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || (cidr(self.cidr).prefixLength() <= self.?ge.orValue(128) && self.?ge.orValue(0) <= self.?le.orValue(128) && cidr(self.cidr).prefixLength() <= self.?le.orValue(128))",message="lengths must not fall: the CIDR's own, then ge, then le"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || cidr(self.cidr).ip().family() == 6 || (self.?ge.orValue(0) <= 32 && self.?le.orValue(0) <= 32)",message="ge and le of an IPv4 prefix are at most 32"
type ImportPrefix struct {
	// CIDR of the prefix.
	//
	// +kubebuilder:validation:MaxLength=49
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="must be a CIDR without host bits, such as 172.20.0.0/16 or fd00:10::/64"
	CIDR string `json:"cidr"`
	// GE is the shortest length that is imported. Absent: the CIDR's own.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=128
	GE int32 `json:"ge,omitempty"`
	// LE is the longest length that is imported. Absent: the CIDR's own, or
	// with GE the whole address's.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=128
	LE int32 `json:"le,omitempty"`
}

// BGPPeerStatus says whether the peer is in force, and counts its sessions.
type BGPPeerStatus struct {
	// Sessions that there should be: one for each node and instance.
	//
	// +optional
	Sessions int32 `json:"sessions"`
	// Established is how many of them are.
	//
	// +optional
	Established int32 `json:"established"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BGPPeerList is a list of BGPPeers.
//
// +kubebuilder:object:root=true
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPPeer `json:"items"`
}
