package kernel

import (
	"encoding/binary"
	"net/netip"
)

// FlowHash is flow_hash of bpf/lb.h: what every node computes of a packet from
// client to a VIP (both of one family) to choose its backend. proto is IP's number.
func FlowHash(client, vip netip.AddrPort, proto uint8) uint32 {
	var h, to uint64
	if client.Addr().Is4() {
		number := func(a netip.Addr) uint64 { b := a.As4(); return uint64(binary.BigEndian.Uint32(b[:])) }
		h = number(client.Addr())<<32 | uint64(client.Port())<<16 | uint64(vip.Port())
		h *= 0x9e3779b97f4a7c15
		to = number(vip.Addr())<<8 | uint64(proto)
	} else {
		c, v := client.Addr().As16(), vip.Addr().As16()
		number := binary.BigEndian.Uint64
		h = number(c[:8])*0x9e3779b97f4a7c15 + number(c[8:])*0xbf58476d1ce4e5b9 +
			number(v[:8])*0x94d049bb133111eb + number(v[8:])*0xff51afd7ed558ccd
		to = uint64(client.Port())<<24 | uint64(vip.Port())<<8 | uint64(proto)
	}
	h ^= h >> 32
	h = (h + to) * 0xd6e8feb86659fd93
	h ^= h >> 32
	return uint32(h * 0xd6e8feb86659fd93 >> 32)
}

// MaglevSlot is maglev_slot of bpf/lb.h: the slot of a hash in a table of size slots.
func MaglevSlot(hash, size uint32) uint32 {
	return uint32(uint64(hash) * uint64(size) >> 32)
}
