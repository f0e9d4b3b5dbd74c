package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// The ClusterIP's ports. For packets from outside their set would be empty.
const (
	portInside     = 80
	portInsideToo  = 81 // another Service with the same backend
	portInsideSelf = 82 // the backend is the pod that asks
	portInsideNone = 83 // no backend
)

// addInside gives the world Services for its pods.
func (n *node) addInside(f family) {
	n.t.Helper()
	n.putBackend(f, 40, f.remotePod, 8080, 20, 0)
	n.putBackend(f, 41, f.localPod, 8080, 0, uint8(bpfBackendFlagsBACKEND_LOCAL))
	for id := uint32(40); id < 42; id++ {
		n.table(id, 0, []uint32{id})
	}
	n.put("sets", uint32(42), bpfBackendSet{})
	inside := uint32(bpfFrontendFlagsFRONTEND_INSIDE)
	n.putFrontend(f, f.clusterIP, 0, 0, bpfFrontend{Flags: inside | uint32(bpfFrontendFlagsFRONTEND_VIP)})
	for port, set := range map[uint16]uint32{portInside: 40, portInsideToo: 40, portInsideSelf: 41, portInsideNone: 42} {
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
			n.putFrontend(f, f.clusterIP, port, proto, bpfFrontend{Set: 42, Inside: set, Flags: inside})
		}
	}
}

var (
	fromPod = packet.Ethernet{Dst: podHostMAC, Src: podMAC}
	intoPod = packet.Ethernet{Dst: podMAC, Src: podHostMAC}
)

// A pod's packets to a Service reach the kernel as the pod's to a backend, and
// the backend's answers the pod as the Service's.
func TestInside(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addInside(f)
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
			n.sub(fmt.Sprintf("protocol %d", proto), func(n *node) {
				defer n.clearNAT(f)
				data := packet.Payload("odd")
				for _, flags := range []uint8{packet.SYN, packet.ACK} {
					n.expect(kindTCPod, n.pod,
						f.packet(fromPod, f.localPod, f.clusterIP, 64, l4(proto, 40000, portInside, flags), data), tcNext, "service_local",
						f.packet(fromPod, f.localPod, f.remotePod, 64, l4(proto, 40000, 8080, flags), data))
					n.expect(kindTCToPod, n.pod,
						f.packet(intoPod, f.remotePod, f.localPod, 61, l4(proto, 8080, 40000, flags), data), tcNext, "service_local",
						f.packet(intoPod, f.clusterIP, f.localPod, 61, l4(proto, portInside, 40000, flags), data))
				}
				// The same port of the pod's to another Service: the backend is to see another.
				n.run(kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.clusterIP, 64, l4(proto, 40000, portInsideToo, packet.SYN), data))
				to := n.translation(f, natTuple{netip.AddrPortFrom(f.localPod, 40000), netip.AddrPortFrom(f.clusterIP, portInsideToo), proto})
				if to.src.Addr() != f.localPod || to.src.Port() < 61000 || to.flags != bpfNatFlagsNAT_INSIDE {
					t.Fatalf("the second flow becomes %v", to)
				}
				n.expect(kindTCPod, n.pod,
					f.packet(fromPod, f.localPod, f.clusterIP, 64, l4(proto, 40000, portInsideToo, packet.ACK), data), tcNext, "service_local",
					f.packet(fromPod, f.localPod, f.remotePod, 64, l4(proto, to.src.Port(), 8080, packet.ACK), data))
				n.expect(kindTCToPod, n.pod,
					f.packet(intoPod, f.remotePod, f.localPod, 61, l4(proto, 8080, to.src.Port(), packet.ACK), data), tcNext, "service_local",
					f.packet(intoPod, f.clusterIP, f.localPod, 61, l4(proto, portInsideToo, 40000, packet.ACK), data))
				// XDP leaves what comes for a pod alone, whatever its port.
				answer := f.packet(packet.Ethernet{Dst: nodeMAC, Src: otherMAC}, f.remotePod, f.localPod, 62, l4(proto, 8080, to.src.Port(), packet.ACK))
				n.expect(kindXDP, n.out, answer, xdpPass, "not_ours", nil)
			})
		}
	})
}

// A pod reaches itself through a Service: it sees another address at the other
// end, on both ends.
func TestInsideHairpin(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addInside(f)
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
			n.sub(fmt.Sprintf("protocol %d", proto), func(n *node) {
				n.expect(kindTCPod, n.pod,
					f.packet(fromPod, f.localPod, f.clusterIP, 64, l4(proto, 40000, portInsideSelf, packet.SYN)), tcRedirect, "service_local",
					f.packet(intoPod, f.hairpin, f.localPod, 63, l4(proto, 40000, 8080, packet.SYN)))
				n.expect(kindTCPod, n.pod,
					f.packet(fromPod, f.localPod, f.hairpin, 64, l4(proto, 8080, 40000, packet.SYN|packet.ACK)), tcRedirect, "service_local",
					f.packet(intoPod, f.clusterIP, f.localPod, 63, l4(proto, portInsideSelf, 40000, packet.SYN|packet.ACK)))
				n.expect(kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.hairpin, 1, l4(proto, 8080, 40000, packet.ACK)), tcDrop, "ttl_expired", nil)
				n.expect(kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.hairpin, 64, l4(proto, 8080, 40001, packet.ACK)), tcNext, "not_ours", nil)
			})
		}
	})
}

func TestInsideDoesNot(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addInside(f)
		toService := func(l4 ...packet.Layer) []byte { return f.packet(fromPod, f.localPod, f.clusterIP, 64, l4...) }
		whole := len(toService(l4(packet.ProtoTCP, 1, 1, 0)))
		for name, row := range map[string]struct {
			kind   string
			in     []byte
			action uint32
			reason string
			out    []byte
		}{
			"unserved port":   {kindTCPod, toService(l4(packet.ProtoTCP, 40000, 99, packet.SYN)), tcDrop, "unserved_port", nil},
			"no backend":      {kindTCPod, toService(l4(packet.ProtoTCP, 40000, portInsideNone, packet.SYN)), tcDrop, "no_backend", nil},
			"to a pod":        {kindTCPod, f.packet(fromPod, f.localPod, f.remotePod, 64, l4(packet.ProtoTCP, 40000, 80, packet.SYN)), tcNext, "not_ours", nil},
			"from a pod":      {kindTCToPod, f.packet(intoPod, f.remotePod, f.localPod, 64, l4(packet.ProtoTCP, 8080, 40000, packet.SYN)), tcNext, "not_ours", nil},
			"cut off":         {kindTCPod, toService(l4(packet.ProtoTCP, 40000, portInside, packet.SYN))[:whole-1], tcNext, "not_ours", nil},
			"cut off, to pod": {kindTCToPod, f.packet(intoPod, f.remotePod, f.localPod, 64, l4(packet.ProtoTCP, 8080, 40000, packet.SYN))[:whole-1], tcNext, "not_ours", nil},
			"arp":             {kindTCToPod, packet.Build(intoPod, packet.ARP{SenderMAC: podMAC, Sender: localPod, Target: client}), tcNext, "not_ours", nil},
		} {
			n.sub(name, func(n *node) { n.expect(row.kind, n.pod, row.in, row.action, row.reason, row.out) })
		}
		n.clearNAT(f)
		n.sub("outside's flows", func(n *node) {
			n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoTCP, 62000, portSNAT, packet.SYN)))
			answer := f.packet(intoPod, f.remotePod, f.node, 64, l4(packet.ProtoTCP, 8080, 62000, packet.ACK))
			n.expect(kindTCToPod, n.pod, answer, tcNext, "not_ours", nil)
		})
	})
}

// pieces cuts a packet of the family, with one header behind IP's, into
// fragments of 1200 bytes of payload.
func (f family) pieces(eth packet.Ethernet, src, dst netip.Addr, hops uint8, l4 ...packet.Layer) (all [][]byte) {
	whole := f.packet(eth, src, dst, hops, l4...)
	data := whole[14+20:]
	if f.v6 {
		data = whole[14+40:]
	}
	for at := 0; at < len(data); at += 1200 {
		part, more := data[at:], uint16(0)
		if len(part) > 1200 {
			part, more = part[:1200], 1
		}
		udp := uint8(packet.ProtoUDP)
		layers := []packet.Layer{eth, packet.IPv4{TOS: 2, ID: 9, TTL: hops, Fragment: uint16(at/8) | more*packet.MoreFragments, Src: src, Dst: dst, Protocol: &udp}}
		if f.v6 {
			layers = []packet.Layer{eth, packet.IPv6{HopLimit: hops, Src: src, Dst: dst}, packet.Fragment6{Offset: uint16(at) | more, ID: 9, NextHeader: &udp}}
		}
		all = append(all, packet.Build(append(layers, packet.Payload(part))...))
	}
	return all
}

// Fragments go where their first one does, and come back from where that does.
func TestFragmentsOfTranslated(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addInside(f)
		data := large(3000)
		for _, leg := range []struct {
			name    string
			kind    string
			action  uint32
			reason  string
			in, out [][]byte
		}{
			{"to a Service", kindTCPod, tcNext, "service_local",
				f.pieces(fromPod, f.localPod, f.clusterIP, 64, packet.UDP{SrcPort: 40000, DstPort: portInside}, data),
				f.pieces(fromPod, f.localPod, f.remotePod, 64, packet.UDP{SrcPort: 40000, DstPort: 8080}, data)},
			{"from a Service", kindTCToPod, tcNext, "service_local",
				f.pieces(intoPod, f.remotePod, f.localPod, 61, packet.UDP{SrcPort: 8080, DstPort: 40000}, data),
				f.pieces(intoPod, f.clusterIP, f.localPod, 61, packet.UDP{SrcPort: portInside, DstPort: 40000}, data)},
			{"to oneself", kindTCPod, tcRedirect, "service_local",
				f.pieces(fromPod, f.localPod, f.clusterIP, 64, packet.UDP{SrcPort: 40000, DstPort: portInsideSelf}, data),
				f.pieces(intoPod, f.hairpin, f.localPod, 63, packet.UDP{SrcPort: 40000, DstPort: 8080}, data)},
			{"out", kindXDP, xdpTX, "forward_snat",
				f.pieces(fromRouter, f.client, f.vip, 63, packet.UDP{SrcPort: 62000, DstPort: portSNAT}, data),
				f.pieces(toOther, f.node, f.remotePod, 62, packet.UDP{SrcPort: 62000, DstPort: 8080}, data)},
			{"back", kindXDP, xdpTX, "reply_snat",
				f.pieces(packet.Ethernet{Dst: nodeMAC, Src: otherMAC}, f.remotePod, f.node, 61, packet.UDP{SrcPort: 8080, DstPort: 62000}, data),
				f.pieces(toRouter, f.vip, f.client, 60, packet.UDP{SrcPort: portSNAT, DstPort: 62000}, data)},
		} {
			n.sub(leg.name, func(n *node) {
				dev := n.pod
				if leg.kind == kindXDP {
					dev = n.out
				}
				for i := range leg.in {
					reason := leg.reason
					if i > 0 {
						reason = "fragment_passed"
					}
					n.expect(leg.kind, dev, leg.in[i], leg.action, reason, leg.out[i])
				}
			})
		}
		n.sub("whose first was not seen", func(n *node) {
			later := f.pieces(fromPod, f.localPod, f.clusterIP, 64, packet.UDP{SrcPort: 1, DstPort: portInside}, data)[1]
			if f.v6 {
				later[14+40+7] = 99 // its id
			} else {
				later[14+5] = 99
			}
			n.expect(kindTCPod, n.pod, later, tcNext, "not_ours", nil)
		})
	})
}

// An error about what a pod sent to a Service tells the pod of that, not of what
// became of it.
func TestInsideErrors(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addInside(f)
		ping := packet.ICMP{Type: packet.EchoRequest}
		if f.v6 {
			ping.Type = packet.EchoRequest6
		}
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
			n.run(kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.clusterIP, 64, l4(proto, 40000, portInside, packet.SYN)))
			about := func(sport uint16, dst netip.Addr, dport uint16) []byte {
				return f.fault(intoPod, 60, f.localPod, f.ip(f.localPod, dst, 60), transport(proto, sport, dport))
			}
			n.expect(kindTCToPod, n.pod, about(40000, f.remotePod, 8080), tcNext, "icmp_forwarded", about(40000, f.clusterIP, portInside))
			n.expect(kindTCToPod, n.pod, about(40001, f.remotePod, 8080), tcNext, "not_ours", nil)
		}
		n.run(kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.clusterIP, 64, packet.SCTP{SrcPort: 40000, DstPort: portInside, Chunk: packet.ChunkInit}))
		about := func(dst netip.Addr, port uint16) []byte {
			quote := packet.Build(f.ip(f.localPod, dst, 60), transport(packet.ProtoSCTP, 40000, port))
			return f.fault(intoPod, 60, f.localPod, packet.Payload(quote[:len(quote)-8]))
		}
		n.expect(kindTCToPod, n.pod, about(f.remotePod, 8080), tcNext, "icmp_forwarded", about(f.clusterIP, portInside))
		n.expect(kindTCToPod, n.pod, f.packet(intoPod, f.router, f.localPod, 60, ping), tcNext, "not_ours", nil)
		n.expect(kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.clusterIP, 64, ping), tcNext, "not_ours", nil)
	})
}

// A pod is told what is not served, if that is wanted.
func TestInsideRefuses(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addInside(f)
		refuse := uint32(bpfFrontendFlagsFRONTEND_INSIDE | bpfFrontendFlagsFRONTEND_REFUSE)
		n.putFrontend(f, f.clusterIP, 0, 0, bpfFrontend{Flags: refuse | uint32(bpfFrontendFlagsFRONTEND_VIP)})
		n.putFrontend(f, f.clusterIP, portInsideNone, packet.ProtoTCP, bpfFrontend{Set: 42, Inside: 42, Flags: refuse})
		for _, port := range []uint16{99, portInsideNone} {
			r := n.run(kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.clusterIP, 64, packet.TCP{SrcPort: 40000, DstPort: port, Seq: 7, Flags: packet.SYN}))
			if r.action != tcRedirect || r.reason != "refused" {
				t.Errorf("port %d: action %d for %q", port, r.action, r.reason)
			}
			var ip packet.Layer = packet.IPv4{Fragment: packet.DontFragment, Src: f.clusterIP, Dst: f.localPod}
			if f.v6 {
				ip = packet.IPv6{Src: f.clusterIP, Dst: f.localPod}
			}
			want := packet.Build(intoPod, ip, packet.TCP{SrcPort: port, DstPort: 40000, Ack: 8, Flags: packet.RST | packet.ACK})
			if d := packet.Diff(want, r.out); d != "" {
				t.Errorf("port %d:\n%s", port, d)
			}
		}
	})
}

// With affinity all connections of a pod go to one backend; what goes to a
// Service is counted for it.
func TestInsideAffinity(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addInside(f)
		const service, port, flows = 9, 90, 30
		other := netip.MustParseAddr("172.20.1.9")
		if f.v6 {
			other = netip.MustParseAddr("fd00:20:1::9")
		}
		n.putBackend(f, 44, other, 8080, 20, 0)
		n.table(43, 0, []uint32{40, 44, 40, 44, 40})
		n.put("sets", uint32(43), bpfBackendSet{Size: [4]uint32{5}, Affinity: 100})
		backends := func(flags bpfFrontendFlags) map[netip.Addr]int {
			n.putFrontend(f, f.clusterIP, port, packet.ProtoTCP, bpfFrontend{Set: 42, Inside: 43, Service: service, Flags: uint32(flags | bpfFrontendFlagsFRONTEND_INSIDE)})
			n.clearNAT(f)
			for i := range uint16(flows) {
				r := n.run(kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.clusterIP, 64, l4(packet.ProtoTCP, 30000+i, port, packet.SYN)))
				if r.reason != "service_local" {
					t.Fatalf("flow %d: %s", i, r.reason)
				}
			}
			seen := map[netip.Addr]int{}
			for _, to := range n.natTable(f, "nat_out") {
				seen[to.dst.Addr()]++
			}
			return seen
		}
		counted := func() bpfCount { return n.counted("service_counts", service) }
		before := counted()
		if seen := backends(0); len(seen) != 2 {
			t.Errorf("without affinity: %v", seen)
		}
		if seen := backends(bpfFrontendFlagsFRONTEND_AFFINITY); len(seen) != 1 {
			t.Errorf("with affinity: %v", seen)
		}
		if got := counted().Packets - before.Packets; got != 2*flows {
			t.Errorf("%d packets were counted for the Service, %d sent", got, 2*flows)
		}
	})
}

// What comes from outside for a ClusterIP is not the node's business, unless it is
// advertised: then it is served as any VIP, and pods of the node as before.
func TestExposedClusterIP(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addInside(f)
		fromRouter := packet.Ethernet{Dst: nodeMAC, Src: otherMAC}
		data := packet.Payload("odd")
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
			in := f.packet(fromRouter, f.client, f.clusterIP, 64, l4(proto, 40001, portInsideSelf, packet.SYN), data)
			n.expect(kindXDP, n.out, in, xdpPass, "not_ours", nil)
		}
		n.putFrontend(f, f.clusterIP, 0, 0, bpfFrontend{Flags: uint32(bpfFrontendFlagsFRONTEND_VIP)})
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
			n.putFrontend(f, f.clusterIP, portInsideSelf, proto, bpfFrontend{Set: 41, Inside: 41})
			n.putFrontend(f, f.clusterIP, portInside, proto, bpfFrontend{Set: 40, Inside: 40})
			n.putTarget(f, f.clusterIP, f.localPod, portInsideSelf, proto, 8080)
			n.sub(fmt.Sprintf("protocol %d", proto), func(n *node) {
				defer n.clearNAT(f)
				in := f.packet(fromRouter, f.client, f.clusterIP, 64, l4(proto, 40001, portInsideSelf, packet.SYN), data)
				n.expect(kindXDP, n.out, in, xdpPass, "forward_local", f.packet(fromRouter, f.client, f.localPod, 64, l4(proto, 40001, 8080, packet.SYN), data))
				nobody := f.packet(fromRouter, f.client, f.clusterIP, 64, l4(proto, 40001, 9, packet.SYN), data)
				n.expect(kindXDP, n.out, nobody, xdpDrop, "unserved_port", nil)
				n.expect(kindTCPod, n.pod,
					f.packet(fromPod, f.localPod, f.clusterIP, 64, l4(proto, 40000, portInside, packet.SYN), data), tcNext, "service_local",
					f.packet(fromPod, f.localPod, f.remotePod, 64, l4(proto, 40000, 8080, packet.SYN), data))
			})
		}
	})
}
