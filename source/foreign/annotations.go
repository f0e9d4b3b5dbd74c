package foreign

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source/spelling"
)

// WeightAnnotation is Cilium's seamark.dev/weight. Its weight 0 means that the
// endpoints get no new connections.
const WeightAnnotation = "service.cilium.io/weight"

// Setting is the value of an annotation, and which one it is of.
type Setting struct{ Value, Annotation string }

// Field is the path of the annotation.
func (s Setting) Field() string { return annotationField(s.Annotation) }

func annotationField(key string) string { return "metadata.annotations[" + key + "]" }

// ServiceSettings is what a Service's annotations, Seamark's or another
// project's, ask for. A Setting that nobody wrote is empty.
type ServiceSettings struct {
	IPs        Setting // separated by commas
	Pool       Setting // a pool's name
	SharingKey Setting
	// SharingWith are the namespaces shared with, separated by commas, or *.
	SharingWith Setting

	Forwarding Setting // dsr, snat or hybrid
	Dispatch   Setting // ipip or geneve
	Algorithm  Setting // maglev; another one has a Finding
	TableSize  Setting // a number
	Unserved   Setting // drop or refuse

	HealthCheck Setting // tcp, http or none
	// The Setting of each is a number, a duration such as 5s, or, of the path, itself.
	HealthCheckPath, HealthCheckPort, HealthCheckInterval, HealthCheckTimeout, HealthCheckRise, HealthCheckFall Setting
}

// ReadServiceAnnotations reads the annotations of a Service. Where several
// names of one setting are there, Seamark's goes before Cilium's and that
// before MetalLB's; those that say something else have a Finding, as has each
// annotation of the three projects that has no effect.
func ReadServiceAnnotations(annotations map[string]string) (ServiceSettings, []Finding) {
	r := annotationReader{annotations: annotations, read: map[string]bool{}}
	settings := ServiceSettings{
		IPs: r.setting(v1alpha1.AnnotationIPs, "lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips",
			"metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"),
		Pool: r.setting(v1alpha1.AnnotationPool, "metallb.io/address-pool", "metallb.universe.tf/address-pool"),
		SharingKey: r.setting(v1alpha1.AnnotationSharingKey, "lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key",
			"metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"),
		SharingWith: r.setting(v1alpha1.AnnotationSharingCrossNamespace, "lbipam.cilium.io/sharing-cross-namespace",
			"io.cilium/lb-ipam-sharing-cross-namespace"),
		Forwarding: r.setting(v1alpha1.AnnotationForwardingMode, "service.cilium.io/forwarding-mode", "service.cilium.io/mode"),
		Dispatch:   r.setting(v1alpha1.AnnotationDSRDispatch),
		Algorithm:  r.setting(v1alpha1.AnnotationAlgorithm, "service.cilium.io/lb-algorithm"),
		TableSize:  r.setting(v1alpha1.AnnotationTableSize),
		Unserved:   r.setting(v1alpha1.AnnotationUnserved),

		HealthCheck:         r.setting(v1alpha1.AnnotationHealthCheck),
		HealthCheckPath:     r.setting(v1alpha1.AnnotationHealthCheckPath),
		HealthCheckPort:     r.setting(v1alpha1.AnnotationHealthCheckPort),
		HealthCheckInterval: r.setting(v1alpha1.AnnotationHealthCheckInterval),
		HealthCheckTimeout:  r.setting(v1alpha1.AnnotationHealthCheckTimeout),
		HealthCheckRise:     r.setting(v1alpha1.AnnotationHealthCheckRise),
		HealthCheckFall:     r.setting(v1alpha1.AnnotationHealthCheckFall),
	}
	if a := settings.Algorithm; a.Value != "" && a.Value != "maglev" {
		r.findings = append(r.findings, Finding{Field: a.Field(),
			Message: fmt.Sprintf("%q: this version balances by Maglev alone", a.Value), Cure: "remove it, or write maglev"})
	}
	if key := settings.SharingKey; strings.HasPrefix(key.Annotation, "metallb.") && settings.SharingWith.Value == "" {
		settings.SharingWith = Setting{"*", key.Annotation} // MetalLB's key knows no namespaces
	}
	r.sayUnread()
	return settings, r.findings
}

type annotationReader struct {
	annotations map[string]string
	read        map[string]bool
	settings    [][]string // the names of each
	findings    []Finding
}

// setting reads the first of the names that is there.
func (r *annotationReader) setting(names ...string) Setting {
	r.settings = append(r.settings, names)
	var first Setting
	for _, name := range names {
		r.read[name] = true
		value, ok := r.annotations[name]
		switch {
		case !ok || value == "":
		case first.Annotation == "":
			first = Setting{value, name}
		case !slices.Equal(listOf(value), listOf(first.Value)):
			r.findings = append(r.findings, Finding{Field: annotationField(name),
				Message: fmt.Sprintf("%q contradicts %s, which counts", value, first.Annotation), Cure: "remove one of the two"})
		}
	}
	return first
}

// listOf reads what is separated by commas, in no order.
func listOf(text string) []string {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		items = append(items, strings.TrimSpace(item))
	}
	slices.Sort(items)
	return items
}

// sayUnread names what has no effect: because this version does not do it, or
// because there is no such annotation, which people will not notice by themselves.
func (r *annotationReader) sayUnread() {
	for _, name := range slices.Sorted(maps.Keys(r.annotations)) {
		if r.read[name] || withoutMeaning(name, r.annotations[name]) {
			continue
		}
		f := Finding{Field: annotationField(name), Message: "has no effect in this version", Cure: "remove it"}
		meant := ""
		if !slices.Contains(undone, name) {
			meant = r.meant(name)
		}
		switch {
		case meant != "":
			f.Message, f.Cure = "has no effect: there is no such annotation", fmt.Sprintf("did you mean %q?", meant)
		case !ofServices(name):
			continue
		case name == v1alpha1.AnnotationWeight || name == WeightAnnotation:
			f.Message, f.Cure = "has no effect on a Service", "put it on the EndpointSlices"
		case name == "service.cilium.io/type":
			f.Cure = "remove it; spec.allocateLoadBalancerNodePorts: false does without node ports"
		case name == "service.cilium.io/node" || name == "service.cilium.io/node-selector":
			f.Cure = "remove it: every node serves the Service"
		case name == "service.cilium.io/src-ranges-policy":
			f.Message = fmt.Sprintf("%q: spec.loadBalancerSourceRanges are the clients that are let in, and nobody else is", r.annotations[name])
			f.Cure = "remove it, and write the ranges to let in"
		}
		r.findings = append(r.findings, f)
	}
}

// undone are the annotations that there are, and that Seamark does nothing for.
var undone = []string{
	v1alpha1.AnnotationWeight, WeightAnnotation,
	"lbipam.cilium.io/sharing-permit-different-pods",
	"service.cilium.io/type", "service.cilium.io/node", "service.cilium.io/node-selector",
	"service.cilium.io/src-ranges-policy", "service.cilium.io/proxy-delegation",
	"service.cilium.io/global", "service.cilium.io/global-sync-endpoint-slices", "service.cilium.io/shared", "service.cilium.io/affinity",
	"io.cilium/global-service", "io.cilium/shared-service", "io.cilium/service-affinity",
}

// meant returns the annotation that name, which is none, is nearest to; "" when
// it is near to none. A setting may have another project's word for it: who
// writes seamark.dev/address-pool means seamark.dev/pool.
func (r *annotationReader) meant(name string) string {
	prefix, word, _ := strings.Cut(name, "/")
	for _, names := range r.settings {
		at := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, prefix+"/") })
		if at < 0 {
			continue
		}
		for _, other := range names {
			if _, w, _ := strings.Cut(other, "/"); strings.EqualFold(w, word) {
				return names[at]
			}
		}
	}
	edits := 2
	if ofServices(name) { // of the rest, nobody else may read it
		edits = max(edits, len(word)/3)
	}
	return spelling.Nearest(name, slices.Concat(slices.Concat(r.settings...), undone), edits)
}

// ofServices says whether the annotation is one that a project reads, or
// would read, on Services.
func ofServices(name string) bool {
	prefix, _, _ := strings.Cut(name, "/")
	switch prefix {
	case v1alpha1.GroupVersion.Group, "lbipam.cilium.io", "service.cilium.io", MetalLB, "metallb.universe.tf":
		return true
	}
	switch name {
	case "io.cilium/global-service", "io.cilium/shared-service", "io.cilium/service-affinity":
		return true
	}
	return strings.HasPrefix(name, "io.cilium/lb-ipam-")
}

// withoutMeaning says whether what the annotation says is so without it.
func withoutMeaning(name, value string) bool {
	switch name {
	case "metallb.io/ip-allocated-from-pool", "metallb.universe.tf/ip-allocated-from-pool": // MetalLB's own note
		return true
	case "service.cilium.io/src-ranges-policy":
		return value == "allow"
	case "service.cilium.io/proxy-delegation", "service.cilium.io/affinity", "io.cilium/service-affinity":
		return value == "none"
	case "service.cilium.io/global", "io.cilium/global-service":
		return value == "false"
	}
	return false
}

// Class returns the loadBalancerClass of Seamark's that means what class does,
// and whose class is; or class itself and "".
func Class(class string) (ours, product string) {
	switch class {
	case "io.cilium/l2-announcer":
		return v1alpha1.ClassL2, productCilium
	case "io.cilium/bgp-control-plane":
		return v1alpha1.ClassBGP, productCilium
	}
	return class, ""
}

// productCilium is state.ProductCilium: this package knows no rows.
const productCilium = "Cilium"
