package announce

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/state"
)

// Local returns what the node announces: the addresses assigned to it, on
// those of their interfaces that it has and that are up. Sorted by key.
func Local(assigned []state.Assignment, devices []state.Device, node string) []state.Announcement {
	up := map[string]state.Device{}
	for _, d := range devices {
		if d.Up {
			up[d.Name] = d
		}
	}
	var rows []state.Announcement
	for _, a := range assigned {
		if a.Node != node {
			continue
		}
		for _, name := range a.Interfaces {
			if d, ok := up[name]; ok {
				rows = append(rows, state.Announcement{Addr: a.Addr, Interface: name, Service: a.Service, Generation: a.Generation,
					Index: d.Index, MAC: d.MAC})
			}
		}
	}
	slices.SortFunc(rows, func(a, b state.Announcement) int { return strings.Compare(a.RowKey(), b.RowKey()) })
	return rows
}

// Report returns the devices that the node tells the coordinator of: those
// that a policy for this node names, and the outside ones, which policies
// without interfaces mean. Sorted by name.
func Report(devices []state.Device, policies []state.L2Policy, node state.Node, outside func(state.Device) bool) []state.LeaseInterface {
	compiled, _ := compilePolicies(policies, nil) // no pool matters here
	var report []state.LeaseInterface
	for _, d := range devices {
		mac, err := net.ParseMAC(d.MAC)
		if err != nil || len(mac) != 6 || mac.String() == "00:00:00:00:00:00" {
			continue // nothing to answer ARP with
		}
		named := slices.ContainsFunc(compiled, func(p policy) bool {
			return len(p.interfaces) > 0 && p.selectsNode(node) && p.matches(d.Name)
		})
		if named || outside(d) {
			report = append(report, state.LeaseInterface{Name: d.Name, MAC: d.MAC, Up: d.Up,
				Prefixes: onLink(d.Prefixes), Gateways: d.Gateways})
		}
	}
	slices.SortFunc(report, func(a, b state.LeaseInterface) int { return strings.Compare(a.Name, b.Name) })
	return report
}

// onLink leaves out what is no subnet: single addresses and link-local ones.
func onLink(prefixes []netip.Prefix) []netip.Prefix {
	var subnets []netip.Prefix
	for _, p := range prefixes {
		if !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() {
			subnets = append(subnets, p.Masked())
		}
	}
	slices.SortFunc(subnets, netip.Prefix.Compare)
	return slices.Compact(subnets)
}

func sameInterface(a, b state.LeaseInterface) bool {
	return a.Name == b.Name && a.MAC == b.MAC && a.Up == b.Up &&
		slices.Equal(a.Prefixes, b.Prefixes) && slices.Equal(a.Gateways, b.Gateways) &&
		slices.Equal(a.Heard, b.Heard) && slices.Equal(a.Silent, b.Silent) && a.Gateway == b.Gateway
}

// ClusterMACs returns the addresses that the other nodes announce from, sorted.
func ClusterMACs(leases []state.NodeLease, node string) []net.HardwareAddr {
	var macs []net.HardwareAddr
	for _, lease := range leases {
		if lease.Node == node {
			continue
		}
		for _, i := range lease.Interfaces {
			if mac, err := net.ParseMAC(i.MAC); err == nil && len(mac) == 6 {
				macs = append(macs, mac)
			}
		}
	}
	slices.SortFunc(macs, func(a, b net.HardwareAddr) int { return bytes.Compare(a, b) })
	return slices.CompactFunc(macs, func(a, b net.HardwareAddr) bool { return bytes.Equal(a, b) })
}
