package kernel

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/seamark-lb/seamark/testlab/packet"
	"golang.org/x/sys/unix"
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
			n.putTarget(f, f.clusterIP, f.localPod, portInside, proto, 8080)
			n.putTarget(f, f.vip, f.localPod, portRanged, proto, 8080)
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

// Who sends a SYN and then an ACK without hearing the backend has no flow that
// both sides have spoken in; who is answered has.
func TestBlindFlowsOfNAT(t *testing.T) {
	const isn = 5000
	inEachFamily(t, func(n *node, f family) {
		from := natTuple{netip.AddrPortFrom(f.client, 62000), netip.AddrPortFrom(f.vip, portSNAT), packet.ProtoTCP}
		sends := func(flags uint8, ack uint32) {
			t.Helper()
			if r := n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, packet.TCP{SrcPort: 62000, DstPort: portSNAT, Flags: flags, Ack: ack})); r.reason != "forward_snat" {
				t.Fatalf("out: %s", r.reason)
			}
		}
		answers := func(flags uint8) {
			t.Helper()
			if r := n.run(kindXDP, n.out, f.packet(packet.Ethernet{Dst: nodeMAC, Src: otherMAC}, f.remotePod, f.node, 60, packet.TCP{SrcPort: 8080, DstPort: 62000, Flags: flags, Seq: isn})); r.reason != "reply_snat" {
				t.Fatalf("back: %s", r.reason)
			}
		}
		replied := func(step string, want bool) {
			t.Helper()
			out := n.translation(f, from)
			in := n.natTable(f, "nat_in")[natTuple{out.dst, out.src, packet.ProtoTCP}]
			if got := [2]bool{out.flags&bpfNatFlagsNAT_REPLIED != 0, in.flags&bpfNatFlagsNAT_REPLIED != 0}; got != [2]bool{want, want} {
				t.Errorf("%s: both have spoken: %v", step, got)
			}
		}
		sends(packet.SYN, 0)
		sends(packet.ACK, isn+1)
		replied("before the answer", false)
		answers(packet.RST)
		sends(packet.ACK, isn+1)
		replied("a RST", false)
		n.clearNAT(f)
		sends(packet.SYN, 0)
		answers(packet.SYN | packet.ACK)
		sends(packet.SYN, isn+1)
		sends(packet.SYN|packet.ACK, isn+1)
		sends(packet.RST|packet.ACK, isn+1)
		sends(packet.ACK, isn)
		sends(packet.ACK, isn+1+1<<16)
		replied("blind", false)
		sends(packet.ACK, isn+1)
		replied("the answer was heard", true)
	})
}

// A client's end that its backend knows nothing of replaces no pair.
func TestForgedEndsOfNAT(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		from := natTuple{netip.AddrPortFrom(f.client, 62000), netip.AddrPortFrom(f.vip, portSNAT), packet.ProtoTCP}
		send := func(flags uint8) {
			n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoTCP, 62000, portSNAT, flags)))
		}
		answer := func(flags uint8) {
			l4 := packet.TCP{SrcPort: 8080, DstPort: 62000, Flags: flags, Ack: 1 << 20} // far from what is forged
			n.run(kindXDP, n.out, f.packet(packet.Ethernet{Dst: nodeMAC, Src: otherMAC}, f.remotePod, f.node, 60, l4))
		}
		closing := func() (both [2]bool) {
			t.Helper()
			out := n.translation(f, from)
			in := n.natTable(f, "nat_in")[natTuple{out.dst, out.src, packet.ProtoTCP}]
			return [2]bool{out.flags&bpfNatFlagsNAT_CLOSING != 0, in.flags&bpfNatFlagsNAT_CLOSING != 0}
		}
		send(packet.SYN)
		answer(packet.SYN | packet.ACK)
		other := netip.AddrFrom16(f.remotePod.As16()).Unmap().Next()
		n.putBackend(f, 30, other, 8080, 20, 0)
		n.table(20, 1, []uint32{30}) // a flow that begins would go there
		for _, flags := range []uint8{packet.RST, packet.FIN | packet.ACK} {
			send(flags)
			if got := closing(); got != [2]bool{true, false} {
				t.Errorf("after the client's end: closing %v", got)
			}
			send(packet.SYN)
			if to := n.translation(f, from); to.dst.Addr() != f.remotePod {
				t.Fatalf("a SYN after it goes to %s", to.dst)
			}
			answer(packet.ACK)
			if got := closing(); got != [2]bool{} {
				t.Errorf("after the backend went on: closing %v", got)
			}
		}
		send(packet.FIN | packet.ACK)
		answer(packet.FIN | packet.ACK)
		answer(packet.ACK)
		if got := closing(); got != [2]bool{true, true} {
			t.Errorf("after both ends: closing %v", got)
		}
		send(packet.SYN)
		if to := n.translation(f, from); to.dst.Addr() != other {
			t.Errorf("the next connection goes to %s", to.dst)
		}
	})
}

// A client's RST that the backend takes for the client's ends the pair: what begins next
// from the same port goes where new flows go. The backend's answer to a SYN in the midst of
// an old connection gets the client to send such a RST (RFC 5961, section 4).
func TestResetsOfNAT(t *testing.T) {
	const isn = 1<<32 - 3 // the numbers pass 0 on the way
	inEachFamily(t, func(n *node, f family) {
		from := natTuple{netip.AddrPortFrom(f.client, 62000), netip.AddrPortFrom(f.vip, portSNAT), packet.ProtoTCP}
		send := func(flags uint8, seq uint32) {
			n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, packet.TCP{SrcPort: 62000, DstPort: portSNAT, Flags: flags, Seq: seq}))
		}
		answer := func(flags uint8, ack uint32) {
			n.run(kindXDP, n.out, f.packet(packet.Ethernet{Dst: nodeMAC, Src: otherMAC}, f.remotePod, f.node, 60, packet.TCP{SrcPort: 8080, DstPort: 62000, Flags: flags, Ack: ack}))
		}
		goes := func(step string, want netip.Addr) {
			t.Helper()
			send(packet.SYN, 7e8)
			if to := n.translation(f, from); to.dst.Addr() != want {
				t.Errorf("%s: a SYN goes to %s, want %s", step, to.dst.Addr(), want)
			}
		}
		other := netip.AddrFrom16(f.remotePod.As16()).Unmap().Next()
		n.putBackend(f, 30, other, 8080, 20, 0)
		begin := func() {
			n.clearNAT(f)
			n.putBackend(f, 20, f.remotePod, 8080, 20, 0)
			n.table(20, 0, []uint32{20})
			send(packet.SYN, isn&(1<<32-1))
			answer(packet.SYN|packet.ACK, isn+1)
			n.putBackend(f, 20, f.remotePod, 8080, 20, uint8(bpfBackendFlagsBACKEND_DRAINING))
			n.table(20, 1, []uint32{30})
		}
		for name, seq := range map[string]uint32{"just before": isn, "too far behind": (isn + 1 + 1<<16) & (1<<32 - 1), "anything": 4e8} {
			begin()
			send(packet.RST, seq)
			goes("a forged RST, "+name, f.remotePod)
			answer(packet.ACK, isn+1)
			send(packet.RST, isn+1)
			goes("and the client's", other)
		}
		for name, heard := range map[string]uint32{"nothing": 0, "a little": 1000} {
			begin()
			answer(packet.ACK, (isn+1+heard)&(1<<32-1))
			send(packet.RST|packet.ACK, (isn+1+heard+100)&(1<<32-1)) // which is on the way still
			goes("the client's RST after "+name, other)
		}
		n.clearNAT(f)
		n.putBackend(f, 20, f.remotePod, 8080, 20, 0)
		n.table(20, 0, []uint32{20})
		send(packet.SYN, 1)
		n.table(20, 1, []uint32{30})
		send(packet.RST, 1)
		goes("a RST before any answer", f.remotePod)
	})
}

// A SYN with the ports of a flow that goes on changes nothing about its pin; and a
// pin is for a flow to last when a second packet has come.
func TestForgedSYNOfPinned(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.balancing(f)
		const replied, closing = uint32(bpfFlowFlagsFLOW_REPLIED), uint32(bpfFlowFlagsFLOW_CLOSING)
		tcp := func(flags uint8) packet.TCP { return packet.TCP{SrcPort: 1, DstPort: portMoved, Flags: flags} }
		n.goes(f, tcp(packet.ACK), idOld, "forward_previous")
		n.pinned(f, packet.ProtoTCP, 1, portMoved, idOld, 0)
		n.goes(f, tcp(packet.SYN), idOld, "forward_pinned")
		n.pinned(f, packet.ProtoTCP, 1, portMoved, idOld, 0)
		n.goes(f, tcp(packet.ACK), idOld, "forward_pinned")
		n.pinned(f, packet.ProtoTCP, 1, portMoved, idOld, replied)
		n.goes(f, tcp(packet.FIN|packet.ACK), idOld, "forward_pinned")
		n.goes(f, tcp(packet.SYN), idNew, "forward_remote")
		n.pinned(f, packet.ProtoTCP, 1, portMoved, idNew, 0)
		n.goes(f, tcp(packet.RST), idNew, "forward_pinned")
		n.pinned(f, packet.ProtoTCP, 1, portMoved, idNew, closing)
		n.goes(f, tcp(packet.SYN), idNew, "forward_remote")
		n.drain(f, idNew)
		n.move(idThird|moved, moving)
		n.goes(f, tcp(packet.SYN), idThird, "forward_remote") // whose pod takes no new flows
	})
}

// Where a pair of translation says the backend, no pin takes room for it.
func TestPairsNeedNoPins(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addMoved(f)
		n.addInside(f)
		const affine, snat = 90, 91
		n.moved(snat, 20, 30)
		n.putFrontend(f, f.vip, snat, packet.ProtoTCP, bpfFrontend{Set: snat, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT)})
		n.putFrontend(f, f.clusterIP, affine, packet.ProtoTCP, bpfFrontend{Set: 42, Inside: 40, Service: 9, Flags: uint32(bpfFrontendFlagsFRONTEND_AFFINITY | bpfFrontendFlagsFRONTEND_INSIDE)})
		for _, flags := range []uint8{packet.SYN, packet.ACK} {
			r := n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoTCP, 62000, snat, flags)))
			in := n.run(kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.clusterIP, 64, l4(packet.ProtoTCP, 40000, affine, flags)))
			if r.reason != "forward_snat" || in.reason != "service_local" {
				t.Fatalf("%s and %s", r.reason, in.reason)
			}
		}
		if pins := n.entries(f.table("pins")); pins != 0 {
			t.Errorf("%d pins", pins)
		}
	})
}

// However much is refused, a packet that is too big is answered: without that its
// connection hangs.
func TestRefusalsLeaveErrorsTheirQuota(t *testing.T) {
	n := newNode(t)
	f := families[0]
	n.addFamily(f)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	n.putFrontend(f, f.vip, 0, 0, bpfFrontend{Flags: uint32(bpfFrontendFlagsFRONTEND_VIP | bpfFrontendFlagsFRONTEND_REFUSE)})
	for deadline := time.Now().Add(10 * time.Second); ; {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
			t.Fatal(err)
		}
		quotas := make([]bpfQuota, cpus)
		for i := range quotas {
			quotas[i] = bpfQuota{Window: uint32(ts.Nano() >> 27), Sent: 1 << 20}
		}
		n.put("quotas", uint32(0), quotas)
		refused := n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoTCP, 1, portUnserved, packet.SYN))).reason
		big := n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoUDP, 1, portSNATSmall, 0), make(packet.Payload, 1400))).reason
		if big != "icmp_too_big" {
			t.Fatalf("a packet too big: %s", big)
		}
		if refused == "unserved_port" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("beyond the quota: %s", refused) // if not of the next window
		}
	}
}
