package pod

import (
	"net"
	"net/netip"
)

// ipNet is p as netlink wants it. The address is not masked.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// host is the prefix of a alone.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// prefixOf is n as netip has it; false when n is nil or no prefix.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, bits := n.Mask.Size()
	if bits == 8*net.IPv4len {
		addr = addr.Unmap()
	}
	p := netip.PrefixFrom(addr, ones)
	return p, p.IsValid()
}
