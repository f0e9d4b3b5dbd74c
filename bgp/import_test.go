package bgp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

func received(peer, prefix, via string, path ...uint32) state.BGPReceived {
	return state.BGPReceived{Instance: "tor", Peer: peer, Prefix: prefixOf(prefix), NextHops: []netip.Addr{netip.MustParseAddr(via)},
		ASPath: path, PathLength: len(path), LocalPref: 100}
}

func taking(prefix string, from, to uint8) state.BGPImport {
	return state.BGPImport{Prefix: prefixOf(prefix), From: from, To: to}
}

// importWorld is a node with two routers, which sent it one route.
func importWorld() ImportInputs {
	all := []state.BGPImport{taking("172.16.0.0/12", 12, 32), taking("192.168.0.0/16", 16, 32), taking("10.0.0.0/8", 8, 32), taking("fd00::/16", 16, 128)}
	return ImportInputs{
		Node: state.Node{Name: "k8s-w1", PodCIDRs: []netip.Prefix{prefixOf("172.20.1.0/24")}},
		Devices: []state.Device{{Name: "eth0", Up: true, Prefixes: []netip.Prefix{prefixOf("10.0.2.101/24")}},
			{Name: "eth1", Up: true, Prefixes: []netip.Prefix{prefixOf("192.168.10.101/24"), prefixOf("fd00:10::101/64")}}},
		Speakers: []state.BGPSpeaker{{Instance: "tor", BGPIdentity: state.BGPIdentity{ASN: 65001}}},
		Peers:    []state.BGPPeer{{Name: "one", Import: all}, {Name: "two", Import: all}},
		Received: []state.BGPReceived{received("one", "172.20.2.0/24", "192.168.10.200", 65000, 65000)},
	}
}

// importedOf are the routes, and of what peer one sent and is not taken, why.
func importedOf(in ImportInputs) string {
	out := Import(in)
	var lines []string
	for _, r := range out.Routes {
		var hops []string
		for _, h := range r.NextHops {
			hops = append(hops, h.Via.String()+"@"+h.Device)
		}
		lines = append(lines, r.Dst.String()+" by "+strings.Join(hops, ","))
	}
	for _, r := range in.Received {
		if why := out.Why(r.Instance, r.Peer, r.Prefix); why != "" {
			lines = append(lines, fmt.Sprintf("%s from %s: %s", r.Prefix, r.Peer, why))
		}
	}
	return strings.Join(lines, "; ")
}

func TestImport(t *testing.T) {
	sent := func(r ...state.BGPReceived) ImportInputs { in := importWorld(); in.Received = r; return in }
	with := func(in ImportInputs, change func(*ImportInputs)) ImportInputs {
		in.Received = slices.Clone(in.Received)
		change(&in)
		return in
	}
	both := sent(received("one", "172.20.2.0/24", "192.168.10.200", 65000), received("two", "172.20.2.0/24", "192.168.10.201", 65000))
	for _, test := range []struct {
		name string
		in   ImportInputs
		want string
	}{
		{"one router", importWorld(), "172.20.2.0/24 by 192.168.10.200@eth1"},
		{"two routers", both, "172.20.2.0/24 by 192.168.10.200@eth1,192.168.10.201@eth1"},
		{"two routers, one next hop", sent(received("one", "172.20.2.0/24", "192.168.10.200", 65000), received("two", "172.20.2.0/24", "192.168.10.200", 65000)),
			"172.20.2.0/24 by 192.168.10.200@eth1"},
		{"the shorter path", with(both, func(in *ImportInputs) { in.Received[1].PathLength = 2 }),
			"172.20.2.0/24 by 192.168.10.200@eth1; 172.20.2.0/24 from two: peer one has a better route"},
		{"the higher local preference goes first", with(both, func(in *ImportInputs) { in.Received[1].PathLength, in.Received[1].LocalPref = 2, 200 }),
			"172.20.2.0/24 by 192.168.10.201@eth1; 172.20.2.0/24 from one: peer two has a better route"},
		{"the better origin", with(both, func(in *ImportInputs) { in.Received[0].Origin = 2 }),
			"172.20.2.0/24 by 192.168.10.201@eth1; 172.20.2.0/24 from one: peer two has a better route"},
		{"the lower MED", with(both, func(in *ImportInputs) { in.Received[0].MED = 10 }),
			"172.20.2.0/24 by 192.168.10.201@eth1; 172.20.2.0/24 from one: peer two has a better route"},
		{"MED of another AS", with(both, func(in *ImportInputs) { in.Received[0].MED, in.Received[0].ASPath = 10, []uint32{65009} }),
			"172.20.2.0/24 by 192.168.10.200@eth1,192.168.10.201@eth1"},
		{"external before internal", with(both, func(in *ImportInputs) { in.Received[0].Internal = true }),
			"172.20.2.0/24 by 192.168.10.201@eth1; 172.20.2.0/24 from one: peer two has a better route"},
		{"IPv6", sent(received("one", "fd00:20:2::/64", "fd00:10::200", 65000)), "fd00:20:2::/64 by fd00:10::200@eth1"},
		{"IPv4 by a link-local next hop", sent(received("one", "172.20.2.0/24", "fe80::1%eth1", 65000)), "172.20.2.0/24 by fe80::1@eth1"},
		{"by the second next hop", with(sent(received("one", "fd00:20:2::/64", "fd00:99::1", 65000)), func(in *ImportInputs) {
			in.Received[0].NextHops = append(in.Received[0].NextHops, netip.MustParseAddr("fe80::1%eth1"))
		}), "fd00:20:2::/64 by fe80::1@eth1"},
		{"around the segment's own", sent(received("one", "192.168.0.0/16", "192.168.10.200", 65000)), "192.168.0.0/16 by 192.168.10.200@eth1"},

		{"not asked for", sent(received("one", "203.0.113.0/24", "192.168.10.200", 65000)), "203.0.113.0/24 from one: not in importPrefixes of the peer"},
		{"the default route, not asked for", with(sent(received("one", "0.0.0.0/0", "192.168.10.200", 65000)), func(in *ImportInputs) {
			in.Peers[0].Import = []state.BGPImport{taking("0.0.0.0/0", 1, 32)}
		}), "0.0.0.0/0 from one: not in importPrefixes of the peer"},
		{"the default route, asked for", with(sent(received("one", "0.0.0.0/0", "192.168.10.200", 65000)), func(in *ImportInputs) {
			in.Peers[0].Import = []state.BGPImport{taking("0.0.0.0/0", 0, 0)}
		}), "0.0.0.0/0 by 192.168.10.200@eth1"},
		{"too long", with(importWorld(), func(in *ImportInputs) { in.Peers[0].Import = []state.BGPImport{taking("172.20.0.0/16", 16, 23)} }),
			"172.20.2.0/24 from one: not in importPrefixes of the peer"},
		{"a peer that is gone", with(importWorld(), func(in *ImportInputs) { in.Peers = nil }), "172.20.2.0/24 from one: not in importPrefixes of the peer"},
		{"a loop", sent(received("one", "172.20.2.0/24", "192.168.10.200", 65000, 65001)),
			"172.20.2.0/24 from one: this node's own AS number is in its path, as of a loop: set allowASIn of the peer to 1, or as-override on the router"},
		{"a loop that is allowed", with(sent(received("one", "172.20.2.0/24", "192.168.10.200", 65000, 65001)), func(in *ImportInputs) { in.Peers[0].AllowASIn = 1 }),
			"172.20.2.0/24 by 192.168.10.200@eth1"},
		{"own pods", sent(received("one", "172.20.1.0/24", "192.168.10.200", 65000)), "172.20.1.0/24 from one: in 172.20.1.0/24, this node's own pods"},
		{"one of its own pods", sent(received("one", "172.20.1.7/32", "192.168.10.200", 65000)), "172.20.1.7/32 from one: in 172.20.1.0/24, this node's own pods"},
		{"on link", sent(received("one", "192.168.10.0/25", "192.168.10.200", 65000)), "192.168.10.0/25 from one: in 192.168.10.0/24, which eth1 is on"},
		{"loopback", with(sent(received("one", "127.0.0.0/9", "192.168.10.200", 65000)), func(in *ImportInputs) {
			in.Peers[0].Import = []state.BGPImport{taking("0.0.0.0/0", 1, 32)}
		}), "127.0.0.0/9 from one: no network that is routed"},
		{"an address of a Service", with(sent(received("one", "10.9.0.1/32", "192.168.10.200", 65000)), func(in *ImportInputs) {
			in.Frontends = []state.Frontend{{Addr: netip.MustParseAddr("10.9.0.1"), Service: state.ObjectName{Namespace: "default", Name: "web"}}}
		}), "10.9.0.1/32 from one: an address of Service default/web, which this node serves"},
		{"of a pool", with(sent(received("one", "10.9.0.0/28", "192.168.10.200", 65000)), func(in *ImportInputs) {
			in.Pools = []state.Pool{{Name: "lab", Ranges: []state.Range{{From: netip.MustParseAddr("10.9.0.0"), To: netip.MustParseAddr("10.9.0.255")}}}}
		}), "10.9.0.0/28 from one: in pool lab"},
		{"around a pool", with(sent(received("one", "10.9.0.0/16", "192.168.10.200", 65000)), func(in *ImportInputs) {
			in.Pools = []state.Pool{{Name: "lab", Ranges: []state.Range{{From: netip.MustParseAddr("10.9.0.0"), To: netip.MustParseAddr("10.9.0.255")}}}}
		}), "10.9.0.0/16 by 192.168.10.200@eth1"},
		{"its own", with(sent(received("one", "10.9.0.0/24", "192.168.10.200", 65000)), func(in *ImportInputs) {
			in.Advertised = []state.BGPRoute{{Instance: "tor", Prefix: prefixOf("10.9.0.0/24")}}
		}), "10.9.0.0/24 from one: in 10.9.0.0/24, which this node advertises"},
		{"pods on the segment", with(importWorld(), func(in *ImportInputs) { in.Direct = []state.Route{{Dst: prefixOf("172.20.2.0/24"), Node: "k8s-ctr"}} }),
			"172.20.2.0/24 from one: the pods of k8s-ctr, which is on a segment of this node"},
		{"by itself", sent(received("one", "172.20.2.0/24", "192.168.10.101", 65000)), "172.20.2.0/24 from one: next hop 192.168.10.101 is this node"},
		{"by a stranger", sent(received("one", "172.20.2.0/24", "192.168.99.1", 65000)),
			"172.20.2.0/24 from one: next hop [192.168.99.1] is on no network of this node: have the peer set itself as the next hop"},
		{"a device that is down", with(importWorld(), func(in *ImportInputs) { in.Devices[1].Up = false }),
			"172.20.2.0/24 from one: next hop [192.168.10.200] is on no network of this node: have the peer set itself as the next hop"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := importedOf(test.in); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// Whatever peers send, in whatever order it is known: the routes are the same, no
// prefix has two, and each has a next hop and is one that was asked for.
func TestImportProperties(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		in := importWorld()
		in.Received = nil
		for n := range random.IntN(8) {
			r := received([]string{"one", "two"}[n%2], fmt.Sprintf("172.20.%d.0/24", random.IntN(3)), fmt.Sprintf("192.168.10.%d", 200+random.IntN(3)), 65000+uint32(random.IntN(3)))
			r.PathLength, r.MED, r.LocalPref, r.Internal = 1+random.IntN(2), uint32(random.IntN(2)), uint32(random.IntN(2))*^uint32(0), random.IntN(2) == 0
			if !slices.ContainsFunc(in.Received, func(s state.BGPReceived) bool { return s.RowKey() == r.RowKey() }) {
				in.Received = append(in.Received, r)
			}
		}
		want := Import(in)
		for n, r := range want.Routes {
			if len(r.NextHops) == 0 || n > 0 && want.Routes[n-1].Dst.Compare(r.Dst) >= 0 || prefixOf("172.20.1.0/24").Overlaps(r.Dst) {
				t.Fatalf("%+v of %+v", want.Routes, in.Received)
			}
		}
		random.Shuffle(len(in.Received), func(i, j int) { in.Received[i], in.Received[j] = in.Received[j], in.Received[i] })
		if got := Import(in); !slices.EqualFunc(got.Routes, want.Routes, state.KernelRoute.SameSpec) {
			t.Fatalf("got %+v, want %+v", got.Routes, want.Routes)
		}
	}
}
