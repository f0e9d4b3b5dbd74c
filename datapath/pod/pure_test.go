package pod_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/datapath/pod"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func TestOutside(t *testing.T) {
	devices := []state.Device{
		{Name: "eth0", Type: "device", Prefixes: prefixes("10.0.2.15/24")},
		{Name: "eth1", Type: "device", Prefixes: prefixes("192.168.10.101/24", "fe80::1/64")},
		{Name: "eth2", Type: "device"},
		{Name: "lo", Type: "loopback", Prefixes: prefixes("127.0.0.1/8", "192.168.10.101/32")},
		{Name: "sm0123456789ab", Type: "veth"},
		{Name: "smart0", Type: "device"},
	}
	node := state.Node{Name: "w1", Labels: map[string]string{"rack": "a"}, Addrs: []netip.Addr{addr("192.168.10.101")}}
	onRack := func(rack string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"rack": rack}}
	}
	for _, tc := range []struct {
		name     string
		policies []state.L2Policy
		want     string
		problems []string // each a part of a Problem's text
	}{
		{name: "InternalIP alone", want: "eth1"},
		{name: "no expression", policies: []state.L2Policy{{Name: "p", Origin: policyRef("p")}}, want: "eth1"},
		{name: "unanchored", policies: []state.L2Policy{{Name: "p", Origin: policyRef("p"), Interfaces: []string{"th[02]"}}}, want: "eth0 eth1 eth2"},
		{name: "the prefix of pods' veths on another device", policies: []state.L2Policy{{Name: "p", Origin: policyRef("p"), Interfaces: []string{"^sm"}}}, want: "eth1 smart0"},
		{name: "never loopback or pods", policies: []state.L2Policy{{Name: "p", Origin: policyRef("p"), Interfaces: []string{".*"}}}, want: "eth0 eth1 eth2 smart0"},
		{name: "only loopback matches", policies: []state.L2Policy{{Name: "p", Origin: policyRef("p"), Interfaces: []string{"^lo$"}}}, want: "eth1",
			problems: []string{`l2policy/p: spec.interfaces[0]: "^lo$" matches no interface of node w1, which has eth0, eth1, eth2, smart0; correct`}},
		{name: "one is broken, one matches nothing, one is right",
			policies: []state.L2Policy{{Name: "p", Origin: policyRef("p"), Interfaces: []string{"eth[", "ens.*", "eth2"}}}, want: "eth1 eth2",
			problems: []string{`spec.interfaces[0]: "eth[" is no RE2 expression (error parsing regexp: missing closing ]: ` + "`[`" + `); write one such as ^eth1$`,
				`spec.interfaces[1]: "ens.*" matches no interface`}},
		{name: "policy for another node", policies: []state.L2Policy{{Name: "p", Origin: policyRef("p"), NodeSelector: onRack("b"), Interfaces: []string{"eth[", "eth2"}}}, want: "eth1"},
		{name: "policy for this node", policies: []state.L2Policy{{Name: "p", Origin: policyRef("p"), NodeSelector: onRack("a"), Interfaces: []string{"eth2"}}}, want: "eth1 eth2"},
		{name: "selector that is none", policies: []state.L2Policy{{Name: "p", Origin: policyRef("p"), Interfaces: []string{"eth2"}, NodeSelector: &metav1.LabelSelector{
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "rack", Operator: "Near"}}}}}, want: "eth1",
			problems: []string{`l2policy/p: spec.nodeSelector: "Near" is not a valid label selector operator; correct the selector`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, problems := pod.Outside(devices, node, tc.policies)
			var names []string
			for _, d := range got {
				names = append(names, d.Name)
			}
			if s := strings.Join(names, " "); s != tc.want {
				t.Errorf("outside %q, want %q", s, tc.want)
			}
			if len(problems) != len(tc.problems) {
				t.Fatalf("problems %v, want %v", problems, tc.problems)
			}
			for i, part := range tc.problems {
				if !strings.Contains(problems[i].String(), part) {
					t.Errorf("problem %q lacks %q", problems[i], part)
				}
			}
		})
	}
}

func TestOutsideWithoutDevices(t *testing.T) {
	devices, problems := pod.Outside(nil, state.Node{Name: "w1"}, []state.L2Policy{{Name: "p", Origin: policyRef("p"), Interfaces: []string{"eth0"}}})
	if len(devices) != 0 || len(problems) != 1 || !strings.Contains(problems[0].Message, "which has none") {
		t.Errorf("got %v, %v", devices, problems)
	}
}

func TestIsPodDevice(t *testing.T) {
	for name, want := range map[string]bool{
		"sm0123456789ab": true, "sm0123456789a": false, "sm0123456789abc": false,
		"sm0123456789aB": false, "smart0": false, "eth0": false, "": false, "sm0123456789ag": false,
	} {
		if got := pod.IsPodDevice(name); got != want {
			t.Errorf("IsPodDevice(%q) = %v", name, got)
		}
	}
}

func TestRoutes(t *testing.T) {
	eth1 := state.Device{Name: "eth1", Type: "device", Up: true, Prefixes: prefixes("192.168.10.100/24", "fd00:10::100/64", "fe80::100/64")}
	down := eth1
	down.Up = false
	self := state.Node{Name: "ctr", Addrs: []netip.Addr{addr("192.168.10.100")}, PodCIDRs: prefixes("172.20.0.0/24")}
	other := func(name, ip string, cidrs ...string) state.Node {
		return state.Node{Name: name, Addrs: []netip.Addr{addr(ip)}, PodCIDRs: prefixes(cidrs...)}
	}
	for _, tc := range []struct {
		name    string
		devices []state.Device
		nodes   []state.Node
		want    []string // dst via node
	}{
		{"same L2", []state.Device{eth1}, []state.Node{self, other("w1", "192.168.10.101", "172.20.1.0/24")},
			[]string{"172.20.1.0/24 via 192.168.10.101 w1"}},
		{"CIDR with host bits", []state.Device{eth1}, []state.Node{self, other("w1", "192.168.10.101", "172.20.1.7/24")},
			[]string{"172.20.1.0/24 via 192.168.10.101 w1"}},
		{"behind a router", []state.Device{eth1}, []state.Node{self, other("w0", "192.168.20.100", "172.20.2.0/24")}, nil},
		{"device down", []state.Device{down}, []state.Node{self, other("w1", "192.168.10.101", "172.20.1.0/24")}, nil},
		{"no pod CIDR yet", []state.Device{eth1}, []state.Node{self, other("w1", "192.168.10.101")}, nil},
		{"not itself", []state.Device{eth1}, []state.Node{self}, nil},
		{"address of ours", []state.Device{eth1}, []state.Node{self, other("w1", "192.168.10.100", "172.20.1.0/24")}, nil},
		{"own CIDR", []state.Device{eth1}, []state.Node{self, other("w1", "192.168.10.101", "172.20.0.0/24", "172.20.0.128/25", "172.20.0.0/16")}, nil},
		{"claimed twice", []state.Device{eth1}, []state.Node{self, other("w2", "192.168.10.102", "172.20.1.0/24"), other("w1", "192.168.10.101", "172.20.1.0/24")},
			[]string{"172.20.1.0/24 via 192.168.10.101 w1"}},
		{"each family its own way", []state.Device{eth1}, []state.Node{self, {Name: "w1",
			Addrs: []netip.Addr{addr("192.168.10.101"), addr("fd00:10::101")}, PodCIDRs: prefixes("fd00:20:1::/64", "172.20.1.0/24")}},
			[]string{"172.20.1.0/24 via 192.168.10.101 w1", "fd00:20:1::/64 via fd00:10::101 w1"}},
		{"family without a way", []state.Device{eth1}, []state.Node{self, other("w1", "192.168.10.101", "fd00:20:1::/64")}, nil},
		{"link-local is no L2 of nodes", []state.Device{eth1}, []state.Node{self, other("w1", "fe80::101", "fd00:20:1::/64")}, nil},
		{"/32 connects nobody", []state.Device{{Name: "dummy0", Type: "dummy", Up: true, Prefixes: prefixes("192.168.10.101/32")}},
			[]state.Node{self, other("w1", "192.168.10.101", "172.20.1.0/24")}, nil},
		{"pod veths and loopback connect nobody", []state.Device{
			{Name: "sm0123456789ab", Type: "veth", Up: true, Prefixes: prefixes("192.168.10.1/24")},
			{Name: "lo", Type: "loopback", Up: true, Prefixes: prefixes("192.168.10.2/24")}},
			[]state.Node{self, other("w1", "192.168.10.101", "172.20.1.0/24")}, nil},
		{"this node unknown", []state.Device{eth1}, []state.Node{other("w1", "192.168.10.101", "172.20.1.0/24")},
			[]string{"172.20.1.0/24 via 192.168.10.101 w1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db, w := state.New()
			w.Update(func(tx *state.Tx) {
				for _, d := range tc.devices {
					db.Devices.Put(tx, d)
				}
				for _, n := range tc.nodes {
					db.Nodes.Put(tx, n)
				}
			})
			var got []string
			for _, r := range pod.Routes(db, db.Snapshot(), "ctr") {
				got = append(got, r.Dst.String()+" via "+r.Via.String()+" "+r.Node)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func policyRef(name string) state.ObjectRef {
	return state.ObjectRef{Group: "seamark.dev", Kind: "L2Policy", Name: name}
}
