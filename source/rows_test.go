package source_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestFindKind(t *testing.T) {
	for name, want := range map[string]string{
		"svc": "Service", "Service": "Service", "services": "Service", "eps": "EndpointSlice", "no": "Node", "ns": "Namespace",
		"lease": "Lease", "ippool": "IPPool", "IPPools": "IPPool", "ippools.seamark.dev": "IPPool", "l2policy": "L2Policy",
		"announcement": "AnnouncementSlice", "announcementslices": "AnnouncementSlice", "pods": "", "": "", "ippools.": "",
	} {
		kind, ok := source.FindKind(name)
		if ok != (want != "") || kind.Kind != want {
			t.Errorf("%q is %q, want %q", name, kind.Kind, want)
		}
	}
}

func TestPoolRanges(t *testing.T) {
	for _, test := range []struct {
		blocks    string
		firstLast string
		want      string // ranges, or the beginning of Invalid
	}{
		{"192.168.10.0/28", "", "192.168.10.0–192.168.10.15"},
		{"192.168.10.0/28", "No", "192.168.10.1–192.168.10.14"},
		{"192.168.10.9/28", "Yes", "192.168.10.0–192.168.10.15"}, // host bits
		{"10.0.0.0/31", "No", "10.0.0.0–10.0.0.1"},
		{"10.0.0.7/32", "No", "10.0.0.7–10.0.0.7"},
		{"10.0.0.4/30", "No", "10.0.0.5–10.0.0.6"},
		{"10.0.0.1-10.0.0.3", "No", "10.0.0.1–10.0.0.3"},
		{"10.0.0.1-", "", "10.0.0.1–10.0.0.1"},
		{"fd00:10::/64", "No", "fd00:10::1–fd00:10::ffff:ffff:ffff:fffe"},
		{"fd00:10::/127", "No", "fd00:10::–fd00:10::1"},
		{"10.0.0.0/30 fd00::/126", "", "10.0.0.0–10.0.0.3 fd00::–fd00::3"},
		{"10.128.0.0/9", "", "10.128.0.0–10.255.255.255"},
		{"10.0.0.3-10.0.0.1", "", "! spec.blocks[0]: "},
		{"10.0.0.1-fd00::1", "", "! spec.blocks[0]: "},
		{"10.0.0.0/33", "", "! spec.blocks[0].cidr: "},
		{"10.0.0.x-", "", "! spec.blocks[0].start: "},
		{"10.0.0.1-10.0.0.x", "", "! spec.blocks[0].stop: "},
		{"::ffff:10.0.0.1-", "", "! spec.blocks[0].start: "},
		{"fe80::1%eth0-", "", "! spec.blocks[0].start: "},
		{"10.0.0.0/24 10.0.0.255-10.0.1.1", "", "! spec.blocks[1]: "},
		{"10.0.0.0/30 10.0.0.3-", "No", "! spec.blocks[1]: "},
		{"0.0.0.0/0", "", "! spec.blocks[0]: "},
		{"127.0.0.0/8", "", "! spec.blocks[0]: "},
		{"", "", "! spec.blocks: "},
	} {
		pool := &v1alpha1.IPPool{Spec: v1alpha1.IPPoolSpec{AllowFirstLastIPs: test.firstLast}}
		for b := range strings.FieldsSeq(test.blocks) {
			if start, stop, ok := strings.Cut(b, "-"); ok {
				pool.Spec.Blocks = append(pool.Spec.Blocks, v1alpha1.IPBlock{Start: start, Stop: stop})
			} else {
				pool.Spec.Blocks = append(pool.Spec.Blocks, v1alpha1.IPBlock{CIDR: b})
			}
		}
		row := source.PoolRow(pool, nil)
		if invalid, ok := strings.CutPrefix(test.want, "! "); ok {
			if !strings.HasPrefix(row.Invalid, invalid) || row.Ranges != nil {
				t.Errorf("%q: invalid %q with ranges %v, want %q without", test.blocks, row.Invalid, row.Ranges, invalid)
			}
			continue
		}
		if got := strings.Trim(fmt.Sprint(row.Ranges), "[]"); got != test.want || row.Invalid != "" || !row.AutoAssign {
			t.Errorf("%q: ranges %s (%s), want %s", test.blocks, got, row.Invalid, test.want)
		}
	}
}

func TestServiceFamilies(t *testing.T) {
	dual, single, both := corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyRequireDualStack
	for _, test := range []struct {
		spec corev1.ServiceSpec
		want string
	}{
		{corev1.ServiceSpec{}, "[IPv4]"},
		{corev1.ServiceSpec{ClusterIP: "fd00::1"}, "[IPv6]"},
		{corev1.ServiceSpec{ClusterIPs: []string{"fd00::1", "10.96.0.1"}}, "[IPv6 IPv4]"},
		{corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{"IPv6"}, IPFamilyPolicy: &single}, "[IPv6]"},
		{corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{"IPv6"}, IPFamilyPolicy: &dual}, "[IPv6 IPv4]"},
		{corev1.ServiceSpec{IPFamilyPolicy: &dual}, "[IPv4 IPv6]"},
		{corev1.ServiceSpec{ClusterIP: "None"}, "[IPv4]"},
		{corev1.ServiceSpec{ClusterIP: "None", IPFamilyPolicy: &dual}, "[IPv4 IPv6]"},
		{corev1.ServiceSpec{ClusterIP: "10.96.0.1", IPFamilyPolicy: &dual, IPFamilies: []corev1.IPFamily{"IPv4"}}, "[IPv4]"}, // the cluster has no IPv6
		{corev1.ServiceSpec{ClusterIPs: []string{"fd00::1", "10.96.0.1"}, IPFamilyPolicy: &dual, IPFamilies: []corev1.IPFamily{"IPv6", "IPv4"}}, "[IPv6 IPv4]"},
		{corev1.ServiceSpec{ClusterIP: "10.96.0.1", IPFamilyPolicy: &both, IPFamilies: []corev1.IPFamily{"IPv4"}}, "[IPv4 IPv6]"},
	} {
		row, problems := source.ServiceRow(&corev1.Service{Spec: test.spec})
		if got := fmt.Sprint(row.Families); got != test.want || len(problems) > 0 {
			t.Errorf("%+v: families %s (%v), want %s", test.spec, got, problems, test.want)
		}
		if p := test.spec.IPFamilyPolicy; p != nil && row.FamilyPolicy != string(*p) {
			t.Errorf("%+v: policy %q", test.spec, row.FamilyPolicy)
		}
	}
}

// What is wrong in spite of validation is left out and said; the rest serves.
// A class of Seamark's group that is none is nobody else's either: it is said.
func TestServiceClasses(t *testing.T) {
	for class, want := range map[string]struct {
		class string
		wrong bool
	}{
		"seamark.dev/l2":              {"seamark.dev/l2", false},
		"seamark.dev/bgp":             {"seamark.dev/bgp", false},
		"io.cilium/l2-announcer":      {"seamark.dev/l2", false},
		"io.cilium/bgp-control-plane": {"seamark.dev/bgp", false},
		"example.com/seamark.dev":     {"example.com/seamark.dev", false},
		"seamark.dev/L2":              {"seamark.dev/L2", true},
		"seamark.dev/l2-announcer":    {"seamark.dev/l2-announcer", true},
	} {
		row, problems := source.ServiceRow(&corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class}})
		if row.Class != want.class || (len(problems) > 0) != want.wrong {
			t.Errorf("%s: class %q, problems %v", class, row.Class, problems)
		}
	}
}

func TestRowsOfWrongObjects(t *testing.T) {
	port := int32(80)
	svc, problems := source.ServiceRow(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Annotations: map[string]string{v1alpha1.AnnotationIPs: "10.0.0.1,what,10.0.0.1, fd00::1"}},
		Spec: corev1.ServiceSpec{ExternalIPs: []string{"10.0.0.2", "nowhere"}, ClusterIP: "None", LoadBalancerIP: "10.0.0.1",
			Ports: []corev1.ServicePort{{Port: 80}, {Port: 0}, {Port: 81, Protocol: "ICMP"}, {Port: 53, Protocol: "UDP"}}},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{Hostname: "x"}, {IP: "10.0.0.9"}, {IP: "y"}}}},
	})
	if got := fmt.Sprint(svc.RequestedIPs, svc.ExternalIPs, svc.ClusterIPs, svc.Ingress, svc.Ports); got !=
		"[10.0.0.1 fd00::1] [10.0.0.2] [] [10.0.0.9] [{ TCP 80 0} { UDP 53 0}]" {
		t.Errorf("service row %s", got)
	}
	wantFields(t, problems, "spec.externalIPs[1]", "status.loadBalancer.ingress[2].ip", "metadata.annotations[seamark.dev/ips]", "spec.ports[1].port", "spec.ports[2].protocol")

	eps, problems := source.EndpointSliceRow(&discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationWeight: "7"}},
		Ports:      []discoveryv1.EndpointPort{{Port: &port}, {}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"x"}}, {}, {Addresses: []string{"10.0.0.3"}}},
	})
	if len(eps.Ports) != 1 || len(eps.Endpoints) != 1 || !eps.Endpoints[0].Ready || !eps.Endpoints[0].Serving || eps.Endpoints[0].Weight != 7 {
		t.Errorf("endpointslice row %+v", eps)
	}
	wantFields(t, problems, "ports[1].port", "endpoints[0].addresses[0]")
	_, problems = source.EndpointSliceRow(&discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeFQDN})
	wantFields(t, problems, "addressType")

	node, problems := source.NodeRow(&corev1.Node{
		Spec:   corev1.NodeSpec{PodCIDR: "172.20.0.9/24"},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "x"}, {Type: corev1.NodeExternalIP, Address: "1.2.3.4"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}},
	})
	if fmt.Sprint(node.PodCIDRs, node.Addrs) != "[172.20.0.0/24] [10.0.0.1]" {
		t.Errorf("node row %+v", node)
	}
	wantFields(t, problems, "status.addresses[0].address")
}

func wantFields(t *testing.T, problems source.Problems, want ...string) {
	t.Helper()
	var got []string
	for _, p := range problems {
		got = append(got, p.Field)
		if p.Message == "" || p.Cure == "" {
			t.Errorf("%+v has no message or no cure", p)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("problems with %q, want %q", got, want)
	}
}

// A spec that breaks takes nobody's address away.
func TestPoolRowKeepsRanges(t *testing.T) {
	right := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v1alpha1.IPPoolSpec{Blocks: []v1alpha1.IPBlock{{Start: "192.168.10.211", Stop: "192.168.10.215"}}}}
	wrong := right.DeepCopy()
	wrong.Spec.Blocks[0].Stop = "192.168.10.201"
	row := source.PoolRow(right, nil)
	after := source.PoolRow(wrong, &row)
	if !strings.HasPrefix(after.Invalid, "spec.blocks[0]: ") || !reflect.DeepEqual(after.Ranges, row.Ranges) {
		t.Errorf("a wrong spec after a right one: %+v", after)
	}
	if again := source.PoolRow(wrong, &after); !reflect.DeepEqual(again, after) {
		t.Errorf("again: %+v", again)
	}
	if mended := source.PoolRow(right, &after); mended.Invalid != "" || !reflect.DeepEqual(mended, row) {
		t.Errorf("mended: %+v", mended)
	}
}

func TestL2PolicyRow(t *testing.T) {
	right := &v1alpha1.L2Policy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v1alpha1.L2PolicySpec{Interfaces: []string{"^eth1$"}, LoadBalancerIPs: true}}
	wrong := right.DeepCopy()
	wrong.Spec.Interfaces = []string{"eth("}
	wrong.Spec.LoadBalancerIPs = false
	row := source.L2PolicyRow(right, nil)
	if row.Invalid != "" || !row.LoadBalancerIPs {
		t.Errorf("row %+v", row)
	}
	after := source.L2PolicyRow(wrong, &row)
	if !strings.HasPrefix(after.Invalid, "spec.interfaces[0]: ") || !after.LoadBalancerIPs || after.Interfaces[0] != "^eth1$" {
		t.Errorf("a wrong spec after a right one: %+v", after)
	}
	if again := source.L2PolicyRow(wrong, &after); !reflect.DeepEqual(again, after) {
		t.Errorf("again: %+v", again)
	}
	if row := source.L2PolicyRow(right, &after); row.Invalid != "" {
		t.Errorf("mended: %+v", row)
	}
	if row := source.L2PolicyRow(wrong, nil); row.Invalid == "" || row.LoadBalancerIPs || row.ExternalIPs || row.Name != "p" {
		t.Errorf("a wrong spec at first: %+v", row)
	}
}

func TestNodeStopping(t *testing.T) {
	for _, tc := range []struct {
		condition corev1.NodeCondition
		want      bool
	}{
		{corev1.NodeCondition{Type: corev1.NodeReady, Status: "False", Reason: "KubeletNotReady", Message: "node is shutting down"}, true},
		{corev1.NodeCondition{Type: corev1.NodeReady, Status: "False", Reason: "KubeletNotReady", Message: "[container runtime is down, node is shutting down]"}, true},
		{corev1.NodeCondition{Type: corev1.NodeReady, Status: "False", Reason: "KubeletNotReady", Message: "container runtime is down"}, false},
		{corev1.NodeCondition{Type: corev1.NodeReady, Status: "Unknown", Reason: "NodeStatusUnknown", Message: "Kubelet stopped posting node status."}, false},
		{corev1.NodeCondition{Type: corev1.NodeReady, Status: "True", Message: "kubelet is posting ready status"}, false},
	} {
		node := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{tc.condition}}}
		if row, _ := source.NodeRow(node); row.Stopping != tc.want {
			t.Errorf("%+v: stopping %v", tc.condition, row.Stopping)
		}
	}
}

func TestNodeLease(t *testing.T) {
	want := state.NodeLease{Node: "n1", Identity: "QX3", Duration: 3 * time.Second, Released: true, Appliance: true, Interfaces: []state.LeaseInterface{
		{Name: "eth1", MAC: "02:00:00:00:00:01", Up: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.10.100/24"), netip.MustParsePrefix("fd00::1/64")},
			Gateways: []netip.Addr{netip.MustParseAddr("192.168.10.200"), netip.MustParseAddr("fe80::1")},
			Heard:    []string{"n2"}, Silent: []string{"n3", "n4"}, Gateway: state.Silent},
		{Name: "eth2"}}, Addrs: addrs("10.0.2.15", "192.168.10.100", "fd00::1")}
	lease := &coordinationv1.Lease{}
	now := time.Date(2026, 1, 2, 3, 4, 5, 678901, time.UTC)
	source.SetNodeLease(lease, want, now)
	row, problems, ok := source.NodeLeaseRow(lease)
	first := row.Renewal
	row.Renewal = ""
	if !ok || len(problems) > 0 || !reflect.DeepEqual(row, want) || first == "" {
		t.Errorf("row %+v (%v), want %+v", row, problems, want)
	}
	// A clock that stands still, or goes back, does not hide a renewal.
	seen := map[string]bool{first: true}
	for _, at := range []time.Time{now, now, now.Add(-time.Hour), now.Add(time.Hour)} {
		source.SetNodeLease(lease, want, at)
		row, _, _ := source.NodeLeaseRow(lease)
		if seen[row.Renewal] {
			t.Errorf("renewal %s is there twice", row.Renewal)
		}
		seen[row.Renewal] = true
	}
	want.Released, want.Appliance = false, false
	source.SetNodeLease(lease, want, now)
	if row, _, _ := source.NodeLeaseRow(lease); row.Released || row.Appliance {
		t.Errorf("still released, or an appliance: %+v", row)
	}
	for _, drained := range []bool{true, false} {
		if !source.SetDrained(lease, drained, now) || source.SetDrained(lease, drained, now.Add(time.Hour)) {
			t.Errorf("drained %v: said once to change something, and once not", drained)
		}
		source.SetNodeLease(lease, want, now) // which is another's, and keeps it
		if row, _, _ := source.NodeLeaseRow(lease); row.Drained != drained {
			t.Errorf("drained %v: row %+v", drained, row)
		}
	}
	lease.Annotations[v1alpha1.AnnotationInterfaces] = "["
	if _, problems, ok := source.NodeLeaseRow(lease); !ok || len(problems) != 1 {
		t.Errorf("a broken annotation: %v", problems)
	}
	lease.Annotations[v1alpha1.AnnotationAddresses] = `["10.0.0.1","x"]`
	if row, problems, ok := source.NodeLeaseRow(lease); !ok || len(problems) != 2 || row.Addrs != nil {
		t.Errorf("broken addresses: %v, %v", row.Addrs, problems)
	}
	if _, _, ok := source.NodeLeaseRow(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: source.Namespace, Name: "election"}}); ok {
		t.Error("the lease of an election is taken for a node's")
	}
}
