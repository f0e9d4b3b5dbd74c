package kernel

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// Whatever comes in: one verdict, one counter, nothing changed in what is
// dropped or not ours, and checksums that were right come out right.
func TestRandomPackets(t *testing.T) {
	n := newNode(t)
	random := rand.New(rand.NewPCG(3, 4))
	legal := map[string][]uint32{
		kindXDP:       {xdpDrop, xdpPass, xdpTX, xdpRedirect},
		kindTCOutside: {tcNext, tcDrop, tcRedirect},
		kindTCPod:     {tcNext, tcDrop, tcRedirect},
		kindTCBalance: {tcNext, tcDrop, tcRedirect},
	}
	node6, vip6 := netip.MustParseAddr("2001:db8::100"), netip.MustParseAddr("2001:db8::211")
	n.put("next_hops", uint32(11), bpfNextHop{Ifindex: uint32(n.out.Attrs().Index), Saddr6: be128(node6), Dmac: otherMAC, Smac: nodeMAC})
	n.put("backends6", uint32(11), bpfBackend6{Addr: be128(netip.MustParseAddr("2001:db8:1::7")), Port: be16(8080), NextHop: 11})
	n.table(11, 0, []uint32{11})
	n.put("frontends6", bpfFrontendKey6{Addr: be128(vip6)}, bpfFrontend{})
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
		for port := range uint16(100) { // those of randomPacket, and more
			n.put("frontends6", bpfFrontendKey6{Addr: be128(vip6), Port: be16(port), Proto: proto}, bpfFrontend{Set: 11})
		}
	}
	n.put("announced6", bpfAnnouncedKey6{Addr: be128(vip6), Ifindex: uint32(n.out.Attrs().Index)}, bpfAnnounced{Generation: 1, Mac: nodeMAC})
	reasons := map[string]bool{}
	for i := range 9000 {
		kind := []string{kindXDP, kindTCOutside, kindTCPod, kindTCBalance}[i%4]
		dev := n.out
		if kind == kindTCPod {
			dev = n.pod
		}
		in := randomPacket(random, kind, vip6)
		if kind != kindXDP && len(in) < 54 {
			continue // BPF_PROG_TEST_RUN takes no shorter ones
		}
		r := n.run(kind, dev, in)
		reasons[r.reason] = true
		if !slices.Contains(legal[kind], r.action) {
			t.Fatalf("%s: action %d for %s", kind, int32(r.action), packet.String(in))
		}
		untouched := r.reason == "not_ours" || kind == kindXDP && r.action == xdpDrop
		if untouched && !bytes.Equal(in, r.out) {
			t.Fatalf("%s: %q changed the packet:\n%s", kind, r.reason, packet.Diff(in, r.out))
		}
		if !strings.Contains(packet.String(in), "wrong") && strings.Contains(packet.String(r.out), "wrong") {
			t.Fatalf("%s: %q spoiled a checksum:\n%s\nfrom\n%s", kind, r.reason, packet.String(r.out), packet.String(in))
		}
	}
	// The run is worth nothing when all of it ends at the first check.
	for _, want := range []string{"not_ours", "forward_local", "forward_remote", "decap", "reply", "pod_delivered", "arp_reply",
		"icmp_echo_reply", "nd_reply", "nd_claim", "nd_invalid", "truncated", "bad_header", "fragment", "unserved_port", "unserved_proto", "stale_backend"} {
		if !reasons[want] {
			t.Errorf("no packet of the run was %q", want)
		}
	}
}

// randomPacket is a packet of the kind the program handles, more or less spoiled.
func randomPacket(random *rand.Rand, kind string, vip6 netip.Addr) []byte {
	one := func(addrs ...netip.Addr) netip.Addr { return addrs[random.IntN(len(addrs))] }
	port := func() uint16 {
		return []uint16{portLocal, portRemote, portUnresolved, 53, 54, 8080, 5353, portUnserved, uint16(random.Uint32())}[random.IntN(9)]
	}
	payload := make(packet.Payload, random.IntN(64))
	for i := range payload {
		payload[i] = byte(random.Uint32())
	}
	options := func(of []byte) []byte {
		if random.IntN(3) != 0 {
			return nil
		}
		return of[:random.IntN(len(of)+1)]
	}
	l4 := func() packet.Layer {
		switch random.IntN(6) {
		case 0:
			return packet.ICMP{Type: packet.EchoRequest, ID: uint16(random.Uint32())}
		case 1, 2:
			return packet.UDP{SrcPort: port(), DstPort: port()}
		}
		return packet.TCP{SrcPort: port(), DstPort: port(), Flags: byte(random.Uint32()) & 0x1f,
			Options: options([]byte{2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0})}
	}
	ip := func(src, dst netip.Addr) packet.IPv4 {
		return packet.IPv4{TOS: byte(random.Uint32()), TTL: byte(random.Uint32()), Src: src, Dst: dst, Options: options(make([]byte, 40))}
	}
	eth := fromRouter
	var b []byte
	switch {
	case kind == kindTCOutside:
		b = packet.Build(eth, ip(client, one(localPod, localPod, vip)), l4(), payload)
	case kind == kindTCPod:
		b = packet.Build(packet.Ethernet{Dst: podHostMAC, Src: podMAC}, ip(localPod, client), l4(), payload)
	case random.IntN(8) == 0:
		b = packet.Build(packet.Ethernet{Dst: packet.Broadcast, Src: strangeMAC}, packet.ARP{
			Op: uint16(1 + random.IntN(2)), SenderMAC: strangeMAC, Sender: one(router, router, vip, otherVIP), Target: one(vip, otherVIP)})
	case random.IntN(8) == 0:
		b = randomND(random, vip6)
	case random.IntN(3) == 0:
		b = packet.Build(eth, packet.IPv4{Src: otherNode, Dst: one(localPod, localPod, vip)}, ip(client, one(vip, vip, localPod)), l4(), payload)
	case random.IntN(3) == 0:
		layers := []packet.Layer{eth, packet.IPv6{HopLimit: byte(random.Uint32()), Src: netip.MustParseAddr("2001:db8:9::1"), Dst: vip6}}
		for range random.IntN(3) {
			layers = append(layers, packet.Extension{Kind: []uint8{packet.KindHopByHop, packet.KindDestination, packet.KindRouting}[random.IntN(3)], Body: options(make([]byte, 20))})
		}
		b = packet.Build(append(layers, l4(), payload)...)
	default:
		b = packet.Build(eth, ip(client, one(vip, vip, nodeAddr)), l4(), payload)
	}
	switch random.IntN(4) {
	case 0: // bits, mostly of the headers
		for range 1 + random.IntN(4) {
			b[random.IntN(min(len(b), 12+random.IntN(70)))] ^= 1 << random.IntN(8)
		}
	case 1:
		b = b[:14+random.IntN(len(b)-14)]
	}
	return b
}

// randomND is a message of neighbour discovery, with whatever options.
func randomND(random *rand.Rand, target netip.Addr) []byte {
	one := func(addrs ...netip.Addr) netip.Addr { return addrs[random.IntN(len(addrs))] }
	var options []byte
	for range random.IntN(4) {
		option := make([]byte, 8*(1+random.IntN(4)))
		option[0], option[1] = byte(1+random.IntN(3)), byte(len(option)/8)
		if random.IntN(8) == 0 {
			option[1] = byte(random.Uint32())
		}
		option[2], option[7] = byte(random.Uint32()), byte(random.Uint32())
		options = append(options, option...)
	}
	group := target.As16()
	group = [16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: group[13], 14: group[14], 15: group[15]}
	return packet.Build(packet.Ethernet{Dst: packet.MAC{0x33, 0x33, 0xff, group[13], group[14], group[15]}, Src: routerMAC},
		packet.IPv6{HopLimit: 255, Src: one(ndRouter, ndRouter, ndNowhere, target, allNodes), Dst: one(netip.AddrFrom16(group), target, allNodes)},
		packet.ND{Type: byte(packet.NDSolicitation + random.IntN(2)), Flags: random.Uint32(), Target: one(target, target, ndOther), Options: options})
}
