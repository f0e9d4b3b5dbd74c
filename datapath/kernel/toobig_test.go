package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

const portSmall = 190 // without translation, by a next hop with an MTU of 1300

// answersIn is answers in the world of a family.
func answersIn(n *node, f family) answers {
	n.putFrontend(f, f.vip, portSmall, packet.ProtoUDP, bpfFrontend{Set: 23})
	return answers{node: n, v6: f.v6, vip: f.vip, client: f.client, router: f.router, pod: f.localPod}
}

// What does not fit is answered with what would, in either family.
func TestTooBigInFamilies(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		a := answersIn(n, f)
		overhead, least := pick(a, 20, 40), pick(a, 68, 1280)
		for _, size := range []int{1300 - overhead, 1301 - overhead, 1280, 1281, 1400, 1500} {
			n.sub(fmt.Sprintf("%d bytes", size), func(n *node) {
				a := a
				a.node = n
				a.refillQuota()
				in := a.ask(packet.UDP{SrcPort: 1025, DstPort: portSmall}, large(size-pick(a, 28, 48)))
				switch {
				case size <= 1300-overhead:
					if r := n.run(kindXDP, n.out, in); r.action != xdpTX || r.reason != "forward_remote" {
						n.t.Errorf("action %d for %s", r.action, r.reason)
					}
				case size <= least: // no sender makes it smaller
					n.expect(kindXDP, n.out, in, xdpDrop, "too_big", nil)
				default:
					n.expect(kindXDP, n.out, in, xdpTX, "icmp_too_big", a.fault(pick(a, uint16(0x0304), uint16(0x0200)), uint32(max(least, 1300-overhead)), in))
				}
			})
		}
	})
}

// A router between the nodes knows of the tunnel alone; the client is told of the
// packet inside.
func TestErrorsOfTunnels(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		a := answersIn(n, f)
		ip := func(src, dst netip.Addr, inner packet.Layer) packet.Layer {
			proto := uint8(packet.ProtoUDP)
			switch inner.(type) {
			case packet.IPv4:
				proto = packet.ProtoIPIP
			case packet.IPv6:
				proto = packet.ProtoIPv6
			}
			if f.v6 {
				return packet.IPv6{HopLimit: 60, Src: src, Dst: dst, NextHeader: new(proto)}
			}
			return packet.IPv4{TTL: 60, Fragment: packet.DontFragment, Src: src, Dst: dst, Protocol: new(proto)}
		}
		kind := pick(a, uint16(0x0304), uint16(0x0200))
		fault := func(to netip.Addr, kind uint16, mtu uint32, quote []byte) []byte {
			return f.packet(fromRouter, f.otherNode, to, 63, packet.ICMP{Type: uint8(kind >> 8), Code: uint8(kind), ID: uint16(mtu >> 16), Seq: uint16(mtu)}, packet.Payload(quote))
		}
		told := func(mtu uint32, quote []byte) []byte {
			header := packet.Layer(packet.IPv4{TTL: 63, TOS: 0xc0, Fragment: packet.DontFragment, Src: f.vip, Dst: f.client})
			if f.v6 {
				header = packet.IPv6{HopLimit: 63, TrafficClass: 0xc0, Src: f.vip, Dst: f.client}
			}
			return packet.Build(toRouter, header, packet.ICMP{Type: uint8(kind >> 8), Code: uint8(kind), ID: uint16(mtu >> 16), Seq: uint16(mtu)}, packet.Payload(quote))
		}
		inner := func(src, dst netip.Addr, l4 packet.Layer) []byte {
			return packet.Build(ip(src, dst, l4), l4, large(400))
		}
		question := inner(f.client, f.vip, packet.UDP{SrcPort: 1025, DstPort: portSmall})
		ipip := func(quoted []byte) []byte {
			return packet.Build(ip(f.node, f.remotePod, pick(a, packet.Layer(packet.IPv4{}), packet.Layer(packet.IPv6{}))), packet.Payload(quoted))
		}
		geneve := func(port uint16, quoted []byte) []byte {
			g := packet.Geneve{Options: make([]byte, 24), Type: new(pick(a, uint16(packet.TypeIPv4), uint16(packet.TypeIPv6)))}
			return packet.Build(ip(f.node, f.otherNode, packet.UDP{}), packet.UDP{SrcPort: 50000, DstPort: port}, g, packet.Payload(quoted))
		}
		overhead := pick(a, uint32(20), uint32(40))
		whole := fault(f.node, kind, 1400, ipip(question))
		short := pick(a, 20, 40)
		for name, row := range map[string]row{
			"ip in ip":        {whole, xdpTX, "icmp_forwarded", told(1400-overhead, question)},
			"geneve":          {fault(f.node, kind, 1400, geneve(6081, question)), xdpTX, "icmp_forwarded", told(1400-overhead-40, question)},
			"quote cut off":   {fault(f.node, kind, 1400, ipip(question)[:2*short+8]), xdpTX, "icmp_forwarded", told(1400-overhead, question[:short+8])},
			"very small":      {fault(f.node, kind, 1200, ipip(question)), xdpTX, "icmp_forwarded", told(pick(a, uint32(1180), uint32(1280)), question)},
			"quote too short": {fault(f.node, kind, 1400, ipip(question)[:2*short+7]), xdpPass, "not_ours", nil},
			"8 bytes":         {fault(f.node, kind, 1400, ipip(question)[:short+8]), xdpPass, "not_ours", nil},
			"mtu 0":           {fault(f.node, kind, 0, ipip(question)), xdpPass, "not_ours", nil},
			"unreachable":     {fault(f.node, pick(a, uint16(0x0301), uint16(0x0100)), 1400, ipip(question)), xdpPass, "not_ours", nil},
			"to no vip":       {fault(f.node, kind, 1400, ipip(inner(f.client, f.otherNode, packet.UDP{}))), xdpPass, "not_ours", nil},
			"of another node": {fault(f.node, kind, 1400, packet.Build(ip(f.otherNode, f.remotePod, pick(a, packet.Layer(packet.IPv4{}), packet.Layer(packet.IPv6{}))), packet.Payload(question))), xdpPass, "not_ours", nil},
			"another port":    {fault(f.node, kind, 1400, geneve(6080, question)), xdpPass, "not_ours", nil},
			"from the vip":    {fault(f.node, kind, 1400, ipip(inner(f.vip, f.vip, packet.UDP{}))), xdpPass, "not_ours", nil},
			"flooded":         {append(packet.Build(packet.Ethernet{Dst: otherMAC, Src: routerMAC, Type: new(pick(a, uint16(0x0800), uint16(0x86dd)))}), whole[14:]...), xdpPass, "not_ours", nil},
		} {
			n.sub(name, func(n *node) {
				a := a
				a.node = n
				a.refillQuota()
				n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out)
			})
		}
	})
}

// A router's error about what a backend on another node has sent goes to that node, also
// where the way to it is another device.
func TestErrorsByAnotherDevice(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		const plain, geneve = 290, 291
		secondMAC := packet.ParseMAC("02:00:00:00:01:64")
		n.put("next_hops", uint32(50), bpfNextHop{Ifindex: uint32(n.second.Attrs().Index), Mtu: 1500, Saddr: be32(nodeAddr), Saddr6: words(families[1].node),
			Node: be32(otherNode), Node6: words(families[1].otherNode), Dmac: otherMAC, Smac: secondMAC})
		n.putBackend(f, 50, f.remotePod, 8080, 50, 0)
		n.table(50, 0, []uint32{50})
		action := uint32(xdpRedirect)
		if n.inTC {
			action = xdpTX // as asInXDP has it
		}
		kind := packet.ICMP{Type: 3, Code: 4, Seq: 1400}
		if f.v6 {
			kind = packet.ICMP{Type: 2, Seq: 1400}
		}
		for port, flags := range map[uint16]uint32{plain: 0, geneve: uint32(bpfFrontendFlagsFRONTEND_GENEVE)} {
			n.putFrontend(f, f.vip, port, packet.ProtoUDP, bpfFrontend{Set: 50, Flags: flags})
			quote := f.packet(fromRouter, f.vip, f.client, 60, packet.UDP{SrcPort: port, DstPort: 1025}, large(100))[14:]
			fault := []packet.Layer{f.ip(f.router, f.vip, 63), kind, packet.Payload(quote)}
			hash := flowHash(f, 1025, port, packet.ProtoUDP)
			tunnel := []packet.Layer{packet.Ethernet{Dst: otherMAC, Src: secondMAC}, outer(f.node, f.remotePod, hash, false)}
			if port == geneve {
				tunnel = append([]packet.Layer{tunnel[0], outer(f.node, f.otherNode, hash, false)}, inGeneve(hash, podOption(f.remotePod, 0))...)
			}
			n.sub(fmt.Sprintf("port %d", port), func(n *node) {
				n.expect(kindXDP, n.out, concat([]packet.Layer{fromRouter}, fault), action, "icmp_forwarded", concat(tunnel, fault))
			})
		}
	})
}

// The fragments of a packet go where the first one went, in either family.
func TestFragmentsInFamilies(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		a := answersIn(n, f)
		segment := packet.Build(a.ip(f.client, f.vip, 63, 0), packet.UDP{SrcPort: 1025, DstPort: portSmall}, large(3000))[pick(a, 20, 40):]
		frame := func(id uint32, offset int) []byte {
			data := packet.Payload(segment[offset:min(offset+1000, len(segment))])
			more := offset+1000 < len(segment)
			if f.v6 {
				header := packet.Fragment6{Offset: uint16(offset), ID: id, NextHeader: new(uint8(packet.ProtoUDP))}
				if more {
					header.Offset |= 1
				}
				return packet.Build(fromRouter, packet.IPv6{HopLimit: 63, Src: f.client, Dst: f.vip}, header, data)
			}
			ip := packet.IPv4{TTL: 63, ID: uint16(id), Fragment: uint16(offset / 8), Src: f.client, Dst: f.vip, Protocol: new(uint8(packet.ProtoUDP))}
			if more {
				ip.Fragment |= packet.MoreFragments
			}
			return packet.Build(fromRouter, ip, data)
		}
		expect := func(name string, in []byte, reason string) {
			n.sub(name, func(n *node) {
				r := n.run(kindXDP, n.out, in)
				if r.reason != reason {
					n.t.Fatalf("%s, want %s", r.reason, reason)
				}
				if r.action == xdpDrop {
					return
				}
				// Behind the outer header is the packet as it came.
				inner := append(slices.Clone(in[:14]), r.out[14+pick(a, 20, 40):]...)
				if d := packet.Diff(in, inner); r.action != xdpTX || d != "" {
					n.t.Errorf("action %d, and inside\n%s", r.action, d)
				}
			})
		}
		expect("later, too early", frame(7, 1000), "fragment_orphan")
		expect("first", frame(7, 0), "forward_remote")
		expect("later", frame(7, 2000), "fragment_passed")
		expect("last", frame(7, 3000), "fragment_passed")
		expect("later again", frame(7, 1000), "fragment_passed")
		expect("of another packet", frame(8, 1000), "fragment_orphan")
		if f.v6 {
			expect("alone", packet.Build(fromRouter, packet.IPv6{HopLimit: 63, Src: f.client, Dst: f.vip}, packet.Fragment6{ID: 9}, packet.UDP{SrcPort: 1025, DstPort: portSmall}), "forward_remote")
		}
	})
}

// Of the fragments of an IPv6 packet the first says what they carry, whatever the others
// say: these may name the extension header that was cut up with the rest.
func TestFragmentsNameWhatTheyLike(t *testing.T) {
	f := families[1]
	atEachHook(t, func(n *node) {
		n.addFamily(f)
		a := answersIn(n, f)
		const destination = packet.KindDestination
		cut := func(layers ...packet.Layer) func(id uint32, says uint8, from, to int, more bool) []byte {
			layers = append([]packet.Layer{a.ip(f.client, f.vip, 63, 0)}, layers...)
			whole := packet.Build(append(layers, large(2000))...)[40:]
			return func(id uint32, says uint8, from, to int, more bool) []byte {
				header := packet.Fragment6{Offset: uint16(from), ID: id, NextHeader: &says}
				if more {
					header.Offset |= 1
				}
				return packet.Build(fromRouter, packet.IPv6{HopLimit: 63, Src: f.client, Dst: f.vip}, header, packet.Payload(whole[from:to]))
			}
		}
		expect := func(name string, in []byte, reason string) {
			n.sub(name, func(n *node) {
				if r := n.run(kindXDP, n.out, in); r.reason != reason {
					n.t.Errorf("%s, want %s", r.reason, reason)
				}
			})
		}
		udp := cut(packet.UDP{SrcPort: 1025, DstPort: portSmall})
		expect("udp, first", udp(7, packet.ProtoUDP, 0, 1000, true), "forward_remote")
		expect("says tcp", udp(7, packet.ProtoTCP, 1000, 1008, true), "fragment_passed")
		expect("says nothing follows", udp(7, 59, 1008, 1016, true), "fragment_passed")
		expect("says icmp", udp(7, packet.ProtoICMPv6, 1016, 1024, true), "fragment_passed")
		expect("says options", udp(7, destination, 1024, 2008, false), "fragment_passed")
		expect("of no first one, says icmp", udp(6, packet.ProtoICMPv6, 1016, 1024, true), "fragment")
		expect("behind the header", udp(7, packet.ProtoUDP, 8, 16, true), "fragment_passed")

		options := cut(packet.Extension{Kind: destination}, packet.UDP{SrcPort: 1025, DstPort: portSmall})
		expect("options and udp, first", options(8, destination, 0, 1000, true), "forward_remote")
		expect("options and udp, last", options(8, destination, 1000, 2016, false), "fragment_passed")
		expect("over the udp header behind options", options(8, destination, 8, 16, true), "fragment")

		tcp := cut(packet.Extension{Kind: destination}, packet.TCP{SrcPort: 1025, DstPort: portSmall})
		n.putFrontend(f, f.vip, portSmall, packet.ProtoTCP, bpfFrontend{Set: 23})
		expect("options and tcp, first", tcp(9, destination, 0, 1000, true), "forward_remote")
		expect("over the tcp header behind options", tcp(9, destination, 24, 32, true), "fragment")
		expect("and says udp", tcp(9, packet.ProtoUDP, 24, 32, true), "fragment")
		expect("behind the tcp header", tcp(9, destination, 32, 40, true), "fragment_passed")
	})
}
