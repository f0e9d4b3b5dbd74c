package kernel

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// FlowHash is flow_hash of bpf/lb.h: what every node computes of a packet from
// client to a VIP (both IPv4) to choose its backend. proto is IP's number.
func FlowHash(client, vip netip.AddrPort, proto uint8) uint32 {
	init := 0xdeadbeef + 3<<2 + uint32(proto)
	number := func(a netip.Addr) uint32 { b := a.As4(); return binary.BigEndian.Uint32(b[:]) }
	a := init + number(client.Addr())
	b := init + number(vip.Addr())
	c := init + (uint32(client.Port())<<16 | uint32(vip.Port()))

	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	c = (c ^ b) - bits.RotateLeft32(b, 24)
	return c
}

// MaglevSlot is maglev_slot of bpf/lb.h: the slot of a hash in a table of size slots.
func MaglevSlot(hash, size uint32) uint32 {
	return uint32(uint64(hash) * uint64(size) >> 32)
}
