package kernel

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// carrying is the family's IP header of a packet of SCTP that is built by hand.
func (f family) carrying(src, dst netip.Addr, payload []byte) []byte {
	sctp := uint8(packet.ProtoSCTP)
	var ip packet.Layer = packet.IPv4{TTL: 63, Src: src, Dst: dst, Protocol: &sctp}
	if f.v6 {
		ip = packet.IPv6{HopLimit: 63, Src: src, Dst: dst, NextHeader: &sctp}
	}
	return packet.Build(fromRouter, ip, packet.Payload(payload))
}

// Whatever a packet's length and ports are, its CRC is right when they have changed:
// each value of each digit of the length, as the table of powers has them, and any others.
func TestSCTPChecksumFollowsPorts(t *testing.T) {
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
		random := rand.New(rand.NewPCG(1, 2))
		most := 65535 - 60
		if n.inTC { // which tries frames of one page
			most = 3000
		}
		var sizes []int
		for digit := range 4 {
			for value := range 16 {
				sizes = append(sizes, value<<(4*digit), value<<(4*digit)|random.IntN(1<<(4*digit)))
			}
		}
		for range 100 {
			sizes = append(sizes, 16+random.IntN(most-16), 16+random.IntN(1500))
		}
		for _, size := range sizes {
			size = min(max(size, 16), most)
			body := make([]byte, size)
			for i := range body {
				body[i] = byte(random.Uint32())
			}
			client, target := uint16(1+random.IntN(65535)), uint16(1+random.IntN(65535))
			to := func(port uint16) []byte {
				binary.BigEndian.PutUint16(body, client)
				binary.BigEndian.PutUint16(body[2:], port)
				binary.LittleEndian.PutUint32(body[8:], 0)
				binary.LittleEndian.PutUint32(body[8:], crc32.Checksum(body, castagnoli))
				return body
			}
			n.putBackend(f, 36, f.localPod, target, 0, uint8(bpfBackendFlagsBACKEND_LOCAL))
			n.expect(kindXDP, n.out, f.carrying(f.client, f.vip, to(portHere)), xdpPass, "forward_local", f.carrying(f.client, f.localPod, to(target)))
			if t.Failed() {
				t.Fatalf("%d bytes, port %d to %d", size, portHere, target)
			}
		}
	})
}

// A CRC of 0 is the kernel's or the device's to fill in, who sum up the field, too. One
// that came in wrong goes out as wrong.
func TestSCTPChecksumUnfinished(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
		n.addInside(f)
		data := packet.Payload("some data")
		none := func(src, dst uint16) packet.Layer {
			return packet.SCTP{SrcPort: src, DstPort: dst, Chunk: packet.ChunkInit, Checksum: new(uint32(0))}
		}
		n.expect(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, none(1, portHere), data), xdpPass, "forward_local",
			f.packet(fromRouter, f.client, f.localPod, 63, none(1, 8080), data))
		n.expect(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, none(62000, portSNAT), data), xdpTX, "forward_snat",
			f.packet(toOther, f.node, f.remotePod, 62, none(62000, 8080), data))
		n.expect(kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.clusterIP, 64, none(2, portInside), data), tcNext, "service_local",
			f.packet(fromPod, f.localPod, f.remotePod, 64, none(2, 8080), data))
		n.expect(kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.client, 64, none(8080, 1), data), tcRedirect, "reply",
			f.packet(toRouter, f.vip, f.client, 63, none(portHere, 1), data))

		sum := func(l packet.SCTP) uint32 {
			frame := f.packet(fromRouter, f.client, f.vip, 63, l, data)
			return binary.LittleEndian.Uint32(frame[len(frame)-pad4(4+len(data))-4:])
		}
		in, out := packet.SCTP{SrcPort: 3, DstPort: portHere}, packet.SCTP{SrcPort: 3, DstPort: 8080}
		in.Checksum, out.Checksum = new(sum(in)^0x5a5a), new(sum(out)^0x5a5a)
		n.expect(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, in, data), xdpPass, "forward_local",
			f.packet(fromRouter, f.client, f.localPod, 63, out, data))
	})
}

func pad4(size int) int { return (size + 3) &^ 3 }

// A first fragment does not say how much its CRC covers: it goes on where no port
// changes.
func TestSCTPFragments(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
		n.addInside(f)
		first := func(eth packet.Ethernet, src, dst netip.Addr, hops uint8, sport, dport uint16) []byte {
			sctp := uint8(packet.ProtoSCTP)
			whole := f.packet(eth, src, dst, hops, packet.SCTP{SrcPort: sport, DstPort: dport}, large(2000))
			if f.v6 {
				return packet.Build(eth, packet.IPv6{HopLimit: hops, Src: src, Dst: dst}, packet.Fragment6{Offset: 1, ID: 5, NextHeader: &sctp}, packet.Payload(whole[54:54+1000]))
			}
			return packet.Build(eth, packet.IPv4{ID: 5, TTL: hops, Fragment: packet.MoreFragments, Src: src, Dst: dst, Protocol: &sctp}, packet.Payload(whole[34:34+1000]))
		}
		reason := func(kind string, frame []byte, want string) {
			t.Helper()
			dev := n.pod
			if kind == kindXDP {
				dev = n.out
			}
			if r := n.run(kind, dev, frame); r.reason != want || (want == "fragment") != (r.action == xdpDrop || r.action == tcDrop) {
				t.Errorf("action %d for %q, want %q", r.action, r.reason, want)
			}
		}
		reason(kindXDP, first(fromRouter, f.client, f.vip, 63, 1025, portHere), "fragment")
		reason(kindXDP, first(fromRouter, f.client, f.vip, 63, 1025, portSNAT), "fragment")
		reason(kindXDP, first(fromRouter, f.client, f.vip, 63, 1025, portIPIP), "forward_remote")
		reason(kindTCPod, first(fromPod, f.localPod, f.clusterIP, 64, 1025, portInside), "fragment")
		reason(kindTCPod, first(fromPod, f.localPod, f.client, 64, 8080, 1025), "fragment")
		n.putBackend(f, 36, f.localPod, portHere, 0, uint8(bpfBackendFlagsBACKEND_LOCAL))
		n.expect(kindXDP, n.out, first(fromRouter, f.client, f.vip, 63, 1026, portHere), xdpPass, "forward_local",
			first(fromRouter, f.client, f.localPod, 63, 1026, portHere))
	})
}

// An association has its pair from the INIT to the end: what the client ends counts when it
// has the backend's tag, or when the backend does not go on.
func TestSNATAssociation(t *testing.T) {
	const tag, initAck, cookieEcho, shutdownComplete = 0x1234, 2, 10, 14
	atEachHookInEachFamily(t, func(n *node, f family) {
		other := netip.MustParseAddr("172.20.1.8")
		if f.v6 {
			other = netip.MustParseAddr("fd00:20:1::8")
		}
		n.putBackend(f, 50, other, 8080, 20, 0)
		from := natTuple{netip.AddrPortFrom(f.client, 1025), netip.AddrPortFrom(f.vip, portSNAT), packet.ProtoSCTP}
		const answered, closing, left = bpfNatFlagsNAT_REPLIED | bpfNatFlagsNAT_ANSWERED, bpfNatFlagsNAT_CLOSING, bpfNatFlagsNAT_LEFT
		check := func(what string, reason, want string, backend netip.Addr, out, in bpfNatFlags) {
			t.Helper()
			to := n.translation(f, from)
			back := n.natTable(f, "nat_in")[natTuple{to.dst, to.src, from.proto}]
			if reason != want || to.dst.Addr() != backend || to.flags != out || back.flags != in {
				t.Errorf("%s: %s to %s, flags %d and %d; want %s to %s, %d and %d", what, reason, to.dst, to.flags, back.flags, want, backend, out, in)
			}
		}
		sends := func(what string, chunk uint8, tag uint32, backend netip.Addr, out, in bpfNatFlags) {
			t.Helper()
			r := n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, packet.SCTP{SrcPort: 1025, DstPort: portSNAT, Tag: tag, Chunk: chunk}))
			check(what, r.reason, "forward_snat", backend, out, in)
		}
		answers := func(what string, chunk uint8, body packet.Payload, out, in bpfNatFlags) {
			t.Helper()
			to := n.translation(f, from)
			l4 := packet.SCTP{SrcPort: 8080, DstPort: to.src.Port(), Tag: 7, Chunk: chunk}
			r := n.run(kindXDP, n.out, f.packet(packet.Ethernet{Dst: nodeMAC, Src: otherMAC}, to.dst.Addr(), f.node, 60, l4, body))
			check(what, r.reason, "reply_snat", to.dst.Addr(), out, in)
		}
		own := packet.Payload(binary.BigEndian.AppendUint32(nil, tag))
		sends("INIT", packet.ChunkInit, 0, f.remotePod, 0, 0)
		answers("INIT ACK", initAck, own, bpfNatFlagsNAT_ANSWERED, bpfNatFlagsNAT_ANSWERED)
		sends("COOKIE ECHO with another tag", cookieEcho, tag+1<<16, f.remotePod, bpfNatFlagsNAT_ANSWERED, bpfNatFlagsNAT_ANSWERED)
		sends("COOKIE ECHO", cookieEcho, tag, f.remotePod, answered, answered)
		n.table(20, 0, []uint32{50}) // all that is new goes there
		for name, chunk := range map[string]uint8{"ABORT": packet.ChunkAbort, "SHUTDOWN COMPLETE": shutdownComplete} {
			sends("forged "+name, chunk, tag+1<<16, f.remotePod, answered|closing, answered|left)
			answers("DATA, in spite of that", packet.ChunkData, nil, answered, answered)
			sends("INIT in between", packet.ChunkInit, 0, f.remotePod, answered, answered)
		}
		sends("ABORT", packet.ChunkAbort, tag, f.remotePod, answered|closing, answered|closing|left)
		sends("the next INIT", packet.ChunkInit, 0, other, 0, 0)
		answers("its INIT ACK", initAck, own, bpfNatFlagsNAT_ANSWERED, bpfNatFlagsNAT_ANSWERED)
		sends("its COOKIE ECHO", cookieEcho, tag, other, answered, answered)
		answers("SHUTDOWN COMPLETE", shutdownComplete, nil, answered|closing, answered|closing)
		n.table(20, 0, []uint32{20})
		sends("INIT after that", packet.ChunkInit, 0, f.remotePod, 0, 0)
	})
}

// Clients of SCTP are told apart by the ports they are given.
func TestSCTPPorts(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		open := func(client uint16) string {
			return n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, packet.SCTP{SrcPort: client, DstPort: portSNAT, Chunk: packet.ChunkInit})).reason
		}
		used := map[uint16]bool{}
		for client := range uint16(200) {
			if why := open(1 + client); why != "forward_snat" {
				t.Fatalf("flow %d: %s", client, why)
			}
		}
		for _, to := range n.natTable(f, "nat_out") {
			used[to.src.Port()] = true
		}
		if len(used) != 200 {
			t.Errorf("200 flows have %d ports", len(used))
		}
	})
}
