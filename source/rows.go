package source

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source/foreign"
	"github.com/seamark-lb/seamark/source/spelling"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// ServiceRow is the row of a Service. What does not parse is left out of the
// row and named in the problems.
func ServiceRow(s *corev1.Service) (state.Service, Problems) {
	row := state.Service{
		Name:        state.ObjectName{Namespace: s.Namespace, Name: s.Name},
		UID:         string(s.UID),
		Created:     s.CreationTimestamp.Time,
		Labels:      s.Labels,
		Annotations: s.Annotations,
		Selector:    s.Spec.Selector,
		Type:        string(s.Spec.Type),
		Families:    serviceFamilies(s),
		Conditions:  s.Status.Conditions,

		FamilyPolicy: string(familyPolicy(s)),

		HealthCheckNodePort:        uint16(s.Spec.HealthCheckNodePort),
		ExternalTrafficPolicyLocal: s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		InternalTrafficPolicyLocal: s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
	}
	var problems Problems
	if class := s.Spec.LoadBalancerClass; class != nil {
		row.Class, row.ClassOf = foreign.Class(*class)
		checkClass(&problems, *class)
	}
	clusterIPs := s.Spec.ClusterIPs
	if len(clusterIPs) == 0 && s.Spec.ClusterIP != "" {
		clusterIPs = []string{s.Spec.ClusterIP}
	}
	for i, ip := range clusterIPs {
		if ip == corev1.ClusterIPNone {
			row.Headless = true
			continue
		}
		if a, ok := checkAddr(&problems, fmt.Sprintf("spec.clusterIPs[%d]", i), ip); ok {
			row.ClusterIPs = append(row.ClusterIPs, a)
		}
	}
	for i, ip := range s.Spec.ExternalIPs {
		if a, ok := checkAddr(&problems, fmt.Sprintf("spec.externalIPs[%d]", i), ip); ok {
			row.ExternalIPs = append(row.ExternalIPs, a)
		}
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		if in.IP == "" {
			continue // a hostname
		}
		if a, ok := checkAddr(&problems, fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i), in.IP); ok {
			row.Ingress = append(row.Ingress, a)
		}
	}
	wrong, unhonoured := setRequests(&row, s)
	problems = append(problems, append(wrong, unhonoured...)...)
	for i, p := range s.Spec.Ports {
		path := fmt.Sprintf("spec.ports[%d]", i)
		protocol, ok := protocolNumber(p.Protocol)
		if !ok {
			checkProtocol(&problems, path+".protocol", p.Protocol)
			continue
		}
		if !checkPort(&problems, path+".port", p.Port) {
			continue
		}
		port := state.ServicePort{Name: p.Name, Protocol: protocol, Port: uint16(p.Port)}
		if p.NodePort != 0 && checkPort(&problems, path+".nodePort", p.NodePort) {
			port.NodePort = uint16(p.NodePort)
		}
		row.Ports = append(row.Ports, port)
	}
	return row, problems
}

func familyPolicy(s *corev1.Service) corev1.IPFamilyPolicy {
	if p := s.Spec.IPFamilyPolicy; p != nil {
		return *p
	}
	return ""
}

// serviceFamilies are the families that load balancer addresses are wanted
// for: those of the spec, or else of the cluster IPs, or else IPv4; both when
// the policy is a dual-stack one. But who prefers both, and got a clusterIP of
// one alone, is in a cluster that has only that one for its pods.
func serviceFamilies(s *corev1.Service) []string {
	var families []string
	add := func(family string) {
		if !slices.Contains(families, family) {
			families = append(families, family)
		}
	}
	for _, f := range s.Spec.IPFamilies {
		add(string(f))
	}
	if len(families) == 0 {
		for _, ip := range append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...) {
			if a, err := netip.ParseAddr(ip); err == nil {
				add(familyOf(a))
			}
		}
	}
	if len(families) == 0 {
		add(string(corev1.IPv4Protocol))
	}
	clusterIPs := slices.DeleteFunc(append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...), func(ip string) bool {
		return ip == "" || ip == corev1.ClusterIPNone
	})
	switch p := familyPolicy(s); {
	case p == corev1.IPFamilyPolicyRequireDualStack, p == corev1.IPFamilyPolicyPreferDualStack && len(clusterIPs) == 0:
		add(string(corev1.IPv4Protocol))
		add(string(corev1.IPv6Protocol))
	}
	return families
}

func familyOf(a netip.Addr) string {
	if a.Is4() {
		return string(corev1.IPv4Protocol)
	}
	return string(corev1.IPv6Protocol)
}

func protocolNumber(p corev1.Protocol) (state.Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "": // the API's default
		return state.TCP, true
	case corev1.ProtocolUDP:
		return state.UDP, true
	case corev1.ProtocolSCTP:
		return state.SCTP, true
	}
	return 0, false
}

// EndpointSliceRow is the row of an EndpointSlice. What does not parse is left
// out of the row and named in the problems.
func EndpointSliceRow(s *discoveryv1.EndpointSlice) (state.EndpointSlice, Problems) {
	row := state.EndpointSlice{
		Name:    state.ObjectName{Namespace: s.Namespace, Name: s.Name},
		Service: state.ObjectName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]},
	}
	var problems Problems
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		problems.add("addressType", "use a slice of addressType IPv4 or IPv6", "FQDN endpoints cannot be balanced to")
		return row, problems
	}
	for i, p := range s.Ports {
		path := fmt.Sprintf("ports[%d]", i)
		if p.Port == nil {
			problems.add(path+".port", "write the port", "a port for all ports cannot be balanced to")
			continue
		}
		var protocol corev1.Protocol
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		number, ok := protocolNumber(protocol)
		if !ok {
			checkProtocol(&problems, path+".protocol", protocol)
			continue
		}
		if !checkPort(&problems, path+".port", *p.Port) {
			continue
		}
		port := state.EndpointPort{Protocol: number, Port: uint16(*p.Port)}
		if p.Name != nil {
			port.Name = *p.Name
		}
		row.Ports = append(row.Ports, port)
	}
	weight, idle, more := sliceWeight(s)
	problems = append(problems, more...)
	for i, ep := range s.Endpoints {
		if len(ep.Addresses) == 0 {
			continue
		}
		// All addresses of an endpoint are of one and the same pod; consumers use the first.
		a, ok := checkAddr(&problems, fmt.Sprintf("endpoints[%d].addresses[0]", i), ep.Addresses[0])
		if !ok {
			continue
		}
		// Absent conditions: ready is true, serving is as ready, terminating is false (API reference).
		ready := ep.Conditions.Ready == nil || *ep.Conditions.Ready
		serving := ready
		if ep.Conditions.Serving != nil {
			serving = *ep.Conditions.Serving
		}
		b := state.Backend{Addr: a, Ready: ready && !idle, Serving: serving, Weight: weight,
			Terminating: ep.Conditions.Terminating != nil && *ep.Conditions.Terminating}
		if ep.NodeName != nil {
			b.Node = *ep.NodeName
		}
		if h := ep.Hints; h != nil {
			b.ForZones = hinted(h.ForZones, func(z discoveryv1.ForZone) string { return z.Name })
			b.ForNodes = hinted(h.ForNodes, func(n discoveryv1.ForNode) string { return n.Name })
		}
		row.Endpoints = append(row.Endpoints, b)
	}
	return row, problems
}

// hinted joins the names of hints: sorted, between commas.
func hinted[H any](hints []H, name func(H) string) string {
	names := make([]string, len(hints))
	for i, h := range hints {
		names[i] = name(h)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// sliceWeight is the weight of all endpoints of the slice, 0 when it has none.
// idle: they are to have no new connections, which Cilium writes as weight 0.
func sliceWeight(s *discoveryv1.EndpointSlice) (weight uint16, idle bool, problems Problems) {
	for _, name := range weightAnnotations {
		text, ok := s.Annotations[name]
		if !ok {
			continue
		}
		least := uint64(1)
		if name == foreign.WeightAnnotation {
			least = 0
		}
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n < least {
			problems.add("metadata.annotations["+name+"]", fmt.Sprintf("write a number from %d to 65535", least), "%q is no weight", text)
			return 0, false, problems
		}
		return uint16(n), n == 0, nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.Annotations)) {
		if meant := spelling.Nearest(name, weightAnnotations, 2); meant != "" {
			problems.add("metadata.annotations["+name+"]", fmt.Sprintf("did you mean %q?", meant), "has no effect: there is no such annotation")
		}
	}
	return 0, false, problems
}

// weightAnnotations of an EndpointSlice; the first that is there counts.
var weightAnnotations = []string{v1alpha1.AnnotationWeight, foreign.WeightAnnotation}

// NodeRow is the row of a Node. What does not parse is left out of the row and
// named in the problems.
func NodeRow(n *corev1.Node) (state.Node, Problems) {
	row := state.Node{Name: n.Name, Labels: n.Labels, Unschedulable: n.Spec.Unschedulable, Stopping: stopping(n)}
	var problems Problems
	for i, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if addr, ok := checkAddr(&problems, fmt.Sprintf("status.addresses[%d].address", i), a.Address); ok {
			row.Addrs = append(row.Addrs, addr)
		}
	}
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	for i, cidr := range cidrs {
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			checkPrefix(&problems, fmt.Sprintf("spec.podCIDRs[%d]", i), cidr)
			continue
		}
		row.PodCIDRs = append(row.PodCIDRs, p.Masked())
	}
	return row, problems
}

// stopping says whether the node's kubelet has seen that the machine is shutting
// down (KEP-2000): there is no field for it but the message of the condition Ready.
func stopping(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, "node is shutting down")
	})
}
