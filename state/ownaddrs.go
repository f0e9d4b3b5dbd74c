package state

import (
	"iter"
	"net/netip"
	"slices"
)

// ipvsDevice is kube-proxy's: in its mode ipvs, the device has all clusterIPs.
const ipvsDevice = "kube-ipvs0"

// OwnAddrs returns the addresses that devices of a node have for themselves,
// sorted. Not among them are those of loopback, which no other machine sends
// to, link-local ones, which each link has anew, and single ones (/32, /128)
// that carried says a Service has: VIPs that somebody put on a device.
func OwnAddrs(devices []Device, carried func(netip.Addr) bool) []netip.Addr {
	var own []netip.Addr
	for _, d := range devices {
		if d.Type == "loopback" || d.Name == ipvsDevice {
			continue
		}
		for _, p := range d.Prefixes {
			a := p.Addr().Unmap()
			if !a.IsLoopback() && !a.IsLinkLocalUnicast() && !(p.IsSingleIP() && carried(a)) {
				own = append(own, a)
			}
		}
	}
	slices.SortFunc(own, netip.Addr.Compare)
	return slices.Compact(own)
}

// CarriedBy returns a function that says whether one of the services carries an
// address. They are gone through when it is first called.
func CarriedBy(services iter.Seq[Service]) func(netip.Addr) bool {
	var carried map[netip.Addr]bool
	return func(a netip.Addr) bool {
		if carried == nil {
			carried = map[netip.Addr]bool{}
			for svc := range services {
				for _, addrs := range [][]netip.Addr{svc.Ingress, svc.ExternalIPs, svc.ClusterIPs} {
					for _, vip := range addrs {
						carried[vip.Unmap()] = true
					}
				}
			}
		}
		return carried[a]
	}
}
