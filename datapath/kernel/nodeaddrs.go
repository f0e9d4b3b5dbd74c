package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// SetNodeAddrs says what other nodes know this one by: Geneve is taken in at each of
// these addresses, and the first of a family is what the node sends from where no next
// hop says. Of a family there is room for 8; more are left out.
func (k *Kernel) SetNodeAddrs(addrs []netip.Addr) error {
	var row, have bpfNodeAddrs
	four, six := 0, 0
	for _, addr := range addrs {
		switch addr = addr.Unmap(); {
		case addr.Is4() && four < len(row.Four):
			row.Four[four] = be32(addr)
			four++
		case addr.Is6() && six < len(row.Six):
			row.Six[six].Addr = words(addr)
			six++
		}
	}
	if err := k.maps[bpfMapOwnAddrs].Lookup(uint32(0), &have); err != nil {
		return fmt.Errorf("read this node's addresses: %w", err)
	}
	if row == have {
		return nil
	}
	if err := k.maps[bpfMapOwnAddrs].Put(uint32(0), row); err != nil {
		return fmt.Errorf("write this node's addresses: %w", err)
	}
	return nil
}

// firstNodeAddrs writes the configured addresses where no earlier daemon has written any.
func (k *Kernel) firstNodeAddrs() error {
	var have bpfNodeAddrs
	if err := k.maps[bpfMapOwnAddrs].Lookup(uint32(0), &have); err != nil {
		return fmt.Errorf("read this node's addresses: %w", err)
	}
	if have != (bpfNodeAddrs{}) {
		return nil
	}
	return k.SetNodeAddrs([]netip.Addr{k.cfg.NodeAddr, k.cfg.NodeAddr6})
}

// be32 is an IPv4 address as in a value of bpf/shapes.h, and words one of IPv6.
func be32(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func words(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}
