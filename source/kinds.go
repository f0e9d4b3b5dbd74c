package source

import (
	"fmt"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
)

// Namespace of the Leases that Seamark keeps.
const Namespace = "seamark-system"

// Kinds lists the kinds of object that Seamark knows.
func Kinds() []Kind {
	return []Kind{
		KindService(), KindEndpointSlice(), KindNode(), KindNamespace(), KindLease(),
		KindIPPool(), KindL2Policy(), KindAnnouncementSlice(),
	}
}

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

// KindIPPool is seamark.dev/v1alpha1 IPPool.
func KindIPPool() Kind { return ownKind("IPPool", "ippools", "ippool") }

// KindL2Policy is seamark.dev/v1alpha1 L2Policy.
func KindL2Policy() Kind { return ownKind("L2Policy", "l2policies", "l2policy") }

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
// case, with or without its group (ippools.seamark.dev).
func FindKind(name string) (Kind, bool) {
	name = strings.ToLower(name)
	for _, k := range Kinds() {
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
	for _, k := range Kinds() {
		if k.Kind == kind {
			if k.APIVersion() == apiVersion {
				return k, nil
			}
			return Kind{}, Problem{Field: "apiVersion", Message: fmt.Sprintf("%q is not the API version of %s", apiVersion, kind),
				Cure: fmt.Sprintf("write %s", k.APIVersion())}
		}
		names = append(names, k.Kind)
	}
	p := Problem{Field: "kind", Message: fmt.Sprintf("%q is not a kind that Seamark knows", kind), Cure: didYouMean(kind, names)}
	if kind == "" {
		p.Message, p.Cure = "is missing", "write one of "+strings.Join(names, ", ")
	}
	return Kind{}, p
}

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
	case "Service", "IPPool", "L2Policy":
		return true
	}
	return false
}
