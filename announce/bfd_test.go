package announce

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// onSegments is a cluster of n nodes, all with eth1 on 192.168.10.0/24 and
// fd00:10::/64, and those of an even number with eth2 on 192.168.20.0/24 as well.
func onSegments(n int) (nodes []state.Node, leases []state.NodeLease) {
	for i := range n {
		name := fmt.Sprintf("n%03d", i)
		lease := state.NodeLease{Node: name, Interfaces: []state.LeaseInterface{{Name: "eth1", Up: true,
			Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.10.0/24"), netip.MustParsePrefix("fd00:10::/64")}}},
			Addrs: []netip.Addr{addrAt(10, i), netip.MustParseAddr(fmt.Sprintf("fd00:10::%x", i+1))}}
		if i%2 == 0 {
			lease.Interfaces = append(lease.Interfaces, state.LeaseInterface{Name: "eth2", Up: true,
				Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.20.0/24")}})
			lease.Addrs = append(lease.Addrs, addrAt(20, i))
		}
		nodes, leases = append(nodes, state.Node{Name: name}), append(leases, lease)
	}
	return nodes, leases
}

func addrAt(segment byte, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 168, segment, byte(i + 1)})
}

// devicesOf are a node's devices as its lease has them.
func devicesOf(lease state.NodeLease) (devices []state.Device) {
	for i, li := range lease.Interfaces {
		d := state.Device{Name: li.Name, Index: i + 2}
		for _, p := range li.Prefixes {
			for _, a := range lease.Addrs {
				if p.Contains(a) {
					d.Prefixes = append(d.Prefixes, netip.PrefixFrom(a, p.Bits()))
				}
			}
		}
		devices = append(devices, d)
	}
	return devices
}

var meshed = BFD{Interval: 100 * time.Millisecond, Multiplier: 3, Mesh: 16, Ring: 4}

func keysOf(rows []state.BFDSession) string {
	var keys []string
	for _, r := range rows {
		keys = append(keys, r.RowKey())
	}
	return strings.Join(keys, ", ")
}

func TestSessions(t *testing.T) {
	nodes, leases := onSegments(3)
	devices := devicesOf(leases[0])
	for _, tc := range []struct {
		name   string
		change func(nodes []state.Node, leases []state.NodeLease, devices []state.Device) ([]state.Node, []state.NodeLease, []state.Device)
		want   string
	}{
		{"all there", nil, "192.168.10.1 192.168.10.2@eth1, 192.168.10.1 192.168.10.3@eth1, 192.168.20.1 192.168.20.3@eth2"},
		{"no lease of its own yet", func(n []state.Node, l []state.NodeLease, d []state.Device) ([]state.Node, []state.NodeLease, []state.Device) {
			return n, l[1:], d
		}, ""},
		{"an interface is gone", func(n []state.Node, l []state.NodeLease, d []state.Device) ([]state.Node, []state.NodeLease, []state.Device) {
			return n, l, d[1:]
		}, "192.168.20.1 192.168.20.3@eth2"},
		{"a node is gone", func(n []state.Node, l []state.NodeLease, d []state.Device) ([]state.Node, []state.NodeLease, []state.Device) {
			return n[:2], l, d
		}, "192.168.10.1 192.168.10.2@eth1"},
		{"an appliance is no Node", func(n []state.Node, l []state.NodeLease, d []state.Device) ([]state.Node, []state.NodeLease, []state.Device) {
			l[2].Appliance = true
			return n[:2], l, d
		}, "192.168.10.1 192.168.10.2@eth1, 192.168.10.1 192.168.10.3@eth1, 192.168.20.1 192.168.20.3@eth2"},
		{"no IPv4 in common", func(n []state.Node, l []state.NodeLease, d []state.Device) ([]state.Node, []state.NodeLease, []state.Device) {
			l[1].Interfaces[0].Prefixes = l[1].Interfaces[0].Prefixes[1:]
			return n, l, d
		}, "192.168.10.1 192.168.10.3@eth1, fd00:10::1 fd00:10::2@eth1, 192.168.20.1 192.168.20.3@eth2"},
		{"an address is gone", func(n []state.Node, l []state.NodeLease, d []state.Device) ([]state.Node, []state.NodeLease, []state.Device) {
			d[0].Prefixes = nil
			return n, l, d
		}, "192.168.20.1 192.168.20.3@eth2"},
		{"a lease without addresses", func(n []state.Node, l []state.NodeLease, d []state.Device) ([]state.Node, []state.NodeLease, []state.Device) {
			l[1].Addrs = nil
			return n, l, d
		}, "192.168.10.1 192.168.10.3@eth1, 192.168.20.1 192.168.20.3@eth2"},
		{"two interfaces of one subnet", func(n []state.Node, l []state.NodeLease, d []state.Device) ([]state.Node, []state.NodeLease, []state.Device) {
			l[1].Interfaces = append(slices.Clone(l[1].Interfaces), l[1].Interfaces[0])
			l[1].Interfaces[1].Name = "eth9"
			return n, l, d
		}, "192.168.10.1 192.168.10.2@eth1, 192.168.10.1 192.168.10.3@eth1, 192.168.20.1 192.168.20.3@eth2"},
	} {
		n, l, d := nodes, leases, devices
		if tc.change != nil {
			n, l = onSegments(3)
			n, l, d = tc.change(n, l, devicesOf(leases[0]))
		}
		rows := Sessions(meshed, "n000", d, n, l)
		if got := keysOf(rows); got != tc.want {
			t.Errorf("%s: %s\nwant %s", tc.name, got, tc.want)
		}
		for _, r := range rows {
			if r.Interface == "eth1" && r.Ifindex != 2 || r.MinTx != 100*time.Millisecond || r.MinRx != r.MinTx || r.Multiplier != 3 {
				t.Errorf("%s: %+v", tc.name, r)
			}
		}
	}
	if got := keysOf(Sessions(BFD{}, "n000", devices, nodes, leases)); got != "" {
		t.Errorf("switched off: %s", got)
	}
}

// However many nodes there are, both ends of a session decide for it, and who has a ring
// reaches all.
func TestSessionsAgree(t *testing.T) {
	for _, tc := range []struct {
		nodes, mesh, ring int
		most, segment     int // sessions of a node, and of eth1 in all
	}{
		{2, 16, 0, 2, 1}, {16, 16, 0, 15 + 7, 16 * 15 / 2}, {17, 16, 0, 8, 0}, {17, 16, 4, 8 + 8, 17 * 4}, {40, 16, 4, 8 + 8, 40 * 4},
		{200, 16, 4, 16, 200 * 4}, {9, 2, 4, 12, 9 * 8 / 2}, {5, 2, 4, 6, 5 * 4 / 2}, {40, 0, 0, 0, 0},
	} {
		nodes, leases := onSegments(tc.nodes)
		bfd := BFD{Interval: time.Second, Multiplier: 3, Mesh: tc.mesh, Ring: tc.ring}
		ends := map[string]int{}
		onEth1 := 0
		for i, n := range nodes {
			rows := Sessions(bfd, n.Name, devicesOf(leases[i]), nodes, leases)
			if len(rows) > tc.most {
				t.Errorf("%+v: %s keeps %d sessions", tc, n.Name, len(rows))
			}
			for _, r := range rows {
				a, b := r.Local, r.Remote
				if b.Less(a) {
					a, b = b, a
				}
				ends[r.Interface+" "+a.String()+" "+b.String()]++
				if r.Interface == "eth1" {
					onEth1++
				}
			}
		}
		for session, n := range ends {
			if n != 2 {
				t.Fatalf("%+v: %s is decided for by %d ends", tc, session, n)
			}
		}
		if onEth1 != 2*tc.segment {
			t.Errorf("%+v: %d ends on eth1, want %d sessions", tc, onEth1, tc.segment)
		}
	}
}
