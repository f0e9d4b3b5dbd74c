package source

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// defaultService sets the defaults an API server would, as far as load
// balancing reads them.
func defaultService(s *corev1.Service) {
	spec := &s.Spec
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	if spec.SessionAffinity == "" {
		spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		if spec.SessionAffinityConfig == nil {
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{}
		}
		if spec.SessionAffinityConfig.ClientIP == nil {
			spec.SessionAffinityConfig.ClientIP = &corev1.ClientIPConfig{}
		}
		if spec.SessionAffinityConfig.ClientIP.TimeoutSeconds == nil {
			spec.SessionAffinityConfig.ClientIP.TimeoutSeconds = new(int32(defaultAffinity))
		}
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == (intstr.IntOrString{}) {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	if spec.InternalTrafficPolicy == nil {
		spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyCluster)
	}
	outside := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer || len(spec.ExternalIPs) > 0
	if spec.ExternalTrafficPolicy == "" && outside {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer && spec.AllocateLoadBalancerNodePorts == nil {
		spec.AllocateLoadBalancerNodePorts = new(true)
	}
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if len(spec.IPFamilies) > 1 || len(spec.ClusterIPs) > 1 {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	if len(spec.IPFamilies) == 0 {
		for _, family := range serviceFamilies(s) {
			spec.IPFamilies = append(spec.IPFamilies, corev1.IPFamily(family))
		}
	}
}

func checkService(s *corev1.Service) Problems {
	var problems Problems
	spec := &s.Spec
	oneOf(&problems, "spec.type", spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	oneOf(&problems, "spec.sessionAffinity", spec.SessionAffinity, corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP)
	if p := spec.ExternalTrafficPolicy; p != "" {
		oneOf(&problems, "spec.externalTrafficPolicy", p, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	}
	if p := spec.InternalTrafficPolicy; p != nil {
		oneOf(&problems, "spec.internalTrafficPolicy", *p, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	}
	if p := spec.IPFamilyPolicy; p != nil {
		oneOf(&problems, "spec.ipFamilyPolicy", *p, corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack)
	}
	for i, f := range spec.IPFamilies {
		path := fmt.Sprintf("spec.ipFamilies[%d]", i)
		oneOf(&problems, path, f, corev1.IPv4Protocol, corev1.IPv6Protocol)
		if slices.Contains(spec.IPFamilies[:i], f) {
			problems.add(path, "remove one", "%q is there twice", f)
		}
	}
	checkServicePorts(&problems, spec)
	for i, ip := range spec.ExternalIPs {
		checkOutsideAddr(&problems, fmt.Sprintf("spec.externalIPs[%d]", i), ip)
	}
	if spec.LoadBalancerIP != "" {
		checkAddr(&problems, "spec.loadBalancerIP", spec.LoadBalancerIP)
	}
	if spec.ClusterIP != "" && spec.ClusterIP != corev1.ClusterIPNone {
		checkAddr(&problems, "spec.clusterIP", spec.ClusterIP)
	}
	for i, ip := range spec.ClusterIPs {
		if ip != corev1.ClusterIPNone {
			checkAddr(&problems, fmt.Sprintf("spec.clusterIPs[%d]", i), ip)
		}
	}
	if c := spec.LoadBalancerClass; c != nil {
		if msgs := validation.IsQualifiedName(*c); len(msgs) > 0 {
			problems.add("spec.loadBalancerClass", "write a name such as seamark.dev/l2", "%q: %s", *c, withoutRegex(strings.Join(msgs, "; ")))
		}
		checkClass(&problems, *c)
		if spec.Type != corev1.ServiceTypeLoadBalancer {
			problems.add("spec.loadBalancerClass", "remove it, or make spec.type LoadBalancer", "goes with type LoadBalancer only")
		}
	}
	if spec.Type == corev1.ServiceTypeExternalName && spec.ExternalName == "" {
		problems.add("spec.externalName", "add it", "is missing")
	}
	wrong, _ := setRequests(&state.Service{}, s)
	problems.addNew(wrong)
	return problems
}

// checkClass: a class of Seamark's group that is none would be nobody's, and the
// Service without an address for ever. Kubernetes lets no class change.
func checkClass(problems *Problems, class string) {
	if strings.HasPrefix(class, v1alpha1.GroupVersion.Group+"/") && class != v1alpha1.ClassL2 && class != v1alpha1.ClassBGP {
		problems.add("spec.loadBalancerClass", "create the Service anew with "+v1alpha1.ClassL2+", "+v1alpha1.ClassBGP+" or none",
			"there is no class %q", class)
	}
}

func checkServicePorts(problems *Problems, spec *corev1.ServiceSpec) {
	headless := spec.ClusterIP == corev1.ClusterIPNone
	if len(spec.Ports) == 0 && !headless && spec.Type != corev1.ServiceTypeExternalName {
		problems.add("spec.ports", "add a port", "is missing")
	}
	names, numbers := map[string]bool{}, map[string]bool{}
	for i, p := range spec.Ports {
		path := fmt.Sprintf("spec.ports[%d]", i)
		switch {
		case p.Name == "" && len(spec.Ports) > 1:
			problems.add(path+".name", "give each port a name", "is missing, and there are several ports")
		case p.Name != "" && names[p.Name]:
			problems.add(path+".name", "give each port a name of its own", "%q is there twice", p.Name)
		case p.Name != "":
			if msgs := validation.IsDNS1123Label(p.Name); len(msgs) > 0 {
				problems.add(path+".name", "choose another name", "%q: %s", p.Name, withoutRegex(strings.Join(msgs, "; ")))
			}
		}
		names[p.Name] = true
		checkProtocol(problems, path+".protocol", p.Protocol)
		if checkPort(problems, path+".port", p.Port) {
			number := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
			if numbers[number] {
				problems.add(path+".port", "remove one", "%s is there twice", number)
			}
			numbers[number] = true
		}
		if p.TargetPort.Type == intstr.Int {
			// A wrong port that TargetPort defaults to is said once.
			if p.TargetPort.IntVal != p.Port {
				checkPort(problems, path+".targetPort", p.TargetPort.IntVal)
			}
		} else if msgs := validation.IsValidPortName(p.TargetPort.StrVal); len(msgs) > 0 {
			problems.add(path+".targetPort", "write a port number or the name of a container port", "%q: %s", p.TargetPort.StrVal, withoutRegex(strings.Join(msgs, "; ")))
		}
		if p.NodePort != 0 && (p.NodePort < firstNodePort || p.NodePort > lastNodePort) {
			problems.add(path+".nodePort", fmt.Sprintf("write a port from %d to %d, or none", firstNodePort, lastNodePort), "%d is no node port", p.NodePort)
		}
	}
}

// Node ports are of a range of their own, by default this one, so that no Service
// takes a port that the node itself serves.
const firstNodePort, lastNodePort = 30000, 32767

func checkPort(problems *Problems, path string, port int32) bool {
	if port < 1 || port > 65535 {
		problems.add(path, "write a port from 1 to 65535", "%d is no port", port)
		return false
	}
	return true
}

func checkProtocol(problems *Problems, path string, p corev1.Protocol) {
	oneOf(problems, path, p, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
}

func oneOf[S ~string](problems *Problems, path string, value S, allowed ...S) {
	if slices.Contains(allowed, value) {
		return
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	problems.add(path, "write one of "+strings.Join(names, ", "), "%q is not a value it can have", value)
}

// checkAddr parses an IP address.
func checkAddr(problems *Problems, path, s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		problems.add(path, "write an address such as 192.168.10.211 or fd00:10::1", "%q is no IP address", s)
		return netip.Addr{}, false
	}
	return addr, true
}

// checkOutsideAddr is checkAddr for addresses that outside machines are to
// send to, which some never can be.
func checkOutsideAddr(problems *Problems, path, s string) {
	if addr, ok := checkAddr(problems, path, s); ok && notOutside(addr) {
		problems.add(path, "choose an address that other machines can send to", "%s cannot be announced", s)
	}
}

// notOutside says whether no machine can have the address towards others.
func notOutside(a netip.Addr) bool {
	return a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is6() && a.IsLinkLocalUnicast() ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func checkPrefix(problems *Problems, path, s string) {
	if p, err := netip.ParsePrefix(s); err != nil || p.Addr().Is4In6() {
		problems.add(path, "write a CIDR such as 192.168.10.0/24 or fd00:10::/64", "%q is no CIDR", s)
	}
}
