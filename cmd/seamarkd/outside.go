package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/kernel"
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

// outside is what this node has towards others until its Node object says more.
type outside struct {
	// addrs are the node's address, given or found, and the others of its device.
	addrs []netip.Addr
	given bool // with --node-ip
	mtu   int  // of the device
}

// outsideOf returns what the node has: at the address given, or at the source of the
// default route, or else at the first address of a device that is up. IPv4's come first.
func outsideOf(given string) (outside, error) {
	if given != "" {
		addr, err := netip.ParseAddr(given)
		if err != nil || addr.Zone() != "" {
			return outside{}, fmt.Errorf("--node-ip %q: want an IP address of this node", given)
		}
		out, err := onDeviceOf(addr.Unmap())
		out.given = true
		return out, err
	}
	// TEST-NET-1 (RFC 5737) and IPv6's (RFC 3849): only the route is looked up.
	for _, there := range []string{"192.0.2.1", "2001:db8::1"} {
		routes, err := netlink.RouteGet(net.ParseIP(there))
		if err != nil || len(routes) == 0 {
			continue
		}
		if addr, ok := netip.AddrFromSlice(routes[0].Src); ok && isNodeAddr(addr) {
			return onDeviceOf(addr.Unmap())
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		addrs, err := netlink.AddrList(nil, family)
		if err != nil {
			return outside{}, fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range addrs {
			if addr, ok := netip.AddrFromSlice(a.IP); ok && isNodeAddr(addr) {
				return onDeviceOf(addr.Unmap())
			}
		}
	}
	return outside{}, errors.New("find this node's address: no device has one; give one, or name it with --node-ip")
}

// isNodeAddr says whether other nodes could know a node by an address.
func isNodeAddr(addr netip.Addr) bool { return addr.IsGlobalUnicast() && !addr.IsLoopback() }

func onDeviceOf(addr netip.Addr) (outside, error) {
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return outside{}, fmt.Errorf("list addresses: %w", err)
	}
	at := slices.IndexFunc(all, func(a netlink.Addr) bool { return a.IP.Equal(addr.AsSlice()) })
	if at < 0 {
		return outside{}, fmt.Errorf("--node-ip %s: no device of this node has it; it has %v", addr, all)
	}
	link, err := netlink.LinkByIndex(all[at].LinkIndex)
	if err != nil {
		return outside{}, fmt.Errorf("find device of %s: %w", addr, err)
	}
	out := outside{addrs: []netip.Addr{addr}, mtu: link.Attrs().MTU}
	for _, a := range all {
		if other, ok := netip.AddrFromSlice(a.IP); ok && a.LinkIndex == all[at].LinkIndex && other.Unmap() != addr && isNodeAddr(other) {
			out.addrs = append(out.addrs, other.Unmap())
		}
	}
	return out, nil
}

// first returns the first address of a family; the zero Addr: there is none.
func first(addrs []netip.Addr, v6 bool) netip.Addr {
	at := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is6() == v6 })
	if at < 0 {
		return netip.Addr{}
	}
	return addrs[at]
}

// nodeAddrs are the addresses that other nodes know this one by, best first: the one
// given, those of the Node object, and, of a family that this has none of, the device's.
func (o outside) nodeAddrs(node state.Node) (addrs []netip.Addr) {
	if o.given {
		addrs = append(addrs, o.addrs[0])
	}
	for _, a := range node.Addrs {
		if a = a.Unmap(); !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	for _, v6 := range []bool{false, true} {
		if own := first(o.addrs, v6); own.IsValid() && !first(addrs, v6).IsValid() {
			addrs = append(addrs, own)
		}
	}
	return addrs
}

// keepNodeAddrs has the programs know this node's addresses, as its Node object has them.
func (d *deciders) keepNodeAddrs(out outside, kern *kernel.Kernel) func(context.Context) error {
	return func(ctx context.Context) error {
		return d.db.Follow(ctx, redecide, func(snap state.Snapshot) {
			if !d.db.Nodes.Synced(snap) {
				return
			}
			node, _ := d.db.Nodes.Get(snap, d.node)
			if err := kern.SetNodeAddrs(out.nodeAddrs(node)); err != nil {
				d.log.Warn("tell the programs this node's addresses", "retry", redecide, "err", err)
			}
		}, d.db.Nodes.Watch(), d.db.MarksChanged)
	}
}

// addrsOf returns what looks up the addresses of other nodes.
func addrsOf(db *state.DB) func(node string) datapath.NodeAddrs {
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
