package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/state"
	"github.com/vishvananda/netlink"
)

// encapOverhead is the outer IPv4 header of IPIP (RFC 2003), tcpHeaders the
// inner IPv4 and TCP headers without options, in bytes.
const (
	encapOverhead = 20
	tcpHeaders    = 40
)

// mssClamp is the largest TCP segment that still fits mtu when a packet is
// encapsulated on its way to a pod.
func mssClamp(mtu int) uint16 {
	return uint16(max(min(mtu, 65535)-encapOverhead-tcpHeaders, 0))
}

// outsideAddr returns this node's IPv4 address towards other nodes and the MTU
// of the device that has it: given, or the source of the default route, or
// else the first address of a device that is up.
func outsideAddr(given string) (netip.Addr, int, error) {
	if given != "" {
		addr, err := netip.ParseAddr(given)
		if err != nil || !addr.Is4() {
			return addr, 0, fmt.Errorf("--node-ip %q: want an IPv4 address of this node", given)
		}
		return withMTU(addr)
	}
	// TEST-NET-1 (RFC 5737): only the route is looked up.
	if routes, err := netlink.RouteGet(net.IPv4(192, 0, 2, 1)); err == nil && len(routes) > 0 {
		if addr, ok := netip.AddrFromSlice(routes[0].Src.To4()); ok && addr.IsGlobalUnicast() {
			return withMTU(addr)
		}
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}, 0, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP.To4()); ok && addr.IsGlobalUnicast() && !addr.IsLoopback() {
			return withMTU(addr)
		}
	}
	return netip.Addr{}, 0, errors.New("find this node's address: no device has an IPv4 address; give one, or name it with --node-ip")
}

func withMTU(addr netip.Addr) (netip.Addr, int, error) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return addr, 0, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if !a.IP.Equal(addr.AsSlice()) {
			continue
		}
		link, err := netlink.LinkByIndex(a.LinkIndex)
		if err != nil {
			return addr, 0, fmt.Errorf("find device of %s: %w", addr, err)
		}
		return addr, link.Attrs().MTU, nil
	}
	return addr, 0, fmt.Errorf("--node-ip %s: no device of this node has it; it has %v", addr, addrs)
}

// nodeAddrs returns what looks up the addresses of other nodes.
func nodeAddrs(db *state.DB) func(node string) datapath.NodeAddrs {
	return func(node string) (addrs datapath.NodeAddrs) {
		row, _ := db.Nodes.Get(db.Snapshot(), node)
		for _, addr := range row.Addrs {
			switch addr = addr.Unmap(); {
			case addr.Is4() && !addrs.Four.IsValid():
				addrs.Four = addr
			case addr.Is6() && !addrs.Six.IsValid():
				addrs.Six = addr
			}
		}
		return addrs
	}
}
