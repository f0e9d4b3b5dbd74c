package pod

import (
	"net/netip"
	"slices"
)

// allocate returns the lowest address of cidr that is neither used nor
// recently freed, or, when there is none, the one that was freed longest ago.
// The network and broadcast addresses are not given out. freed is oldest first.
func allocate(cidr netip.Prefix, used func(netip.Addr) bool, freed []netip.Addr) (netip.Addr, bool) {
	cidr = cidr.Masked()
	ends := cidr.Addr().BitLen()-cidr.Bits() > 1 // RFC 3021: a /31 has neither
	usable := func(a netip.Addr) bool {
		if used(a) || !cidr.Contains(a) {
			return false
		}
		return !ends || a != cidr.Addr() && cidr.Contains(a.Next())
	}
	for a := cidr.Addr(); cidr.Contains(a); a = a.Next() {
		if usable(a) && !slices.Contains(freed, a) {
			return a, true
		}
	}
	for _, a := range freed {
		if usable(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}
