package kernel

import (
	"encoding/binary"
	"net/netip"
)

// FlowHash is flow_hash of bpf/lb.h: what every node computes of a packet from
// client to a VIP (both IPv4) to choose its backend. proto is IP's number.
func FlowHash(client, vip netip.AddrPort, proto uint8) uint32 {
	number := func(a netip.Addr) uint64 { b := a.As4(); return uint64(binary.BigEndian.Uint32(b[:])) }
	from := number(client.Addr())<<32 | uint64(client.Port())<<16 | uint64(vip.Port())
	to := number(vip.Addr())<<8 | uint64(proto)

	h := from * 0x9e3779b97f4a7c15
	h ^= h >> 32
	h = (h + to) * 0xd6e8feb86659fd93
	h ^= h >> 32
	return uint32(h * 0xd6e8feb86659fd93 >> 32)
}

// MaglevSlot is maglev_slot of bpf/lb.h: the slot of a hash in a table of size slots.
func MaglevSlot(hash, size uint32) uint32 {
	return uint32(uint64(hash) * uint64(size) >> 32)
}
