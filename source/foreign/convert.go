package foreign

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Conversion is one object and what it becomes.
type Conversion struct {
	From *unstructured.Unstructured
	// Objects to have instead of From: From itself when it is no other
	// project's, none when a Finding is Fatal or From means something only
	// where others name it.
	Objects []runtime.Object
	// Changed: Objects say it in Seamark's words.
	Changed  bool
	Findings []Finding
}

// Convert translates a whole set of objects. The names of what comes of it do
// not collide, and what names each other still does.
func Convert(objs []*unstructured.Unstructured) []Conversion {
	names := names{taken: map[objectKey]runtime.Object{}, renamed: map[originKey]string{}}
	all := make([]Conversion, len(objs))
	for i, obj := range objs {
		all[i] = convert(obj, objs)
		if !all[i].Changed && obj.GroupVersionKind().Group == v1alpha1.GroupVersion.Group {
			names.taken[objectKey{obj.GetKind(), obj.GetName()}] = obj // keeps its name
		}
	}
	for i := range all {
		c := &all[i]
		if c.Changed {
			c.Objects = slices.DeleteFunc(c.Objects, func(o runtime.Object) bool { return !names.give(o, c.From.GetNamespace()) })
		}
	}
	for i := range all {
		c := &all[i]
		for _, o := range c.Objects {
			if svc, ok := o.(*unstructured.Unstructured); ok && svc.GetKind() == "Service" {
				c.followPool(names)
			} else if c.Changed {
				names.follow(o, c.From.GetNamespace())
			}
		}
	}
	return all
}

func convert(obj *unstructured.Unstructured, others []*unstructured.Unstructured) Conversion {
	c := Conversion{From: obj, Objects: []runtime.Object{obj}}
	switch gvk := obj.GroupVersionKind(); {
	case gvk.Group == Cilium || gvk.Group == MetalLB:
		c.Changed = true
		c.Objects, c.Findings = Translate(obj, others)
	case gvk.Group == "" && gvk.Kind == "Service":
		out, findings := convertService(obj)
		c.Findings = findings
		if !reflect.DeepEqual(out.Object, obj.Object) {
			forgetServer(out)
			c.Objects, c.Changed = []runtime.Object{out}, true
		}
	case gvk.Group == "discovery.k8s.io" && gvk.Kind == "EndpointSlice":
		out, annotations := obj.DeepCopy(), obj.GetAnnotations()
		if w := annotations[WeightAnnotation]; w != "" && w != "0" { // 0 cannot be said otherwise
			delete(annotations, WeightAnnotation)
			annotations[v1alpha1.AnnotationWeight] = w
			out.SetAnnotations(annotations)
			forgetServer(out)
			c.Objects, c.Changed = []runtime.Object{out}, true
		}
	}
	return c
}

// forgetServer removes what an API server, or kubectl, has added to an object
// that comes from one: it is of the object as it was there.
func forgetServer(obj *unstructured.Unstructured) {
	for _, field := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"} {
		unstructured.RemoveNestedField(obj.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(obj.Object, "metadata", "annotations", corev1.LastAppliedConfigAnnotation)
}

// convertService says in Seamark's annotations what a Service asks for. What
// has no effect is left out, with a Finding.
func convertService(obj *unstructured.Unstructured) (*unstructured.Unstructured, []Finding) {
	annotations := obj.GetAnnotations()
	settings, findings := ReadServiceAnnotations(annotations)
	for name := range annotations {
		if !ofServices(name) || strings.HasPrefix(name, v1alpha1.GroupVersion.Group+"/") {
			continue
		}
		delete(annotations, name)
	}
	for ours, setting := range map[string]Setting{
		v1alpha1.AnnotationIPs: settings.IPs, v1alpha1.AnnotationPool: settings.Pool,
		v1alpha1.AnnotationSharingKey: settings.SharingKey, v1alpha1.AnnotationSharingCrossNamespace: settings.SharingWith,
		v1alpha1.AnnotationForwardingMode: settings.Forwarding, v1alpha1.AnnotationAlgorithm: settings.Algorithm,
	} {
		if setting.Annotation != "" {
			annotations[ours] = setting.Value
		}
	}
	out := obj.DeepCopy()
	if len(annotations) == 0 {
		annotations = nil // no empty metadata.annotations
	}
	out.SetAnnotations(annotations)
	if class, _, _ := unstructured.NestedString(obj.Object, "spec", "loadBalancerClass"); class != "" {
		ours, _ := Class(class)
		_ = unstructured.SetNestedField(out.Object, ours, "spec", "loadBalancerClass") // it was read there
	}
	return out, findings
}

// names sees to it that no two objects have one name, and knows the new name
// of those that had to be renamed.
type names struct {
	taken   map[objectKey]runtime.Object
	renamed map[originKey]string
}

type objectKey struct{ kind, name string }

// originKey is an object by the name that it has where it comes from.
type originKey struct{ kind, namespace, name string }

// give names o: as it is named, or with its namespace before, or with a number
// after that. It returns false when o is there already, as it is.
func (n names) give(o runtime.Object, namespace string) bool {
	object, kind := accessor(o), o.GetObjectKind().GroupVersionKind().Kind
	if kind == "Service" || kind == "EndpointSlice" {
		return true
	}
	origin := originKey{kind, namespace, object.GetName()}
	for i := 0; ; i++ {
		switch {
		case i == 1 && namespace != "":
			object.SetName(objectName(namespace, origin.name))
		case i > 0:
			object.SetName(numbered(objectName(namespace, origin.name), i))
		}
		key := objectKey{kind, object.GetName()}
		there, taken := n.taken[key]
		if taken && kind == "BGPInstance" && reflect.DeepEqual(there, o) {
			n.renamed[origin] = object.GetName()
			return false
		}
		if !taken {
			n.taken[key] = o
			if _, twice := n.renamed[origin]; !twice {
				n.renamed[origin] = object.GetName()
			}
			return true
		}
	}
}

// follow lets o, which comes from the namespace, name others as they are now
// named.
func (n names) follow(o runtime.Object, namespace string) {
	rename := func(kind string, refs []string) {
		for i, ref := range refs {
			if name, ok := n.renamed[originKey{kind, namespace, ref}]; ok {
				refs[i] = name
			}
		}
	}
	switch o := o.(type) {
	case *v1alpha1.L2Policy:
		rename("IPPool", o.Spec.Pools)
	case *v1alpha1.BGPPeer:
		rename("BGPInstance", o.Spec.Instances)
		profile := []string{o.Spec.BFDProfile}
		rename("BFDProfile", profile)
		o.Spec.BFDProfile = profile[0]
	case *v1alpha1.BGPAdvertisement:
		rename("BGPPeer", o.Spec.Peers)
		for i := range o.Spec.Advertisements {
			rename("IPPool", o.Spec.Advertisements[i].Pools)
		}
	}
}

// followPool lets a Service name a pool as that is now named.
func (c *Conversion) followPool(n names) {
	svc := c.Objects[0].(*unstructured.Unstructured)
	wanted := svc.GetAnnotations()[v1alpha1.AnnotationPool]
	var found []string
	for origin, name := range n.renamed {
		if origin.kind == "IPPool" && origin.name == wanted {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	if len(found) > 1 {
		c.Findings = append(c.Findings, Finding{Field: annotationField(v1alpha1.AnnotationPool),
			Message: fmt.Sprintf("%q was the name of several pools, which are %s now", wanted, strings.Join(found, ", ")), Cure: "write the one that is meant"})
	}
	if len(found) == 0 || slices.Contains(found, wanted) {
		return
	}
	svc = svc.DeepCopy()
	forgetServer(svc)
	annotations := svc.GetAnnotations()
	annotations[v1alpha1.AnnotationPool] = found[0]
	svc.SetAnnotations(annotations)
	c.Objects, c.Changed = []runtime.Object{svc}, true
}

func accessor(o runtime.Object) metav1.Object {
	object, err := meta.Accessor(o)
	if err != nil {
		panic(fmt.Sprintf("read metadata: %v", err)) // every kind here has them
	}
	return object
}
