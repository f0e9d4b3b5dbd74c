package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// column is one column of a kind's table.
type column struct {
	name string
	wide bool // with -o wide alone
	cell func(*unstructured.Unstructured) string
}

type columns []column

func (cs columns) header(wide bool) []string {
	var names []string
	for _, c := range cs.shown(wide) {
		names = append(names, c.name)
	}
	return names
}

func (cs columns) cells(obj *unstructured.Unstructured, wide bool) []string {
	var cells []string
	for _, c := range cs.shown(wide) {
		cells = append(cells, c.cell(obj))
	}
	return cells
}

func (cs columns) shown(wide bool) columns {
	return slices.DeleteFunc(slices.Clone(cs), func(c column) bool { return c.wide && !wide })
}

// col and wideCol make a column of a kind's Go type.
func col[T any](name string, cell func(*T) string) column {
	return column{name: name, cell: func(obj *unstructured.Unstructured) string {
		typed := new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, typed); err != nil {
			return "<invalid>" // stored by another version; -o yaml shows it
		}
		return cell(typed)
	}}
}

func wideCol[T any](name string, cell func(*T) string) column {
	c := col(name, cell)
	c.wide = true
	return c
}

// columnsOf returns the columns of a kind, as kubectl shows them.
func columnsOf(kind source.Kind) columns {
	name := column{name: "NAME", cell: (*unstructured.Unstructured).GetName}
	age := column{name: "AGE", cell: func(obj *unstructured.Unstructured) string { return ageOf(obj.GetCreationTimestamp().Time) }}
	var between, after columns
	switch kind.Kind {
	case "Service":
		between = columns{
			col("TYPE", func(s *corev1.Service) string { return string(s.Spec.Type) }),
			col("CLUSTER-IP", func(s *corev1.Service) string { return or(s.Spec.ClusterIP, none) }),
			col("EXTERNAL-IP", externalIPs),
			col("PORT(S)", servicePorts),
		}
		after = columns{wideCol("SELECTOR", func(s *corev1.Service) string {
			return or(labelsText(s.Spec.Selector), none)
		})}
	case "EndpointSlice":
		between = columns{
			col("ADDRESSTYPE", func(s *discoveryv1.EndpointSlice) string { return string(s.AddressType) }),
			col("PORTS", endpointPorts),
			col("ENDPOINTS", endpointAddresses),
		}
	case "Node":
		between = columns{
			col("STATUS", nodeStatus),
			col("ROLES", nodeRoles),
		}
		after = columns{
			col("VERSION", func(n *corev1.Node) string { return or(n.Status.NodeInfo.KubeletVersion, none) }),
			wideCol("INTERNAL-IP", func(n *corev1.Node) string { return join(nodeAddresses(n)) }),
			wideCol("PODCIDRS", func(n *corev1.Node) string { return join(podCIDRs(n)) }),
		}
	case "Namespace":
		between = columns{col("STATUS", func(n *corev1.Namespace) string { return or(string(n.Status.Phase), "Active") })}
	case "Secret":
		between = columns{
			{name: "TYPE", cell: func(obj *unstructured.Unstructured) string {
				kind, _, _ := unstructured.NestedString(obj.Object, "type")
				return kind
			}},
			{name: "DATA", cell: func(obj *unstructured.Unstructured) string {
				data, _ := obj.Object["data"].(map[string]any)
				return fmt.Sprint(len(data))
			}},
		}
	case "Lease":
		between = columns{col("HOLDER", func(l *coordinationv1.Lease) string { return deref(l.Spec.HolderIdentity) })}
		after = columns{
			wideCol("DURATION", func(l *coordinationv1.Lease) string {
				if l.Spec.LeaseDurationSeconds == nil {
					return none
				}
				return (time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second).String()
			}),
			wideCol("RENEWED", func(l *coordinationv1.Lease) string {
				if l.Spec.RenewTime == nil {
					return none
				}
				return ageOf(l.Spec.RenewTime.Time) + " ago"
			}),
		}
	case "IPPool":
		between = columns{
			col("DISABLED", func(p *v1alpha1.IPPool) string { return fmt.Sprint(p.Spec.Disabled) }),
			col("CONFLICTING", func(p *v1alpha1.IPPool) string {
				return conditionStatus(p.Status.Conditions, v1alpha1.ConditionConflicting)
			}),
			col("IPS AVAILABLE", func(p *v1alpha1.IPPool) string { return or(p.Status.Available, "<unknown>") }),
		}
		after = columns{
			wideCol("USED", func(p *v1alpha1.IPPool) string { return or(p.Status.Used, "<unknown>") }),
			wideCol("TOTAL", func(p *v1alpha1.IPPool) string { return or(p.Status.Total, "<unknown>") }),
			wideCol("PRIORITY", func(p *v1alpha1.IPPool) string { return fmt.Sprint(p.Spec.Priority) }),
			wideCol("BLOCKS", func(p *v1alpha1.IPPool) string { return join(blocks(p)) }),
		}
	case "L2Policy":
		between = columns{col("ACCEPTED", func(p *v1alpha1.L2Policy) string {
			return conditionStatus(p.Status.Conditions, v1alpha1.ConditionAccepted)
		})}
		after = columns{
			wideCol("INTERFACES", func(p *v1alpha1.L2Policy) string { return or(strings.Join(p.Spec.Interfaces, ","), "<all>") }),
			wideCol("LOADBALANCER-IPS", func(p *v1alpha1.L2Policy) string { return fmt.Sprint(p.Spec.LoadBalancerIPs) }),
			wideCol("EXTERNAL-IPS", func(p *v1alpha1.L2Policy) string { return fmt.Sprint(p.Spec.ExternalIPs) }),
		}
	case "BGPPeer":
		between = foreignColumns(kind)
		if !kind.Foreign() {
			between = bgpPeerColumns()
		}
	case "AnnouncementSlice":
		between = columns{col("ADDRESSES", func(s *v1alpha1.AnnouncementSlice) string { return fmt.Sprint(len(s.Announcements)) })}
	default:
		between = foreignColumns(kind)
	}
	return slices.Concat(columns{name}, between, columns{age}, after)
}

// bgpPeerColumns are those of Seamark's own kind.
func bgpPeerColumns() columns {
	return columns{
		col("PEER", func(p *v1alpha1.BGPPeer) string {
			if d := p.Spec.AutoDiscovery; d != nil {
				return d.Mode + " " + d.AddressFamily
			}
			return or(string(p.Spec.PeerAddress), string(p.Spec.Interface))
		}),
		col("ASN", func(p *v1alpha1.BGPPeer) string {
			if p.Spec.PeerASN != 0 {
				return fmt.Sprint(p.Spec.PeerASN)
			}
			return string(p.Spec.PeerASNMode)
		}),
		col("SESSIONS", func(p *v1alpha1.BGPPeer) string { return fmt.Sprint(p.Status.Sessions) }),
		col("ESTABLISHED", func(p *v1alpha1.BGPPeer) string { return fmt.Sprint(p.Status.Established) }),
		col("ACCEPTED", func(p *v1alpha1.BGPPeer) string {
			return conditionStatus(p.Status.Conditions, v1alpha1.ConditionAccepted)
		}),
	}
}

// externalIPs are the addresses from outside: given, and named in the spec.
func externalIPs(s *corev1.Service) string {
	var ips []string
	for _, in := range s.Status.LoadBalancer.Ingress {
		ips = append(ips, or(in.IP, in.Hostname))
	}
	ips = append(ips, s.Spec.ExternalIPs...)
	if len(ips) == 0 && s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		return "<pending>"
	}
	return join(ips)
}

func servicePorts(s *corev1.Service) string {
	var ports []string
	for _, p := range s.Spec.Ports {
		node := ""
		if p.NodePort != 0 {
			node = fmt.Sprintf(":%d", p.NodePort)
		}
		ports = append(ports, fmt.Sprintf("%d%s/%s", p.Port, node, or(string(p.Protocol), "TCP")))
	}
	return join(ports)
}

func endpointPorts(s *discoveryv1.EndpointSlice) string {
	var ports []string
	for _, p := range s.Ports {
		if p.Port != nil {
			ports = append(ports, fmt.Sprint(*p.Port))
		}
	}
	return join(ports)
}

// maxEndpoints is how many addresses kubectl shows.
const maxEndpoints = 3

func endpointAddresses(s *discoveryv1.EndpointSlice) string {
	var addrs []string
	for _, e := range s.Endpoints {
		addrs = append(addrs, e.Addresses...)
	}
	if more := len(addrs) - maxEndpoints; more > 0 {
		return fmt.Sprintf("%s + %d more...", strings.Join(addrs[:maxEndpoints], ","), more)
	}
	return join(addrs)
}

func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = map[corev1.ConditionStatus]string{corev1.ConditionTrue: "Ready", corev1.ConditionFalse: "NotReady"}[c.Status]
		}
	}
	status = or(status, "Unknown")
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *corev1.Node) string {
	var roles []string
	for label := range n.Labels {
		if role, ok := strings.CutPrefix(label, "node-role.kubernetes.io/"); ok {
			roles = append(roles, role)
		}
	}
	slices.Sort(roles)
	return join(roles)
}

func nodeAddresses(n *corev1.Node) []string {
	var addrs []string
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			addrs = append(addrs, a.Address)
		}
	}
	return addrs
}

func podCIDRs(n *corev1.Node) []string {
	if len(n.Spec.PodCIDRs) == 0 && n.Spec.PodCIDR != "" {
		return []string{n.Spec.PodCIDR}
	}
	return n.Spec.PodCIDRs
}

func blocks(p *v1alpha1.IPPool) []string {
	var texts []string
	for _, b := range p.Spec.Blocks {
		switch {
		case b.CIDR != "":
			texts = append(texts, b.CIDR)
		case b.Stop != "":
			texts = append(texts, b.Start+"–"+b.Stop)
		default:
			texts = append(texts, b.Start)
		}
	}
	return texts
}

func conditionStatus(conditions []metav1.Condition, conditionType string) string {
	for _, c := range conditions {
		if c.Type == conditionType {
			return string(c.Status)
		}
	}
	return "Unknown"
}

func deref(s *string) string {
	if s == nil {
		return none
	}
	return or(*s, none)
}

// labelsText is a=b,c=d, sorted.
func labelsText(labels map[string]string) string {
	var pairs []string
	for k, v := range labels {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}
