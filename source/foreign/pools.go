package foreign

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func (t *translation) pool(spec v1alpha1.IPPoolSpec) []runtime.Object {
	return []runtime.Object{&v1alpha1.IPPool{TypeMeta: typeMeta("IPPool"), ObjectMeta: t.meta(t.obj.GetName()), Spec: spec}}
}

func (t *translation) ciliumPool() []runtime.Object {
	spec := t.spec()
	out := v1alpha1.IPPoolSpec{
		ServiceSelector:   spec.selector("serviceSelector"),
		Disabled:          spec.flag("disabled"),
		AllowFirstLastIPs: spec.oneOf("allowFirstLastIPs", "Yes", "No"),
	}
	// cidrs is what blocks was called before Cilium 1.15.
	for _, block := range slices.Concat(spec.objects("blocks"), spec.objects("cidrs")) {
		b := v1alpha1.IPBlock{CIDR: block.text("cidr"), Start: block.text("start"), Stop: block.text("stop")}
		if b.CIDR != "" {
			t.checkPrefix(block.at("cidr"), b.CIDR)
		}
		if b.Start != "" {
			t.checkAddr(block.at("start"), b.Start)
		}
		if b.Stop != "" {
			t.checkAddr(block.at("stop"), b.Stop)
		}
		if (b.CIDR == "") == (b.Start == "") || b.CIDR != "" && b.Stop != "" {
			t.fatal(block.path, "write cidr, or start and stop", "is neither a CIDR nor a range, or both")
		}
		out.Blocks = append(out.Blocks, b)
	}
	if spec.empty("blocks") && spec.empty("cidrs") {
		t.fatal(spec.at("blocks"), "add a block, such as cidr: 192.168.10.0/28", "is empty")
	}
	return t.pool(out)
}

func (t *translation) metallbPool() []runtime.Object {
	spec := t.spec()
	out := v1alpha1.IPPoolSpec{AvoidBuggyIPs: spec.flag("avoidBuggyIPs")}
	if auto := spec.flag("autoAssign"); spec.has("autoAssign") && !auto {
		out.AutoAssign = new(false)
	}
	for i, text := range spec.texts("addresses") {
		out.Blocks = append(out.Blocks, t.metallbBlock(fmt.Sprintf("%s[%d]", spec.at("addresses"), i), text))
	}
	if spec.empty("addresses") {
		t.fatal(spec.at("addresses"), "add addresses, such as 192.168.10.0/28", "is empty")
	}
	if spec.has("serviceAllocation") {
		t.serviceAllocation(spec.object("serviceAllocation"), &out)
	}
	return t.pool(out)
}

// metallbBlock reads a CIDR or first-last.
func (t *translation) metallbBlock(path, text string) v1alpha1.IPBlock {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		t.checkPrefix(path, text)
		return v1alpha1.IPBlock{CIDR: text}
	}
	first, last = strings.TrimSpace(first), strings.TrimSpace(last)
	if t.checkAddr(path, first) {
		t.checkAddr(path, last)
	}
	return v1alpha1.IPBlock{Start: first, Stop: last}
}

func (t *translation) checkAddr(path, text string) bool {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		t.fatal(path, "write an address such as 192.168.10.211 or fd00:10::1", "%q is no IP address", text)
		return false
	}
	return true
}

func (t *translation) checkPrefix(path, text string) {
	if p, err := netip.ParsePrefix(text); err != nil || p.Addr().Is4In6() {
		t.fatal(path, "write a CIDR such as 192.168.10.0/24 or fd00:10::/64", "%q is no CIDR", text)
	}
}

// Priorities of pools that come from MetalLB. There, a lower number goes
// first, then pools for certain Services without a number, then the others.
const (
	mostPriority   = 1000 // of MetalLB's priority 1
	leastPriority  = 2    // of MetalLB's priority 999 and more
	noPriority     = 1    // of serviceAllocation without priority
	maxMetalLBRank = 1 + mostPriority - leastPriority
)

func (t *translation) serviceAllocation(alloc *fields, out *v1alpha1.IPPoolSpec) {
	out.Priority = noPriority
	rank := alloc.number("priority", 0, 1<<31)
	if rank > maxMetalLBRank {
		t.unhonoured(alloc.at("priority"), fmt.Sprintf("write priorities up to %d", maxMetalLBRank), "%d counts as %d", rank, maxMetalLBRank)
		rank = maxMetalLBRank
	}
	if rank > 0 {
		out.Priority = int32(1 + mostPriority - rank)
	}
	namespaces := alloc.selectors("namespaceSelectors")
	if names := alloc.texts("namespaces"); len(names) > 0 {
		namespaces = append([]metav1.LabelSelector{*in(corev1.LabelMetadataName, names...)}, namespaces...)
	}
	services := alloc.selectors("serviceSelectors")
	if len(namespaces)+len(services) == 0 {
		t.unhonoured(alloc.path, "name namespaces or serviceSelectors in it, or set autoAssign: false for MetalLB's behaviour",
			"selects no Service: MetalLB gives nothing from such a pool unless a Service names it, and Seamark gives to all, in the order of priority")
	}
	var ok bool
	if out.NamespaceSelector, ok = anyOf(namespaces); !ok {
		first := "the first"
		if alloc.has("namespaces") {
			first = "namespaces"
		}
		t.unhonoured(alloc.at("namespaceSelectors"), "give those namespaces one label, and select by that",
			"no single selector means any one of these: only %s counts", first)
	}
	if out.ServiceSelector, ok = anyOf(services); !ok {
		t.unhonoured(alloc.at("serviceSelectors"), "give those Services one label, and select by that",
			"no single selector means any one of these: only the first counts")
	}
}

func (t *translation) ciliumL2Policy() []runtime.Object {
	spec := t.spec()
	return []runtime.Object{&v1alpha1.L2Policy{TypeMeta: typeMeta("L2Policy"), ObjectMeta: t.meta(t.obj.GetName()), Spec: v1alpha1.L2PolicySpec{
		ServiceSelector: spec.selector("serviceSelector"),
		NodeSelector:    spec.selector("nodeSelector"),
		Interfaces:      t.regexps(spec, "interfaces"),
		LoadBalancerIPs: spec.flag("loadBalancerIPs"),
		ExternalIPs:     spec.flag("externalIPs"),
	}}}
}

func (t *translation) regexps(f *fields, name string) []string {
	exprs := f.texts(name)
	for i, expr := range exprs {
		if _, err := regexp.Compile(expr); err != nil || expr == "" {
			t.fatal(fmt.Sprintf("%s[%d]", f.at(name), i), "write an RE2 expression such as ^eth[0-9]+", "%q is no regular expression", expr)
		}
	}
	return exprs
}

// metallbL2 makes a policy for each pair of a node selector and a pool
// selector: what several policies allow adds up, as those selectors do.
func (t *translation) metallbL2() []runtime.Object {
	spec := t.spec()
	base := v1alpha1.L2PolicySpec{LoadBalancerIPs: true}
	for i, name := range spec.texts("interfaces") {
		if name == "" {
			t.fatal(fmt.Sprintf("%s[%d]", spec.at("interfaces"), i), "write the name of an interface", "is empty")
		}
		base.Interfaces = append(base.Interfaces, "^"+regexp.QuoteMeta(name)+"$")
	}
	pools := t.poolChoices(spec)
	nodes := spec.selectors("nodeSelectors")
	if len(nodes) == 0 || slices.ContainsFunc(nodes, selectsAll) {
		nodes = []metav1.LabelSelector{{}}
	}
	var objects []runtime.Object
	for _, node := range nodes {
		for _, choice := range pools {
			policy := &v1alpha1.L2Policy{TypeMeta: typeMeta("L2Policy"), ObjectMeta: t.meta(numbered(t.obj.GetName(), len(objects))), Spec: *base.DeepCopy()}
			if !selectsAll(node) {
				policy.Spec.NodeSelector = node.DeepCopy()
			}
			policy.Spec.Pools, policy.Spec.PoolSelector = slices.Clone(choice.names), choice.selector.DeepCopy()
			objects = append(objects, policy)
		}
	}
	return objects
}

// numbered is the name of the i-th object that one means, counted from 0.
func numbered(name string, i int) string {
	if i == 0 {
		return name
	}
	return fmt.Sprintf("%s-%d", name, i+1)
}

// poolChoice is what pools and poolSelector of one object can say.
type poolChoice struct {
	names    []string
	selector *metav1.LabelSelector
}

// poolChoices reads which pools an advertisement is for: any that one of the
// choices means. The one choice of an advertisement that says nothing is empty.
func (t *translation) poolChoices(spec *fields) []poolChoice {
	names, selectors := spec.texts("ipAddressPools"), spec.selectors("ipAddressPoolSelectors")
	if slices.ContainsFunc(selectors, selectsAll) || len(names)+len(selectors) == 0 {
		return []poolChoice{{}}
	}
	if one, ok := anyOf(selectors); ok {
		return []poolChoice{{names, one}}
	}
	choices := make([]poolChoice, len(selectors))
	for i := range selectors {
		choices[i].selector = &selectors[i]
	}
	choices[0].names = names
	return choices
}
