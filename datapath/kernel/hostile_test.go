package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// A tunnel leads nobody to where it would not get without: anybody may send one.
func TestForgedTunnels(t *testing.T) {
	const service, portRanged = 30, 290
	inEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
		n.addInside(f)
		allowed := netip.PrefixFrom(f.client, f.client.BitLen())
		outsider := f.router
		for _, proto := range tunnelled {
			n.putTarget(f, f.clusterIP, f.localPod, portInside, proto, podPort(portInside, proto))
			n.putTarget(f, f.vip, f.localPod, portRanged, proto, podPort(portRanged, proto))
			n.putFrontend(f, f.vip, portRanged, proto, bpfFrontend{Set: 36, Service: service, Flags: uint32(bpfFrontendFlagsFRONTEND_SOURCES)})
		}
		n.putSource(f, service, allowed)
		fromOther := packet.Ethernet{Dst: nodeMAC, Src: otherMAC}
		for _, proto := range tunnelled {
			for name, row := range map[string]struct {
				from, to netip.Addr
				port     uint16
				action   uint32
				reason   string
			}{
				"to a ClusterIP":          {f.client, f.clusterIP, portInside, xdpDrop, "stale_backend"},
				"from outside the ranges": {outsider, f.vip, portRanged, xdpDrop, "source_range"},
				"from inside the ranges":  {f.client, f.vip, portRanged, xdpPass, "decap"},
			} {
				inner := []packet.Layer{f.ip(row.from, row.to, 63), transport(proto, 9, row.port)}
				ipip := concat([]packet.Layer{fromOther, outer(f.router, f.localPod, 5, true)}, inner)
				geneve := concat([]packet.Layer{fromOther, outer(f.router, f.node, 5, false)}, inGeneve(5, podOption(f.localPod, 1)), inner)
				for _, in := range [][]byte{ipip, geneve} {
					n.sub(fmt.Sprintf("protocol %d/%s", proto, name), func(n *node) {
						r := n.run(kindXDP, n.out, in)
						if r.action != row.action || r.reason != row.reason {
							n.t.Errorf("action %d for %q, want %d for %q", r.action, r.reason, row.action, row.reason)
						}
					})
				}
			}
		}
	})
}

// putSource lets a prefix of clients use a service port.
func (n *node) putSource(f family, service uint32, clients netip.Prefix) {
	n.t.Helper()
	bits := uint32(32 + clients.Bits())
	if f.v6 {
		n.put("sources6", bpfSourceKey6{Prefixlen: bits, Service: service, Addr: words(clients.Addr())}, uint32(1))
		return
	}
	n.put("sources", bpfSourceKey{Prefixlen: bits, Service: service, Addr: be32(clients.Addr())}, uint32(1))
}

// A packet to a VIP is the VIP's, also to the port of the tunnels: the kernel
// would send it round between router and node.
func TestGenevePortOfVIP(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
		to := func(dst netip.Addr) []byte {
			return concat([]packet.Layer{fromRouter, f.ip(f.client, dst, 63)}, inGeneve(5, podOption(f.localPod, 0)),
				[]packet.Layer{f.ip(f.client, f.vip, 63), packet.UDP{SrcPort: 9, DstPort: portHere}})
		}
		n.expect(kindXDP, n.out, to(f.vip), xdpDrop, "unserved_port", nil)
		n.expect(kindXDP, n.out, to(f.router), xdpPass, "not_ours", nil)
		n.putFrontend(f, f.vip, 6081, packet.ProtoUDP, bpfFrontend{Set: 30})
		if r := n.run(kindXDP, n.out, to(f.vip)); r.reason != "forward_remote" {
			t.Errorf("a Service at the tunnels' port: %s", r.reason)
		}
	})
}

// A pod that uses another's address touches none of that one's flows.
func TestSpoofingPod(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addInside(f)
		n.putEndpoint(f, f.localPod, bpfEndpoint{Ifindex: uint32(n.pod.Attrs().Index), PodMac: podMAC, HostMac: podHostMAC})
		n.putFlow(f, "half_open", packet.ProtoTCP, 1025, 8080, portIPIP)
		spoofer := n.addDevice("spoofer", strangeMAC)
		echo := packet.ICMP{Type: packet.EchoRequest}
		if f.v6 {
			echo.Type = 128
		}
		for name, in := range map[string][]byte{
			"an answer":    f.packet(fromPod, f.localPod, f.client, 64, l4(packet.ProtoTCP, 8080, 1025, packet.SYN|packet.ACK)),
			"to a Service": f.packet(fromPod, f.localPod, f.clusterIP, 64, l4(packet.ProtoTCP, 40000, portInside, packet.SYN)),
			"to itself":    f.packet(fromPod, f.localPod, f.hairpin, 64, l4(packet.ProtoTCP, 8080, 40000, packet.ACK)),
			"a ping":       f.packet(fromPod, f.localPod, f.client, 64, echo),
		} {
			n.sub(name, func(n *node) { n.expect(kindTCPod, spoofer, in, tcDrop, "spoofed_pod", nil) })
		}
		if out := n.natTable(f, "nat_out"); len(out) != 0 {
			t.Errorf("a spoofer's flows: %v", out)
		}
		// Addresses that are no pod's here are for the kernel to judge.
		n.expect(kindTCPod, spoofer, f.packet(fromPod, f.router, f.client, 64, l4(packet.ProtoTCP, 1, 2, packet.ACK)), tcNext, "not_ours", nil)
	})
}

// IPv6's own messages for a VIP's address are the kernel's, if they are from the link.
func TestNeighbourDiscoveryOfVIP(t *testing.T) {
	n := newNode(t)
	f := families[1]
	n.addFamily(f)
	for kind := uint8(133); kind <= 137; kind++ {
		message := func(hops uint8) []byte {
			return f.packet(fromRouter, f.router, f.vip, hops, packet.ICMP{Type: kind}, packet.Payload(f.vip.AsSlice()))
		}
		n.expect(kindXDP, n.out, message(255), xdpPass, "not_ours", nil)
		n.expect(kindXDP, n.out, message(254), xdpDrop, "unserved_proto", nil)
	}
	for _, kind := range []uint8{132, 138} {
		n.expect(kindXDP, n.out, f.packet(fromRouter, f.router, f.vip, 255, packet.ICMP{Type: kind}, packet.Payload(f.vip.AsSlice())), xdpDrop, "unserved_proto", nil)
	}
}
