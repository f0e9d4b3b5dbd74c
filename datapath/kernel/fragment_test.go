package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
	"golang.org/x/sys/unix"
)

// piece is a fragment of a client's packet to the VIP: data from offset (in
// bytes) on, with more behind it or not.
func piece(dst netip.Addr, id uint16, proto uint8, data []byte, offset, size int) []byte {
	more := uint16(packet.MoreFragments)
	if offset+size >= len(data) {
		more = 0
		size = len(data) - offset
	}
	ip := packet.IPv4{TTL: 63, ID: id, Fragment: uint16(offset/8) | more, Src: client, Dst: dst, Protocol: new(proto)}
	return packet.Build(fromRouter, ip, packet.Payload(data[offset:offset+size]))
}

// segment4 is a packet's bytes behind its IP header.
func segment4(dst netip.Addr, l4 ...packet.Layer) []byte {
	return packet.Build(append([]packet.Layer{packet.IPv4{Src: client, Dst: dst}}, l4...)...)[20:]
}

// large is data that no two fragments have the same of.
func large(size int) packet.Payload {
	data := make(packet.Payload, size)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	return data
}

func TestFragmentsFollowTheFirst(t *testing.T) { atEachHook(t, fragmentsFollowTheFirst) }

func fragmentsFollowTheFirst(n *node) {
	for name, l4 := range map[string]struct {
		proto     uint8
		in, local packet.Layer
	}{
		"udp": {packet.ProtoUDP, packet.UDP{SrcPort: 1025, DstPort: 53}, packet.UDP{SrcPort: 1025, DstPort: 5353}},
		"tcp": {packet.ProtoTCP, packet.TCP{SrcPort: 1025, DstPort: portLocal, Flags: packet.PSH}, packet.TCP{SrcPort: 1025, DstPort: 8080, Flags: packet.PSH}},
	} {
		n.sub(name+" to a local pod", func(n *node) {
			data := large(4001)
			in, out := segment4(vip, l4.in, data), segment4(localPod, l4.local, data)
			for offset := 0; offset < len(in); offset += 1400 {
				reason := "fragment_passed"
				if offset == 0 {
					reason = "forward_local"
				}
				n.expect(kindXDP, n.out, piece(vip, 7, l4.proto, in, offset, 1400), xdpPass, reason, piece(localPod, 7, l4.proto, out, offset, 1400))
			}
		})
	}
	n.sub("to a remote pod", func(n *node) {
		in := segment4(vip, packet.UDP{SrcPort: 1025, DstPort: 54}, large(3000))
		for offset := 0; offset < len(in); offset += 1000 {
			reason := "fragment_passed"
			if offset == 0 {
				reason = "forward_remote"
			}
			frame := piece(vip, 8, packet.ProtoUDP, in, offset, 1000)
			outer := packet.IPv4{Fragment: packet.DontFragment, Src: nodeAddr, Dst: remotePod, Protocol: new(uint8(packet.ProtoIPIP))}
			n.expect(kindXDP, n.out, frame, xdpTX, reason, packet.Build(packet.Ethernet{Dst: otherMAC, Src: nodeMAC}, outer, packet.Payload(frame[14:])))
		}
	})
	n.sub("out of a tunnel", func(n *node) {
		fromOther := packet.Ethernet{Dst: nodeMAC, Src: otherMAC}
		data := large(3000)
		in, out := segment4(vip, packet.UDP{SrcPort: 1026, DstPort: 53}, data), segment4(localPod, packet.UDP{SrcPort: 1026, DstPort: 5353}, data)
		tunnel := func(offset int) []byte {
			outer := packet.IPv4{Fragment: packet.DontFragment, Src: otherNode, Dst: localPod, Protocol: new(uint8(packet.ProtoIPIP))}
			return packet.Build(fromOther, outer, packet.Payload(piece(vip, 9, packet.ProtoUDP, in, offset, 1000)[14:]))
		}
		n.expect(kindXDP, n.out, tunnel(1000), xdpDrop, "fragment_orphan", nil)
		for offset := 0; offset < len(in); offset += 1000 {
			reason := "fragment_passed"
			if offset == 0 {
				reason = "decap"
			}
			want := piece(localPod, 9, packet.ProtoUDP, out, offset, 1000)
			copy(want[6:], otherMAC[:])
			n.expect(kindXDP, n.out, tunnel(offset), xdpPass, reason, want)
		}
	})
}

func TestFragments(t *testing.T) { atEachHook(t, fragments) }

func fragments(n *node) {
	udp := func(port uint16) []byte { return segment4(vip, packet.UDP{SrcPort: 1025, DstPort: port}, large(2000)) }
	tcp := segment4(vip, packet.TCP{SrcPort: 1025, DstPort: portLocal, Flags: packet.PSH, Options: make([]byte, 20)}, large(2000))
	sctp := segment4(vip, packet.SCTP{SrcPort: 1025, DstPort: portLocal}, large(2000))
	expect := func(name string, frame []byte, action uint32, reason string) {
		n.sub(name, func(n *node) {
			if r := n.run(kindXDP, n.out, frame); r.action != action || r.reason != reason {
				n.t.Errorf("action %d for %q, want %d for %q", r.action, r.reason, action, reason)
			}
		})
	}
	udpPiece := func(id uint16, offset int) []byte { return piece(vip, id, packet.ProtoUDP, udp(53), offset, 1000) }

	expect("later before the first", udpPiece(1, 1000), xdpDrop, "fragment_orphan")
	expect("the first", udpPiece(1, 0), xdpPass, "forward_local")
	expect("later", udpPiece(1, 1000), xdpPass, "fragment_passed")
	expect("another id", udpPiece(2, 1000), xdpDrop, "fragment_orphan")
	expect("another protocol", piece(vip, 1, packet.ProtoTCP, tcp, 1000, 1000), xdpDrop, "fragment_orphan")
	expect("an id again, to another port", piece(vip, 1, packet.ProtoUDP, udp(portUnserved), 0, 1000), xdpDrop, "unserved_port")
	expect("and what follows it", udpPiece(1, 1000), xdpDrop, "unserved_port")
	expect("later, of no data", piece(vip, 1, packet.ProtoUDP, append(udp(53)[:1000:1000], 0), 1000, 0), xdpDrop, "bad_header")

	// RFC 1858: what would leave a header unseen, or write over it.
	for size := 0; size < 40; size += 8 {
		expect(fmt.Sprintf("tcp header of %d bytes", size), piece(vip, 3, packet.ProtoTCP, tcp, 0, size), xdpDrop, map[bool]string{true: "truncated", false: "bad_header"}[size < 20])
	}
	expect("tcp header, whole", piece(vip, 3, packet.ProtoTCP, tcp, 0, 40), xdpPass, "forward_local")
	expect("over tcp's ports", piece(vip, 3, packet.ProtoTCP, tcp, 8, 100), xdpDrop, "fragment")
	expect("over tcp's flags", piece(vip, 3, packet.ProtoTCP, tcp, 16, 100), xdpDrop, "fragment")
	expect("behind tcp's header", piece(vip, 3, packet.ProtoTCP, tcp, 24, 100), xdpPass, "fragment_passed")
	expect("udp header cut off", piece(vip, 4, packet.ProtoUDP, append(udp(53)[:7:7], 0), 0, 7), xdpDrop, "truncated")
	expect("over sctp's checksum", piece(vip, 4, packet.ProtoSCTP, sctp, 8, 100), xdpDrop, "fragment")
	expect("behind sctp's header", piece(vip, 4, packet.ProtoSCTP, sctp, 16, 100), xdpDrop, "fragment_orphan")
	expect("udp shorter than it says", piece(vip, 5, packet.ProtoUDP, udp(53), 0, 8), xdpPass, "forward_local")

	expect("to no vip", piece(nodeAddr, 6, packet.ProtoUDP, udp(53), 0, 1000), xdpPass, "not_ours")
	expect("later, to no vip", piece(nodeAddr, 66, packet.ProtoUDP, udp(53), 1000, 1000), xdpPass, "not_ours")

	n.sub("forgotten", func(n *node) {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
			n.t.Fatal(err)
		}
		now := uint32(ts.Nano() >> 30)
		key := bpfFragmentKey{Saddr: be32(client), Daddr: be32(vip), Id: be16(77), Proto: packet.ProtoUDP}
		for age, reason := range map[uint32]string{50: "fragment_passed", 60: "fragment_orphan"} {
			n.put("fragments", key, bpfFragment{Sport: be16(1025), Dport: be16(53), Seen: now - age, Proto: packet.ProtoUDP, Behind: 8})
			if r := n.run(kindXDP, n.out, udpPiece(77, 1000)); r.reason != reason {
				n.t.Errorf("%d ticks later: %s, want %s", age, r.reason, reason)
			}
		}
	})
	n.sub("a full table", func(n *node) {
		for id := range uint32(3 * 8192) { // others' packets, of which the first fragment alone comes
			key := bpfFragmentKey{Saddr: id, Daddr: be32(vip), Proto: packet.ProtoUDP}
			n.put("fragments", key, bpfFragment{})
		}
		for _, row := range []struct {
			offset int
			reason string
		}{{0, "forward_local"}, {1000, "fragment_passed"}} {
			if r := n.run(kindXDP, n.out, udpPiece(88, row.offset)); r.reason != row.reason {
				n.t.Errorf("offset %d: %s, want %s", row.offset, r.reason, row.reason)
			}
		}
	})
}
