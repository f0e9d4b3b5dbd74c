package kernel

import (
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// The fuzzer's own ports: of the VIP, and of the node itself (NodePorts and HostPorts).
const (
	portTraced   = 300
	portSame     = 8080  // the pod's own: for SCTP
	portNodeHere = 30080 // a pod of this node
	portNodeAway = 30081 // a pod elsewhere, in IP in IP
	portNodeSNAT = 30082 // and by translation
	portRanged   = 301   // from the client's prefix alone, translated, in Geneve, with affinity
)

// refusingVIP answers what it does not serve; by v6.
var refusingVIP = map[bool]netip.Addr{false: netip.MustParseAddr("192.168.10.213"), true: netip.MustParseAddr("fd00:10::213")}

// mutedMAC is of a machine that asks too often.
var mutedMAC = packet.ParseMAC("02:00:00:00:00:98")

// addEverything gives the node's world all that the other tests' worlds have, of both families.
func (n *node) addEverything() {
	n.t.Helper()
	out, second := uint32(n.out.Attrs().Index), uint32(n.second.Attrs().Index)
	for _, f := range families {
		n.addFamily(f)
		n.addMoved(f)
		n.addInside(f)
		n.balancing(f)
		n.putSource(f, 7, netip.PrefixFrom(f.client, f.client.BitLen()))
		n.putSource(f, 9, netip.PrefixFrom(f.client, f.client.BitLen()))
		refuse := uint32(bpfFrontendFlagsFRONTEND_REFUSE)
		n.putFrontend(f, refusingVIP[f.v6], 0, 0, bpfFrontend{Flags: uint32(bpfFrontendFlagsFRONTEND_VIP) | refuse})
		for _, proto := range tunnelled {
			n.putFrontend(f, refusingVIP[f.v6], portEmpty, proto, bpfFrontend{Set: 7, Inside: 7, Flags: refuse})
			n.putFrontend(f, f.vip, portEmpty, proto, bpfFrontend{Set: 7})
			n.putFrontend(f, f.vip, portTraced, proto, bpfFrontend{Set: 36, Inside: 36, Flags: uint32(bpfFrontendFlagsFRONTEND_TRACED)})
			n.putFrontend(f, f.vip, portSame, proto, bpfFrontend{Set: 36, Inside: 36})
			n.putTarget(f, f.vip, f.localPod, portSame, proto, portSame)
			n.putFrontend(f, f.node, portNodeHere, proto, bpfFrontend{Set: 36, Inside: 36})
			n.putFrontend(f, f.node, portNodeAway, proto, bpfFrontend{Set: 30, Inside: 36})
			n.putFrontend(f, f.node, portNodeSNAT, proto, bpfFrontend{Set: 20, Inside: 20, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT)})
			n.putFrontend(f, f.vip, portRanged, proto, bpfFrontend{Set: setAffine, Inside: setAffine, Service: 9,
				Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT | bpfFrontendFlagsFRONTEND_GENEVE | bpfFrontendFlagsFRONTEND_AFFINITY | bpfFrontendFlagsFRONTEND_SOURCES)})
			n.putTarget(f, f.vip, f.localPod, portTraced, proto, 8080)
			n.putTarget(f, f.node, f.localPod, portNodeHere, proto, 8080)
		}
	}
	n.put("vlans", bpfVlanKey{Device: out, Outer: 10}, second)
	n.put("vlans", bpfVlanKey{Device: out, Outer: 10, Inner: 20}, out)
	n.announceAll(3600)
}

// announceAll announces as at the beginning: claims that were heard are forgotten. The
// lease is over in so many seconds.
func (n *node) announceAll(seconds int64) {
	n.t.Helper()
	for _, dev := range []uint32{uint32(n.out.Attrs().Index), uint32(n.second.Attrs().Index)} {
		for _, f := range families {
			for addr, muted := range map[netip.Addr]bpfMuted{f.vip: 0, refusingVIP[f.v6]: bpfMutedMUTED_PROBING} {
				row := bpfAnnounced{Generation: 1, Mac: nodeMAC, Muted: uint8(muted)}
				if f.v6 {
					n.put("announced6", bpfAnnouncedKey6{Addr: words(addr), Ifindex: dev}, row)
				} else {
					n.put("announced", bpfAnnouncedKey{Addr: be32(addr), Ifindex: dev}, row)
				}
			}
		}
	}
	n.put("askers", bpfMacKey{Mac: mutedMAC}, bpfQuota{Window: tick(n.t), Sent: 1 << 20})
	n.renew(seconds)
}

// fillTables forgets the translated flows and the pins, and leaves no room for others.
func (n *node) fillTables() {
	n.t.Helper()
	for _, f := range families {
		if err := empty(n.maps[f.table("pins")]); err != nil {
			n.t.Fatal(err)
		}
		n.fillPins(f)
		n.clearNAT(f)
		for _, name := range []string{"nat_out", "nat_in"} {
			m := n.maps[f.table(name)]
			for i := range m.MaxEntries() {
				key := make([]byte, m.KeySize())
				key[0], key[1], key[2] = byte(i), byte(i>>8), byte(i>>16)
				if m.Put(key, make([]byte, m.ValueSize())) != nil {
					break // no room is left
				}
			}
		}
	}
}

// A seed is a frame as the test rows have them, and the program that it is for.
type seed struct {
	kind  string
	frame []byte
}

// seeds are whole packets of every kind that there is something to do with.
func (n *node) seeds() (all []seed) {
	add := func(kind string, frames ...[]byte) {
		for _, frame := range frames {
			all = append(all, seed{kind, frame})
		}
	}
	for _, f := range families {
		for _, port := range []uint16{
			portSNAT, portSNATByFIB, portNowSNAT, portSNATBefore, portSNATNowhere, portSNATSmall,
			portIPIP, portGeneve, portGeneve6, portGeneve4, portByFIB, portTagged, portHere,
			portToHere, portFromHere, portStayed, portGone, portBothHere, portGeneveTo, portElsewhere2,
			portMoved, portAffine, portSources, portHidden, portTraced, portRanged, portSame, portEmpty, portUnserved,
		} {
			for _, l4 := range firstAndLater(port) {
				add(kindXDP, f.packet(fromRouter, f.client, f.vip, 63, l4, packet.Payload("odd")))
			}
		}
		for _, port := range []uint16{portSNATSmall, portIPIP, portGeneve, portHere} {
			for _, l4 := range firstAndLater(port) {
				add(kindXDP, f.packet(fromRouter, f.client, f.vip, 63, l4, large(1440)))
			}
		}
		for _, port := range []uint16{portNodeHere, portNodeAway, portNodeSNAT, 22} {
			for _, l4 := range firstAndLater(port) {
				add(kindXDP, f.packet(fromRouter, f.client, f.node, 63, l4, packet.Payload("even")))
				add(kindTCPod, f.packet(fromPod, f.localPod, f.node, 64, l4, packet.Payload("even")))
			}
		}
		for _, port := range []uint16{portEmpty, portUnserved} {
			for _, l4 := range firstAndLater(port) {
				add(kindXDP, f.packet(fromRouter, f.client, refusingVIP[f.v6], 63, l4, packet.Payload("12345678")))
				add(kindTCPod, f.packet(fromPod, f.localPod, refusingVIP[f.v6], 64, l4, packet.Payload("12345678")))
			}
		}
		for _, port := range []uint16{portInside, portInsideToo, portInsideSelf, portInsideNone, 99} {
			for _, l4 := range firstAndLater(port) {
				add(kindTCPod, f.packet(fromPod, f.localPod, f.clusterIP, 64, l4, packet.Payload("odd")))
			}
		}
		for _, l4 := range firstAndLater(portSources) {
			add(kindXDP, f.packet(fromRouter, f.router, f.vip, 63, l4))
		}
		add(kindTCPod, f.packet(fromPod, f.localPod, f.remotePod, 64, l4(packet.ProtoTCP, 8080, 1025, packet.SYN)))
		add(kindTCToPod, f.packet(intoPod, f.remotePod, f.localPod, 64, l4(packet.ProtoTCP, 8080, 1025, packet.SYN)))
		add(kindTCOutside, f.packet(fromRouter, f.client, f.localPod, 63, l4(packet.ProtoTCP, 1025, 8080, packet.SYN)))
		ping := packet.ICMP{Type: packet.EchoRequest, ID: 7}
		if f.v6 {
			ping.Type = packet.EchoRequest6
		}
		for _, to := range []netip.Addr{f.vip, f.node, f.localPod} {
			add(kindXDP, f.packet(fromRouter, f.client, to, 63, ping, packet.Payload("odd")))
		}
	}
	return append(all, neighbourSeeds()...)
}

// firstAndLater are packets that begin a flow, or belong to one.
func firstAndLater(port uint16) []packet.Layer {
	return []packet.Layer{
		packet.TCP{SrcPort: 1025, DstPort: port, Seq: 100, Flags: packet.SYN, Options: packet.MSS(8960)},
		packet.TCP{SrcPort: 1026, DstPort: port, Seq: 100, Flags: packet.ACK},
		packet.TCP{SrcPort: 62000, DstPort: port, Seq: 100, Flags: packet.SYN, Options: append([]byte{1}, packet.MSS(1460)...)},
		packet.UDP{SrcPort: 1025, DstPort: port},
		packet.UDP{SrcPort: 62000, DstPort: port, Checksum: new(uint16(0))},
		packet.SCTP{SrcPort: 1025, DstPort: port, Chunk: packet.ChunkInit},
		packet.SCTP{SrcPort: 62000, DstPort: port, Tag: 7},
	}
}

// neighbourSeeds are of ARP and neighbour discovery: questions, claims, probes.
func neighbourSeeds() (all []seed) {
	four, six := families[0], families[1]
	for _, mac := range []packet.MAC{routerMAC, otherMAC, strangeMAC, mutedMAC, nodeMAC} {
		for _, target := range []netip.Addr{four.vip, refusingVIP[false], otherVIP} {
			for _, sender := range []netip.Addr{four.router, target, netip.IPv4Unspecified()} {
				for op := uint16(packet.ARPRequest); op <= packet.ARPReply; op++ {
					all = append(all, seed{kindXDP, packet.Build(packet.Ethernet{Dst: packet.Broadcast, Src: mac},
						packet.ARP{Op: op, SenderMAC: mac, Sender: sender, Target: target})})
				}
			}
		}
		for _, target := range []netip.Addr{six.vip, refusingVIP[true], ndOther} {
			group := netip.AddrFrom16([16]byte(slices.Concat([]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff}, target.AsSlice()[13:])))
			to := packet.Ethernet{Dst: packet.MAC([]byte{0x33, 0x33, 0xff, target.AsSlice()[13], target.AsSlice()[14], target.AsSlice()[15]}), Src: mac}
			for _, sender := range []netip.Addr{ndRouter, target, ndNowhere} {
				options := packet.SourceMAC(mac)
				if sender == ndNowhere {
					options = nil
				}
				all = append(all,
					seed{kindXDP, packet.Build(to, packet.IPv6{HopLimit: 255, Src: sender, Dst: group}, packet.ND{Target: target, Options: options})},
					seed{kindXDP, packet.Build(to, packet.IPv6{HopLimit: 255, Src: sender, Dst: allNodes},
						packet.ND{Type: packet.NDAdvertisement, Flags: packet.NDOverride, Target: target, Options: packet.TargetMAC(mac)})})
			}
		}
	}
	return all
}
