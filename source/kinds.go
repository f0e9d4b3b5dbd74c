package source

import (
	"fmt"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
)

// Namespace of the Leases that Seamark keeps.
const Namespace = "seamark-system"

// Kinds lists the kinds of object that Seamark knows.
func Kinds() []Kind {
	return []Kind{
		KindService(), KindEndpointSlice(), KindNode(), KindNamespace(), KindLease(), KindSecret(),
		KindIPPool(), KindL2Policy(), KindAnnouncementSlice(),
		KindBGPInstance(), KindBGPPeer(), KindBGPAdvertisement(), KindBFDProfile(),
	}
}

// ForeignKinds lists the kinds of other projects that Seamark understands, as
// those projects' CRDs name them (Cilium 1.18, MetalLB 0.15).
func ForeignKinds() []Kind {
	cilium := func(kind, plural string, version string, others ...string) Kind {
		return Kind{Group: GroupCilium, Version: version, OtherVersions: others, Kind: kind, Plural: plural, Singular: strings.ToLower(kind)}
	}
	metallb := func(kind, plural string, version string, others ...string) Kind {
		return Kind{Group: GroupMetalLB, Version: version, OtherVersions: others, Kind: kind, Plural: plural, Singular: strings.ToLower(kind), Namespaced: true}
	}
	return []Kind{
		cilium("CiliumLoadBalancerIPPool", "ciliumloadbalancerippools", "v2", "v2alpha1"),
		cilium("CiliumL2AnnouncementPolicy", "ciliuml2announcementpolicies", "v2alpha1"),
		cilium("CiliumBGPClusterConfig", "ciliumbgpclusterconfigs", "v2", "v2alpha1"),
		cilium("CiliumBGPPeerConfig", "ciliumbgppeerconfigs", "v2", "v2alpha1"),
		cilium("CiliumBGPAdvertisement", "ciliumbgpadvertisements", "v2", "v2alpha1"),
		cilium("CiliumBGPNodeConfigOverride", "ciliumbgpnodeconfigoverrides", "v2", "v2alpha1"),
		metallb("IPAddressPool", "ipaddresspools", "v1beta1"),
		metallb("L2Advertisement", "l2advertisements", "v1beta1"),
		metallb("BGPPeer", "bgppeers", "v1beta2", "v1beta1"),
		metallb("BGPAdvertisement", "bgpadvertisements", "v1beta1"),
		metallb("Community", "communities", "v1beta1"),
		metallb("BFDProfile", "bfdprofiles", "v1beta1"),
	}
}

// API groups of the projects whose manifests Seamark understands.
const (
	GroupCilium  = "cilium.io"
	GroupMetalLB = "metallb.io"
)

// KindService is v1 Service.
func KindService() Kind {
	return Kind{Version: "v1", Kind: "Service", Plural: "services", Singular: "service", ShortNames: []string{"svc"}, Namespaced: true}
}

// KindEndpointSlice is discovery.k8s.io/v1 EndpointSlice.
func KindEndpointSlice() Kind {
	return Kind{Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice", Plural: "endpointslices", Singular: "endpointslice", ShortNames: []string{"eps"}, Namespaced: true}
}

// KindNode is v1 Node.
func KindNode() Kind {
	return Kind{Version: "v1", Kind: "Node", Plural: "nodes", Singular: "node", ShortNames: []string{"no"}}
}

// KindNamespace is v1 Namespace.
func KindNamespace() Kind {
	return Kind{Version: "v1", Kind: "Namespace", Plural: "namespaces", Singular: "namespace", ShortNames: []string{"ns"}}
}

// KindLease is coordination.k8s.io/v1 Lease.
func KindLease() Kind {
	return Kind{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease", Plural: "leases", Singular: "lease", Namespaced: true}
}

// KindSecret is v1 Secret.
func KindSecret() Kind {
	return Kind{Version: "v1", Kind: "Secret", Plural: "secrets", Singular: "secret", Namespaced: true}
}

// KindIPPool is seamark.dev/v1alpha1 IPPool.
func KindIPPool() Kind { return ownKind("IPPool", "ippools", "ippool") }

// KindL2Policy is seamark.dev/v1alpha1 L2Policy.
func KindL2Policy() Kind { return ownKind("L2Policy", "l2policies", "l2policy") }

// KindBGPInstance is seamark.dev/v1alpha1 BGPInstance.
func KindBGPInstance() Kind { return ownKind("BGPInstance", "bgpinstances", "bgpinstance") }

// KindBGPPeer is seamark.dev/v1alpha1 BGPPeer.
func KindBGPPeer() Kind { return ownKind("BGPPeer", "bgppeers", "bgppeer") }

// KindBGPAdvertisement is seamark.dev/v1alpha1 BGPAdvertisement.
func KindBGPAdvertisement() Kind {
	return ownKind("BGPAdvertisement", "bgpadvertisements", "bgpadvertisement")
}

// KindBFDProfile is seamark.dev/v1alpha1 BFDProfile.
func KindBFDProfile() Kind { return ownKind("BFDProfile", "bfdprofiles", "bfdprofile") }

// KindAnnouncementSlice is seamark.dev/v1alpha1 AnnouncementSlice. Its short
// names are names the seamark CLI takes; the CRD claims none of them.
func KindAnnouncementSlice() Kind {
	return ownKind("AnnouncementSlice", "announcementslices", "announcementslice", "announcement", "announcements")
}

func ownKind(kind, plural, singular string, short ...string) Kind {
	gv := v1alpha1.GroupVersion
	return Kind{Group: gv.Group, Version: gv.Version, Kind: kind, Plural: plural, Singular: singular, ShortNames: short}
}

// FindKind looks a kind up by kind, plural, singular or short name, in any
// case, with or without its group (ippools.seamark.dev). A name that several
// projects' kinds have means Seamark's, unless it has a group.
func FindKind(name string) (Kind, bool) {
	name = strings.ToLower(name)
	for _, k := range slices.Concat(Kinds(), ForeignKinds()) {
		names := append([]string{strings.ToLower(k.Kind), k.Plural, k.Singular}, k.ShortNames...)
		if slices.Contains(names, name) || k.Group != "" && name == k.Plural+"."+k.Group {
			return k, true
		}
	}
	return Kind{}, false
}

// KindOf looks a kind up by what an object says of itself. The error says
// what is known instead.
func KindOf(apiVersion, kind string) (Kind, error) {
	var names []string
	var same *Kind // in name, and Seamark's own rather than another project's
	for _, k := range slices.Concat(Kinds(), ForeignKinds()) {
		if k.Kind == kind {
			if k.servedAs(apiVersion) {
				return k, nil
			}
			if same == nil {
				same = &k
			}
		}
		if !k.Foreign() {
			names = append(names, k.Kind)
		}
	}
	if same != nil {
		return Kind{}, Problem{Field: "apiVersion", Message: fmt.Sprintf("%q is not the API version of %s", apiVersion, kind),
			Cure: fmt.Sprintf("write %s", same.APIVersion())}
	}
	p := Problem{Field: "kind", Message: fmt.Sprintf("%q is not a kind that Seamark knows", kind), Cure: didYouMean(kind, names)}
	if kind == "" {
		p.Message, p.Cure = "is missing", "write one of "+strings.Join(names, ", ")
	}
	return Kind{}, p
}

// KindOfRef looks up the kind of the object that ref names.
func KindOfRef(ref state.ObjectRef) (Kind, bool) {
	for _, k := range slices.Concat(Kinds(), ForeignKinds()) {
		if k.Group == ref.Group && k.Kind == ref.Kind {
			return k, true
		}
	}
	return Kind{}, false
}

// servedAs says whether apiVersion is one that objects of the kind come in.
func (k Kind) servedAs(apiVersion string) bool {
	group, version, ok := strings.Cut(apiVersion, "/")
	if !ok {
		group, version = "", apiVersion
	}
	return group == k.Group && (version == k.Version || slices.Contains(k.OtherVersions, version))
}

// Foreign says whether the kind is another project's.
func (k Kind) Foreign() bool { return k.Group == GroupCilium || k.Group == GroupMetalLB }

// APIVersion is group/version, or version alone for the core group.
func (k Kind) APIVersion() string {
	if k.Group == "" {
		return k.Version
	}
	return k.Group + "/" + k.Version
}

// HasStatus says whether the kind keeps its status apart from what users
// write: an update of such an object leaves the status as it was.
func (k Kind) HasStatus() bool {
	switch k.Kind {
	case "EndpointSlice", "Namespace", "Lease", "Node", "AnnouncementSlice", "Secret":
		return false
	}
	return true
}
