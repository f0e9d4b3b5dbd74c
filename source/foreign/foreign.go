// Package foreign reads the load balancing objects of other projects, Cilium
// and MetalLB, and says what they mean in Seamark's kinds. It is pure: objects
// in, objects out, and with them everything that cannot be honoured.
package foreign

import (
	"fmt"
	"slices"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// API groups of the two projects.
const (
	Cilium  = "cilium.io"
	MetalLB = "metallb.io"
)

// Finding is something about an object that its owner should know.
type Finding struct {
	// Field is its path, such as spec.addresses[0]; "" is the whole object.
	Field, Message, Cure string
	// Fatal: the object is wrong, or means nothing to Seamark. Otherwise the
	// one field cannot be honoured, and the rest is.
	Fatal bool
	// Unresolved: the field names an object that was not given, or that is not known
	// to be readable.
	Unresolved bool
}

// Translate returns what obj means: IPPools, L2Policies, BGPInstances,
// BGPPeers, BGPAdvertisements and BFDProfiles, named as obj is, or after it;
// without status. None when a Finding is Fatal, and for objects that mean
// something only where others name them. Those that obj names are looked for
// among others.
//
// Every field of the kinds is translated or has a Finding: the APIs are those
// of Cilium 1.18 (v2, v2alpha1) and MetalLB 0.15 (v1beta1, v1beta2).
func Translate(obj *unstructured.Unstructured, others []*unstructured.Unstructured) ([]runtime.Object, []Finding) {
	t := newTranslation(obj, others)
	kind := obj.GroupVersionKind().GroupKind()
	var objects []runtime.Object
	switch kind {
	case schema.GroupKind{Group: Cilium, Kind: "CiliumLoadBalancerIPPool"}:
		objects = t.ciliumPool()
	case schema.GroupKind{Group: Cilium, Kind: "CiliumL2AnnouncementPolicy"}:
		objects = t.ciliumL2Policy()
	case schema.GroupKind{Group: Cilium, Kind: "CiliumBGPClusterConfig"}:
		objects = t.ciliumClusterConfig()
	case schema.GroupKind{Group: Cilium, Kind: "CiliumBGPPeerConfig"}:
		t.ciliumPeerConfig()
	case schema.GroupKind{Group: Cilium, Kind: "CiliumBGPAdvertisement"}:
		objects = t.ciliumAdvertisement()
	case schema.GroupKind{Group: Cilium, Kind: "CiliumBGPNodeConfigOverride"}:
		t.ciliumNodeOverride()
	case schema.GroupKind{Group: MetalLB, Kind: "IPAddressPool"}:
		objects = t.metallbPool()
	case schema.GroupKind{Group: MetalLB, Kind: "L2Advertisement"}:
		objects = t.metallbL2()
	case schema.GroupKind{Group: MetalLB, Kind: "BGPPeer"}:
		objects = t.metallbPeer()
	case schema.GroupKind{Group: MetalLB, Kind: "BGPAdvertisement"}:
		objects = t.metallbAdvertisement()
	case schema.GroupKind{Group: MetalLB, Kind: "Community"}:
		t.metallbCommunity()
	case schema.GroupKind{Group: MetalLB, Kind: "BFDProfile"}:
		objects = t.metallbBFDProfile()
	default:
		t.fatal("kind", "write an object of Cilium's or MetalLB's load balancing kinds", "%s is none that can be translated", kind)
	}
	t.sayUnread()
	if slices.ContainsFunc(t.findings, func(f Finding) bool { return f.Fatal }) {
		objects = nil
	}
	return objects, t.findings
}

// translation is one object while it is read.
type translation struct {
	obj      *unstructured.Unstructured
	others   []*unstructured.Unstructured
	findings []Finding
	// all objects within obj that were begun to be read, in that order.
	all []*fields
}

func newTranslation(obj *unstructured.Unstructured, others []*unstructured.Unstructured) *translation {
	return &translation{obj: obj, others: others}
}

func (t *translation) fatal(field, cure, format string, args ...any) {
	t.findings = append(t.findings, Finding{Field: field, Message: fmt.Sprintf(format, args...), Cure: cure, Fatal: true})
}

// unhonoured adds a Finding of a field that Seamark goes on without.
func (t *translation) unhonoured(field, cure, format string, args ...any) {
	t.findings = append(t.findings, Finding{Field: field, Message: fmt.Sprintf(format, args...), Cure: cure})
}

func (t *translation) unresolved(field, cure, format string, args ...any) {
	t.findings = append(t.findings, Finding{Field: field, Message: fmt.Sprintf(format, args...), Cure: cure, Unresolved: true})
}

// spec begins to read the object.
func (t *translation) spec() *fields {
	root := &fields{t: t, values: t.obj.Object, read: map[string]bool{"apiVersion": true, "kind": true, "metadata": true, "status": true}}
	t.all = append(t.all, root)
	return root.object("spec")
}

// sayUnread names the fields that nobody has read: those there are none of.
func (t *translation) sayUnread() {
	for _, f := range t.all {
		f.sayUnread()
	}
}

// named returns those of the other objects that are of the kind, and have the
// name unless it is "". They are in obj's namespace, if it has one.
func (t *translation) named(group, kind, name string) []*unstructured.Unstructured {
	var found []*unstructured.Unstructured
	for _, o := range t.others {
		if o.GroupVersionKind().GroupKind() == (schema.GroupKind{Group: group, Kind: kind}) &&
			o.GetNamespace() == t.obj.GetNamespace() && (name == "" || o.GetName() == name) {
			found = append(found, o)
		}
	}
	return found
}

// meta is the metadata that goes over to an object that means the same.
func (t *translation) meta(name string) metav1.ObjectMeta {
	annotations := t.obj.GetAnnotations() // a copy
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	if len(annotations) == 0 {
		annotations = nil
	}
	return metav1.ObjectMeta{Name: name, Labels: t.obj.GetLabels(), Annotations: annotations}
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: kind}
}
