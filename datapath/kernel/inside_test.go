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
	portInsideSCTP = 8080
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
	for port, set := range map[uint16]uint32{portInside: 40, portInsideToo: 40, portInsideSelf: 41, portInsideNone: 42, portInsideSCTP: 40} {
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
	eachFamily(t, func(n *node, f family) {
		n.addInside(f)
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
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
	eachFamily(t, func(n *node, f family) {
		n.addInside(f)
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
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
	eachFamily(t, func(n *node, f family) {
		n.addInside(f)
		toService := func(l4 ...packet.Layer) []byte { return f.packet(fromPod, f.localPod, f.clusterIP, 64, l4...) }
		whole := len(toService(l4(packet.ProtoTCP, 1, 1, 0)))
		sctp := packet.SCTP{SrcPort: 40000, DstPort: portInsideSCTP, Tag: 7, Chunk: 1}
		for name, row := range map[string]struct {
			kind   string
			in     []byte
			action uint32
			reason string
			out    []byte
		}{
			"unserved port":    {kindTCPod, toService(l4(packet.ProtoTCP, 40000, 99, packet.SYN)), tcDrop, "unserved_port", nil},
			"no backend":       {kindTCPod, toService(l4(packet.ProtoTCP, 40000, portInsideNone, packet.SYN)), tcDrop, "no_backend", nil},
			"to a pod":         {kindTCPod, f.packet(fromPod, f.localPod, f.remotePod, 64, l4(packet.ProtoTCP, 40000, 80, packet.SYN)), tcNext, "not_ours", nil},
			"from a pod":       {kindTCToPod, f.packet(intoPod, f.remotePod, f.localPod, 64, l4(packet.ProtoTCP, 8080, 40000, packet.SYN)), tcNext, "not_ours", nil},
			"cut off":          {kindTCPod, toService(l4(packet.ProtoTCP, 40000, portInside, packet.SYN))[:whole-1], tcNext, "not_ours", nil},
			"cut off, to pod":  {kindTCToPod, f.packet(intoPod, f.remotePod, f.localPod, 64, l4(packet.ProtoTCP, 8080, 40000, packet.SYN))[:whole-1], tcNext, "not_ours", nil},
			"arp":              {kindTCToPod, packet.Build(intoPod, packet.ARP{SenderMAC: podMAC, Sender: localPod, Target: client}), tcNext, "not_ours", nil},
			"sctp, same port":  {kindTCPod, toService(sctp), tcNext, "service_local", f.packet(fromPod, f.localPod, f.remotePod, 64, sctp)},
			"sctp, other port": {kindTCPod, toService(packet.SCTP{SrcPort: 40001, DstPort: portInside, Chunk: 1}), tcDrop, "unserved_proto", nil},
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
