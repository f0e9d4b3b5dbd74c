package kernel

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// mutations make another frame of one, which they leave alone. Those that make no sense
// for a frame give it back.
var mutations = []func(r *rand.Rand, frame []byte) []byte{
	flipBits, flipBits, cutOff, padded, otherLength, otherLength, otherFlags, otherFlags, otherHops, otherClass,
	otherAddress, otherPort, otherPort, otherProtocol, grown, fragment, fragment, fragment, fragment, fragment,
	tagged, inTunnel, inTunnel, inTunnel, withExtension, withExtension, errorAbout, errorAbout, errorAbout, spliced,
}

func chosen[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomBytes(r *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// mutate makes one to three changes, after which checksums and lengths are mostly right.
func mutate(r *rand.Rand, frame []byte) []byte {
	frame = slices.Clone(frame)
	for range 1 + r.IntN(3) {
		frame = chosen(r, mutations...)(r, frame)
	}
	if r.IntN(4) == 0 {
		stretch(frame)
	}
	if r.IntN(4) != 0 {
		mend(frame)
	}
	return frame
}

func flipBits(r *rand.Rand, frame []byte) []byte {
	for range 1 + r.IntN(4) {
		frame[r.IntN(min(len(frame), 14+r.IntN(120)))] ^= 1 << r.IntN(8)
	}
	return frame
}

func cutOff(r *rand.Rand, frame []byte) []byte { return frame[:14+r.IntN(len(frame)-13)] }

func padded(r *rand.Rand, frame []byte) []byte { return append(frame, randomBytes(r, r.IntN(64))...) }

// anyPacket is some packet of a frame: the outermost, or one in a tunnel.
func anyPacket(r *rand.Rand, frame []byte) (ipAt, bool) {
	ip, ok := locate(frame)
	for ok && r.IntN(2) == 0 {
		in, tunnel := ip.carried(frame)
		if !tunnel {
			break
		}
		ip = in
	}
	return ip, ok && ip.l4 <= len(frame)
}

func otherLength(r *rand.Rand, frame []byte) []byte {
	ip, ok := anyPacket(r, frame)
	if !ok {
		return frame
	}
	value := uint16(chosen(r, 0, 1, 7, 8, 19, 20, 39, 40, 0xffff, len(frame)-ip.l3, ip.end-ip.l4, ip.end-ip.l3-1, ip.end-ip.l3+1, int(r.Uint32())))
	switch r.IntN(4) {
	case 0: // of the header
		if ip.v6 {
			frame[ip.l3] = chosen(r, byte(0x40), 0x50, 0x70, 0x6f)
		} else {
			frame[ip.l3] = byte(0x40 | r.IntN(16))
		}
	case 1: // of the packet
		if ip.v6 {
			binary.BigEndian.PutUint16(frame[ip.l3+4:], value)
		} else {
			binary.BigEndian.PutUint16(frame[ip.l3+2:], value)
		}
	default: // of what is behind it
		switch {
		case ip.proto == packet.ProtoTCP && ip.l4+20 <= len(frame):
			frame[ip.l4+12] = byte(r.Uint32())
		case ip.hasPorts(frame):
			binary.BigEndian.PutUint16(frame[ip.l4+4:], value)
		}
	}
	return frame
}

// otherFlags are of TCP, and SCTP's chunk.
func otherFlags(r *rand.Rand, frame []byte) []byte {
	ip, err := innermost(frame, false)
	if err != nil || !ip.hasPorts(frame) || ip.l4+16 > len(frame) {
		return frame
	}
	if ip.proto == packet.ProtoSCTP {
		frame[ip.l4+12] = byte(r.IntN(16))
	} else if ip.proto == packet.ProtoTCP {
		frame[ip.l4+13] = chosen[byte](r, packet.SYN, packet.SYN|packet.ACK, packet.ACK, packet.FIN|packet.ACK, packet.RST, packet.RST|packet.ACK, byte(r.Uint32()))
	}
	return frame
}

func otherHops(r *rand.Rand, frame []byte) []byte {
	if ip, ok := anyPacket(r, frame); ok {
		frame[ip.hops()] = chosen[byte](r, 0, 1, 2, 64, 255)
	}
	return frame
}

// otherClass has another DSCP and ECN.
func otherClass(r *rand.Rand, frame []byte) []byte {
	if ip, ok := anyPacket(r, frame); ok && ip.v6 {
		frame[ip.l3+1] ^= byte(r.Uint32()) & 0xf0
	} else if ok {
		frame[ip.l3+1] = byte(r.Uint32())
	}
	return frame
}

func otherAddress(r *rand.Rand, frame []byte) []byte {
	ip, ok := anyPacket(r, frame)
	if !ok {
		return frame
	}
	f, odd := families[0], []netip.Addr{netip.IPv4Unspecified(), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("255.255.255.255")}
	if ip.v6 {
		f, odd = families[1], []netip.Addr{ndNowhere, netip.IPv6Loopback(), allNodes, ndRouter}
	}
	to := chosen(r, f.node, f.otherNode, f.router, f.client, f.vip, f.clusterIP, f.localPod, f.remotePod, f.hairpin, f.unmet,
		secondPod[f.v6], refusingVIP[f.v6], chosen(r, odd...)).AsSlice()
	src, dst := ip.addrs(frame)
	copy(chosen(r, src, dst), to)
	return frame
}

func otherPort(r *rand.Rand, frame []byte) []byte {
	ip, ok := anyPacket(r, frame)
	if !ok || !ip.hasPorts(frame) {
		return frame
	}
	port := chosen(r, portSNAT, portNowSNAT, portIPIP, portGeneve, portHere, portToHere, portMoved, portAffine, portTraced, portRanged,
		portEmpty, portUnserved, portNodeHere, portNodeSNAT, portInside, packet.GenevePort, 8080, 1025, 1026, 62000, 61000+r.IntN(4536), r.IntN(65536))
	binary.BigEndian.PutUint16(frame[ip.l4+chosen(r, 0, 2):], uint16(port))
	return frame
}

func otherProtocol(r *rand.Rand, frame []byte) []byte {
	ip, ok := anyPacket(r, frame)
	if !ok {
		return frame
	}
	at := ip.l3 + 9
	if ip.v6 {
		at = ip.l3 + 6
	}
	frame[at] = chosen[byte](r, packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP, packet.ProtoICMP, packet.ProtoICMPv6, packet.ProtoIPIP,
		packet.ProtoIPv6, packet.KindFragment, packet.KindHopByHop, packet.KindRouting, packet.KindDestination, byte(r.Uint32()))
	return frame
}

// grown has more data, up to more than any way here takes.
func grown(r *rand.Rand, frame []byte) []byte {
	frame = append(frame, randomBytes(r, chosen(r, 200, 1000, 1300, 1400, 1460, 3000, r.IntN(2000)))...)
	stretch(frame)
	return frame
}

// fragment is one of the fragments that a frame's packet may be cut into: ids are few, so
// that they meet others of theirs, and offsets overlap.
func fragment(r *rand.Rand, frame []byte) []byte {
	ip, ok := anyPacket(r, frame)
	if !ok || ip.end > len(frame) {
		return frame
	}
	id, from, more := uint16(r.IntN(4)), 8*chosen(r, 0, 0, 1, 2, 3, 5), uint16(r.IntN(2))
	body := frame[ip.l4:ip.end]
	from = min(from, len(body)&^7)
	body = body[from:]
	if more != 0 {
		body = body[:min(len(body), 8*r.IntN(8))]
	}
	if ip.v6 {
		head := slices.Clone(frame[:ip.l3+40])
		head[ip.l3+6] = packet.KindFragment
		at := uint16(from) | more
		frame = slices.Concat(head, []byte{ip.proto, 0, byte(at >> 8), byte(at), 0, 0, 0, byte(id)}, body)
	} else {
		at := uint16(from/8) | more*packet.MoreFragments
		frame = slices.Concat(frame[:ip.l4], body)
		binary.BigEndian.PutUint16(frame[ip.l3+4:], id)
		binary.BigEndian.PutUint16(frame[ip.l3+6:], at)
	}
	stretchIP(frame)
	return frame
}

// stretchIP is stretch for what has no UDP header of its own, or the whole packet's.
func stretchIP(frame []byte) {
	ip, ok := locate(frame)
	if !ok {
		return
	}
	length := []byte(nil)
	if ip.proto == packet.ProtoUDP && !ip.later && ip.l4+6 <= len(frame) {
		length = slices.Clone(frame[ip.l4+4 : ip.l4+6])
	}
	stretch(frame)
	if length != nil {
		copy(frame[ip.l4+4:], length)
	}
}

func tagged(r *rand.Rand, frame []byte) []byte {
	tag := []byte{0x81, 0x00, 0x60, chosen[byte](r, 0, 10, 10, 20, byte(r.Uint32()))}
	if r.IntN(3) == 0 {
		tag = append(tag, 0x81, 0x00, 0, chosen[byte](r, 0, 10, 20, 20))
	}
	if r.IntN(3) == 0 {
		copy(tag, []byte{0x88, 0xa8})
	}
	return slices.Insert(frame, 12, tag...)
}

// inTunnel is the frame as another node sends it to a pod of this one.
func inTunnel(r *rand.Rand, frame []byte) []byte {
	ip, ok := locate(frame)
	if !ok {
		return frame
	}
	f, over := families[0], families[0]
	if ip.v6 {
		f, over = families[1], families[1]
	}
	head := []packet.Layer{packet.Ethernet{Dst: nodeMAC, Src: otherMAC}}
	pod := chosen(r, f.localPod, f.localPod, secondPod[f.v6], f.remotePod)
	kind := uint8(packet.ProtoIPIP)
	if r.IntN(2) == 0 { // IP in IP
		if f.v6 {
			kind = packet.ProtoIPv6
		}
		return slices.Concat(packet.Build(append(head, outerOf(f.otherNode, pod, r, kind), packet.Payload(frame[ip.l3:]))...))
	}
	if r.IntN(3) == 0 {
		over = families[r.IntN(2)]
	}
	kind = packet.ProtoUDP
	ether := uint16(packet.TypeIPv4)
	if f.v6 {
		ether = packet.TypeIPv6
	}
	option := podOption(pod, uint8(r.IntN(2)))
	if r.IntN(8) == 0 {
		option[r.IntN(8)] = byte(r.Uint32())
	}
	return packet.Build(append(head, outerOf(over.otherNode, over.node, r, kind),
		packet.UDP{SrcPort: 0xc001, DstPort: packet.GenevePort, Checksum: new(uint16(0))},
		packet.Geneve{Critical: true, Options: option, Type: &ether}, packet.Payload(frame[ip.l3:]))...)
}

// outerOf is a tunnel's IP header, with any ECN, of a packet that may have been handed on.
func outerOf(from, to netip.Addr, r *rand.Rand, kind uint8) packet.Layer {
	class := uint8(r.IntN(4))
	if ip, ok := outer(from, to, r.Uint32(), r.IntN(3) == 0).(packet.IPv6); ok {
		ip.TrafficClass, ip.NextHeader = class, &kind
		return ip
	}
	ip := outer(from, to, 0, r.IntN(3) == 0).(packet.IPv4)
	ip.TOS, ip.Protocol = class, &kind
	return ip
}

// withExtension has an extension header, or of IPv4 options.
func withExtension(r *rand.Rand, frame []byte) []byte {
	ip, ok := anyPacket(r, frame)
	if !ok {
		return frame
	}
	if !ip.v6 {
		words := r.IntN(16 - int(frame[ip.l3]&15))
		frame = slices.Insert(frame, ip.l4, make([]byte, 4*words)...)
		frame[ip.l3] += byte(words)
	} else {
		header := append([]byte{frame[ip.l3+6], byte(r.IntN(3))}, make([]byte, 6)...)
		header = append(header, make([]byte, 8*int(header[1]))...)
		if r.IntN(8) == 0 {
			header[r.IntN(4)] = byte(r.Uint32())
		}
		frame = slices.Insert(frame, ip.l3+40, header...)
		frame[ip.l3+6] = chosen[byte](r, packet.KindHopByHop, packet.KindDestination, packet.KindRouting, packet.KindFragment)
	}
	stretchIP(frame)
	return frame
}

// errorAbout is an error to who sent the frame's packet, which it quotes.
func errorAbout(r *rand.Rand, frame []byte) []byte {
	ip, ok := anyPacket(r, frame)
	if !ok {
		return frame
	}
	quote := frame[ip.l3:]
	if r.IntN(3) == 0 {
		quote = quote[:r.IntN(len(quote)+1)]
	}
	src, _ := ip.addrs(frame)
	to, _ := netip.AddrFromSlice(src)
	eth, mtu := packet.Ethernet{Dst: nodeMAC, Src: routerMAC}, chosen[uint16](r, 0, 60, 1200, 1280, 1400, 1480)
	if ip.v6 {
		kind := chosen(r, packet.ICMP{Type: 2, Seq: mtu}, packet.ICMP{Type: 1, Code: 4}, packet.ICMP{Type: 3}, packet.ICMP{Type: 4})
		return packet.Build(eth, packet.IPv6{HopLimit: 63, Src: families[1].router, Dst: to}, kind, packet.Payload(quote))
	}
	kind := chosen(r, packet.ICMP{Type: 3, Code: 4, Seq: mtu}, packet.ICMP{Type: 3, Code: 3}, packet.ICMP{Type: 11}, packet.ICMP{Type: 12})
	return packet.Build(eth, packet.IPv4{TTL: 63, Src: families[0].router, Dst: to}, kind, packet.Payload(quote))
}

// spliced has the bytes of another place from some place on.
func spliced(r *rand.Rand, frame []byte) []byte {
	at, from := 14+r.IntN(len(frame)-13), 14+r.IntN(len(frame)-13)
	return slices.Concat(frame[:at], frame[from:])
}

// answered is what the receiver of a frame might say to its sender.
func answered(r *rand.Rand, frame []byte) []byte {
	answer := slices.Clone(frame)
	copy(answer[:6], frame[6:12])
	copy(answer[6:12], frame[:6])
	ip, err := innermost(answer, false)
	if err != nil {
		return answer
	}
	answer = slices.Concat(answer[:14], answer[ip.l3:])
	binary.BigEndian.PutUint16(answer[12:], packet.TypeIPv4)
	if ip.v6 {
		binary.BigEndian.PutUint16(answer[12:], packet.TypeIPv6)
	}
	ip, ok := locate(answer)
	if !ok {
		return answer
	}
	src, dst := ip.addrs(answer)
	was := slices.Clone(src)
	copy(src, dst)
	copy(dst, was)
	answer[ip.hops()] = 64
	if !ip.hasPorts(answer) {
		mend(answer)
		return answer
	}
	ports := answer[ip.l4 : ip.l4+4]
	ports[0], ports[1], ports[2], ports[3] = ports[2], ports[3], ports[0], ports[1]
	if tcp := answer[ip.l4:]; ip.proto == packet.ProtoTCP && len(tcp) >= 20 {
		seq, ack := binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:])
		if ack == 0 {
			ack = r.Uint32() // where its own numbers begin
		}
		binary.BigEndian.PutUint32(tcp[4:], ack)
		binary.BigEndian.PutUint32(tcp[8:], seq+1)
		switch flags := tcp[13]; {
		case flags&(packet.SYN|packet.ACK) == packet.SYN:
			tcp[13] = packet.SYN | packet.ACK
		default:
			tcp[13] = packet.ACK | flags&packet.FIN
		}
		if r.IntN(8) == 0 {
			tcp[13] = chosen[byte](r, packet.FIN|packet.ACK, packet.RST, packet.RST|packet.ACK)
		}
	}
	mend(answer)
	return answer
}
