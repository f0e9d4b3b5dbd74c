package source_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a Service asks for by its annotations, whosever they are.
func TestServiceRequests(t *testing.T) {
	field := func(name string) string { return "metadata.annotations[" + name + "]" }
	for name, test := range map[string]struct {
		annotations map[string]string
		spec        corev1.ServiceSpec
		want        state.Service
		problems    []string // field, and what the message has
	}{
		"nothing": {},
		"ours": {
			annotations: map[string]string{"seamark.dev/ips": "10.0.0.1, fd00::1,10.0.0.1", "seamark.dev/pool": "blue",
				"seamark.dev/sharing-key": "k", "seamark.dev/sharing-cross-namespace": "a, b,a"},
			want: state.Service{RequestedIPs: addrs("10.0.0.1", "fd00::1"), RequestField: field("seamark.dev/ips"),
				Pool: "blue", PoolField: field("seamark.dev/pool"), Sharing: "k", SharingWith: []string{"a", "b"}},
		},
		"Cilium's": {
			annotations: map[string]string{"lbipam.cilium.io/ips": "10.0.0.1", "lbipam.cilium.io/sharing-key": "k", "lbipam.cilium.io/sharing-cross-namespace": "*"},
			want:        state.Service{RequestedIPs: addrs("10.0.0.1"), RequestField: field("lbipam.cilium.io/ips"), Sharing: "k", SharingWith: []string{"*"}},
		},
		"Cilium's older names": {
			annotations: map[string]string{"io.cilium/lb-ipam-ips": "10.0.0.1", "io.cilium/lb-ipam-sharing-key": "k", "io.cilium/lb-ipam-sharing-cross-namespace": "a"},
			want:        state.Service{RequestedIPs: addrs("10.0.0.1"), RequestField: field("io.cilium/lb-ipam-ips"), Sharing: "k", SharingWith: []string{"a"}},
		},
		"MetalLB's, whose key knows no namespaces": {
			annotations: map[string]string{"metallb.io/loadBalancerIPs": "10.0.0.1,fd00::1", "metallb.io/address-pool": "p", "metallb.io/allow-shared-ip": "k",
				"metallb.io/ip-allocated-from-pool": "p"},
			want: state.Service{RequestedIPs: addrs("10.0.0.1", "fd00::1"), RequestField: field("metallb.io/loadBalancerIPs"),
				Pool: "p", PoolField: field("metallb.io/address-pool"), Sharing: "k", SharingWith: []string{"*"}},
		},
		"MetalLB's older names": {
			annotations: map[string]string{"metallb.universe.tf/loadBalancerIPs": "10.0.0.1", "metallb.universe.tf/address-pool": "p",
				"metallb.universe.tf/allow-shared-ip": "k", "metallb.universe.tf/ip-allocated-from-pool": "p"},
			want: state.Service{RequestedIPs: addrs("10.0.0.1"), RequestField: field("metallb.universe.tf/loadBalancerIPs"),
				Pool: "p", PoolField: field("metallb.universe.tf/address-pool"), Sharing: "k", SharingWith: []string{"*"}},
		},
		"ours before Cilium's before MetalLB's; the same in another order is none": {
			annotations: map[string]string{"seamark.dev/pool": "ours", "metallb.io/address-pool": "theirs",
				"lbipam.cilium.io/ips": "10.0.0.1,10.0.0.2", "metallb.io/loadBalancerIPs": "10.0.0.2, 10.0.0.1",
				"lbipam.cilium.io/sharing-key": "a", "metallb.io/allow-shared-ip": "b"},
			want: state.Service{RequestedIPs: addrs("10.0.0.1", "10.0.0.2"), RequestField: field("lbipam.cilium.io/ips"),
				Pool: "ours", PoolField: field("seamark.dev/pool"), Sharing: "a"},
			problems: []string{field("metallb.io/address-pool") + ` "theirs" contradicts seamark.dev/pool`,
				field("metallb.io/allow-shared-ip") + ` "b" contradicts lbipam.cilium.io/sharing-key`},
		},
		"the spec, and an annotation": {
			annotations: map[string]string{"seamark.dev/ips": "fd00::1"},
			spec:        corev1.ServiceSpec{LoadBalancerIP: "10.0.0.1"},
			want:        state.Service{RequestedIPs: addrs("10.0.0.1", "fd00::1"), RequestField: "spec.loadBalancerIP and " + field("seamark.dev/ips")},
		},
		"wrong": {
			annotations: map[string]string{"seamark.dev/ips": "10.0.0.1,x", "seamark.dev/sharing-key": "k", "seamark.dev/sharing-cross-namespace": "A,b"},
			want: state.Service{RequestedIPs: addrs("10.0.0.1"), RequestField: field("seamark.dev/ips"),
				Sharing: "k", SharingWith: []string{"b"}},
			problems: []string{field("seamark.dev/ips") + ` "x"`, field("seamark.dev/sharing-cross-namespace") + ` "A"`},
		},
		"shared without a key": {
			annotations: map[string]string{"lbipam.cilium.io/sharing-cross-namespace": "*"},
			want:        state.Service{SharingWith: []string{"*"}},
			problems:    []string{field("lbipam.cilium.io/sharing-cross-namespace") + " shares nothing"},
		},
		"not done": {
			annotations: map[string]string{"service.cilium.io/src-ranges-policy": "deny", "seamark.dev/lb-algorithm": "random", "service.cilium.io/node": "a",
				"service.cilium.io/global": "true", "io.cilium/shared-service": "true", "lbipam.cilium.io/new": "x", "metallb.io/new": "x", "seamark.dev/ip": "10.0.0.1"},
			problems: []string{field("io.cilium/shared-service"), field("lbipam.cilium.io/new"), field("metallb.io/new"), field("seamark.dev/ip") + " has no effect: there is no such annotation",
				field("seamark.dev/lb-algorithm") + ` "random": this version balances by Maglev alone`, field("service.cilium.io/global"), field("service.cilium.io/node"),
				field("service.cilium.io/src-ranges-policy") + ` "deny": spec.loadBalancerSourceRanges are the clients that are let in`},
		},
		"what is so anyway, and what is not about load balancing": {
			annotations: map[string]string{"service.cilium.io/forwarding-mode": "dsr", "service.cilium.io/src-ranges-policy": "allow", "seamark.dev/lb-algorithm": "maglev", "service.cilium.io/global": "false",
				"policy.cilium.io/proxy-visibility": "x", "example.com/x": "y", "io.cilium/whatever": "z", "seamark.dev/pool": ""},
		},
		"Cilium's classes are ours": {
			spec: corev1.ServiceSpec{LoadBalancerClass: new("io.cilium/l2-announcer")},
			want: state.Service{Class: "seamark.dev/l2"},
		},
		"Cilium's class for BGP": {
			spec: corev1.ServiceSpec{LoadBalancerClass: new("io.cilium/bgp-control-plane")},
			want: state.Service{Class: "seamark.dev/bgp"},
		},
		"another's class": {
			spec: corev1.ServiceSpec{LoadBalancerClass: new("example.com/lb")},
			want: state.Service{Class: "example.com/lb"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			row, problems := source.ServiceRow(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Annotations: test.annotations}, Spec: test.spec})
			want := test.want
			if got := fmt.Sprint(row.RequestedIPs, row.RequestField, row.Pool, row.PoolField, row.Sharing, row.SharingWith, row.Class); got !=
				fmt.Sprint(want.RequestedIPs, want.RequestField, want.Pool, want.PoolField, want.Sharing, want.SharingWith, want.Class) {
				t.Errorf("got %s\nwant %+v", got, want)
			}
			var got []string
			for _, p := range problems {
				got = append(got, p.Field+" "+p.Message)
				if p.Cure == "" {
					t.Errorf("no cure: %v", p)
				}
			}
			slices.Sort(got)
			if !slices.EqualFunc(got, test.problems, strings.HasPrefix) {
				t.Errorf("problems %q, want %q", got, test.problems)
			}
		})
	}
}

// An annotation that is full of addresses, right or wrong, is no load for anybody.
func TestTooManyRequests(t *testing.T) {
	for name, one := range map[string]func(i int) string{
		"right": func(i int) string { return fmt.Sprintf("10.%d.%d.1", i/256, i%256) },
		"wrong": func(i int) string { return "x" },
	} {
		var ips []string
		for i := range 20_000 {
			ips = append(ips, one(i))
		}
		row, problems := source.ServiceRow(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"seamark.dev/ips": strings.Join(ips, ",")}}})
		if len(row.RequestedIPs) > 64 || len(problems) == 0 || len(problems) > 64 {
			t.Errorf("%s: %d addresses are asked for, and %d problems", name, len(row.RequestedIPs), len(problems))
		}
	}
}

// A name that is none is told with the one that was meant.
func TestMisspelledAnnotations(t *testing.T) {
	for name, meant := range map[string]string{
		"seamark.dev/ip":                        "seamark.dev/ips",
		"seamark.dev/IPs":                       "seamark.dev/ips",
		"seamark.dev/pools":                     "seamark.dev/pool",
		"seamark.dev/address-pool":              "seamark.dev/pool", // MetalLB's word
		"seamark.dev/loadBalancerIPs":           "seamark.dev/ips",
		"seamark.dev/shared-key":                "seamark.dev/sharing-key",
		"seamark.dev/share-cross-namespace":     "seamark.dev/sharing-cross-namespace",
		"seamark.de/ips":                        "seamark.dev/ips",
		"seamrk.dev/ips":                        "seamark.dev/ips",
		"lbipam.cilium.io/ip":                   "lbipam.cilium.io/ips",
		"lbipam.cilium.io/sharing_key":          "lbipam.cilium.io/sharing-key",
		"lbipam.cilium.io/sharing-permit":       "",
		"io.cilium/lb-ipam-ip":                  "io.cilium/lb-ipam-ips",
		"io.cilium/ips":                         "io.cilium/lb-ipam-ips",
		"io.cilium/lbipam-ips":                  "io.cilium/lb-ipam-ips",
		"service.cilium.io/forward-mode":        "service.cilium.io/forwarding-mode",
		"service.cilium.io/globall":             "service.cilium.io/global",
		"metallb.io/loadBalancerIP":             "metallb.io/loadBalancerIPs",
		"metallb.io/loadbalancerips":            "metallb.io/loadBalancerIPs",
		"metallb.io/addresspool":                "metallb.io/address-pool",
		"metallb.io/ips":                        "metallb.io/loadBalancerIPs",
		"metallb.universe.tf/allow-shared-ips":  "metallb.universe.tf/allow-shared-ip",
		"metalb.io/address-pool":                "metallb.io/address-pool",
		"metallb.io/ip-allocated-from-the-moon": "",
		"seamark.dev/x":                         "",
	} {
		_, problems := source.ServiceRow(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{name: "x"}}})
		want := "remove it"
		if meant != "" {
			want = fmt.Sprintf("did you mean %q?", meant)
		}
		if len(problems) != 1 || problems[0].Cure != want || problems[0].Field != "metadata.annotations["+name+"]" {
			t.Errorf("%s: %v, want one: %s", name, problems, want)
		}
	}
	for _, name := range []string{"example.com/ips", "kubernetes.io/pool", "ips", "pool", "", "/", "policy.cilium.io/pool"} {
		if _, problems := source.ServiceRow(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{name: "x"}}}); len(problems) > 0 {
			t.Errorf("%s is none of ours: %v", name, problems)
		}
	}
}

// Weight 0 is Cilium's for endpoints that get no new connections.
func TestEndpointSliceWeight(t *testing.T) {
	for _, test := range []struct {
		annotations map[string]string
		weight      uint16
		ready       bool
		wrong       bool
	}{
		{nil, 0, true, false},
		{map[string]string{"seamark.dev/weigth": "7"}, 0, true, true},
		{map[string]string{"service.cilium.io/weights": "7"}, 0, true, true},
		{map[string]string{"endpoints.kubernetes.io/last-change-trigger-time": "7", "example.com/weight": "8"}, 0, true, false},
		{map[string]string{"seamark.dev/weight": "7", "service.cilium.io/weight": "9"}, 7, true, false},
		{map[string]string{"service.cilium.io/weight": "9"}, 9, true, false},
		{map[string]string{"service.cilium.io/weight": "0"}, 0, false, false},
		{map[string]string{"seamark.dev/weight": "0"}, 0, true, true},
		{map[string]string{"service.cilium.io/weight": "65536"}, 0, true, true},
	} {
		row, problems := source.EndpointSliceRow(&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Annotations: test.annotations},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}}})
		if b := row.Endpoints[0]; b.Weight != test.weight || b.Ready != test.ready || !b.Serving || (len(problems) > 0) != test.wrong {
			t.Errorf("%v: %+v, %v", test.annotations, b, problems)
		}
	}
}
