package kernel

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// Clients that differ little have to spread as if they differed much: chi²
// over the slots, of which 250 degrees of freedom exceed 340 in one run of ten
// thousand, and fall below 170 as rarely.
func TestFlowHashSpreads(t *testing.T) {
	const slots, flows = 251, 251 * 400
	at := func(a uint32, port uint16) netip.AddrPort {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], a)
		return netip.AddrPortFrom(netip.AddrFrom4(b), port)
	}
	web := at(0xc0a80ad3, 80)
	for name, flow := range map[string]func(n uint32) uint32{
		"ports of one client":    func(n uint32) uint32 { return FlowHash(at(0x0a000001+n>>16, uint16(n)), web, 6) },
		"every second port":      func(n uint32) uint32 { return FlowHash(at(0x0a000001+n>>15, uint16(2*n)), web, 6) },
		"clients with one port":  func(n uint32) uint32 { return FlowHash(at(0x0a000000+n, 1024), web, 6) },
		"clients of many nets":   func(n uint32) uint32 { return FlowHash(at(n<<8|1, 1024), web, 6) },
		"clients and their port": func(n uint32) uint32 { return FlowHash(at(0x0a000000+n, uint16(1024+n&0x7fff)), web, 6) },
		"vips":                   func(n uint32) uint32 { return FlowHash(at(0x0a000001, 1024), at(0xc0a80000+n, 80), 6) },
		"ports of a vip":         func(n uint32) uint32 { return FlowHash(at(0x0a000001+n>>16, 1024), at(0xc0a80ad3, uint16(n)), 17) },
	} {
		var count [slots]float64
		for n := range uint32(flows) {
			count[MaglevSlot(flow(n), slots)]++
		}
		chi := 0.0
		for _, c := range count {
			chi += (c - flows/slots) * (c - flows/slots) / (flows / slots)
		}
		// Sequences may well spread more evenly than chance.
		if chi > 340 {
			t.Errorf("%s: chi² = %.0f over %d slots", name, chi, slots)
		}
	}
}
