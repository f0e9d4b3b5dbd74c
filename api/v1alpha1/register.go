package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of Seamark's kinds.
var GroupVersion = schema.GroupVersion{Group: "seamark.dev", Version: "v1alpha1"}

// AddToScheme registers the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&IPPool{}, &IPPoolList{},
		&L2Policy{}, &L2PolicyList{},
		&BGPInstance{}, &BGPInstanceList{},
		&BGPPeer{}, &BGPPeerList{},
		&BGPAdvertisement{}, &BGPAdvertisementList{},
		&BFDProfile{}, &BFDProfileList{},
		&AnnouncementSlice{}, &AnnouncementSliceList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
