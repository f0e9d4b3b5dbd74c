package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// ipAt is an IP packet in a frame, by offsets: of its header, of what is behind that and
// the extension headers, and of its end, by its own length.
type ipAt struct {
	l3, l4, end int
	proto       uint8
	v6          bool
	first       bool // fragment: the first, or a later one
	later       bool
}

// locate finds the IP packet of a frame, behind its tags.
func locate(frame []byte) (ip ipAt, ok bool) {
	for at := 12; at+2 <= len(frame); at += 4 {
		switch binary.BigEndian.Uint16(frame[at:]) {
		case packet.TypeIPv4:
			return locateIP(frame, at+2, false)
		case packet.TypeIPv6:
			return locateIP(frame, at+2, true)
		case packet.TypeVLAN, packet.TypeQinQ:
			continue
		}
		break
	}
	return ip, false
}

// locateIP finds a packet that begins at an offset. Its header has to be there, and to be
// of the family; its end may lie beyond the frame's.
func locateIP(frame []byte, at int, v6 bool) (ipAt, bool) {
	ip := ipAt{l3: at, v6: v6}
	if !v6 {
		if at+20 > len(frame) || frame[at]>>4 != 4 {
			return ip, false
		}
		offset := binary.BigEndian.Uint16(frame[at+6:])
		ip.l4, ip.end = at+int(frame[at]&15)*4, at+int(binary.BigEndian.Uint16(frame[at+2:]))
		ip.proto, ip.later = frame[at+9], offset&0x1fff != 0
		ip.first = !ip.later && offset&packet.MoreFragments != 0
		return ip, ip.l4 >= at+20 && ip.end >= ip.l4
	}
	if at+40 > len(frame) || frame[at]>>4 != 6 {
		return ip, false
	}
	ip.l4, ip.end, ip.proto = at+40, at+40+int(binary.BigEndian.Uint16(frame[at+4:])), frame[at+6]
	for !ip.later && ip.l4+8 <= min(len(frame), ip.end) {
		size := 8
		switch header := frame[ip.l4:]; ip.proto {
		case packet.KindFragment:
			offset := binary.BigEndian.Uint16(header[2:])
			ip.later = offset&^7 != 0
			ip.first = !ip.later && offset&1 != 0
		case packet.KindHopByHop, packet.KindDestination, packet.KindRouting:
			size += int(header[1]) * 8
		default:
			return ip, true
		}
		if ip.l4+size > min(len(frame), ip.end) {
			break
		}
		ip.proto = frame[ip.l4]
		ip.l4 += size
	}
	return ip, true
}

// carried finds the packet in a tunnel as nodes make them.
func (ip ipAt) carried(frame []byte) (ipAt, bool) {
	if ip.first || ip.later || ip.end > len(frame) {
		return ip, false
	}
	switch body := frame[ip.l4:ip.end]; {
	case ip.proto == packet.ProtoIPIP && !ip.v6:
		return locateIP(frame, ip.l4, false)
	case ip.proto == packet.ProtoIPv6 && ip.v6:
		return locateIP(frame, ip.l4, true)
	case ip.proto == packet.ProtoUDP && len(body) >= 24 && binary.BigEndian.Uint16(body[2:]) == packet.GenevePort && binary.BigEndian.Uint16(body[16:]) == 0xff5e:
		return locateIP(frame, ip.l4+16+int(body[8]&0x3f)*4, binary.BigEndian.Uint16(body[10:]) == packet.TypeIPv6)
	}
	return ip, false
}

// innermost finds the packet that is in no further tunnel. Those around it have to have
// the lengths that it needs, when whole is asked for.
func innermost(frame []byte, whole bool) (ipAt, error) {
	ip, ok := locate(frame)
	if !ok {
		return ip, fmt.Errorf("no IP packet")
	}
	for {
		if whole && ip.end > len(frame) {
			return ip, fmt.Errorf("an IP packet of %d bytes in %d", ip.end-ip.l3, len(frame)-ip.l3)
		}
		in, ok := ip.carried(frame)
		if !ok {
			return ip, nil
		}
		if whole && (in.end != ip.end || ip.proto == packet.ProtoUDP && int(binary.BigEndian.Uint16(frame[ip.l4+4:])) != ip.end-ip.l4) {
			return ip, fmt.Errorf("a tunnel is not as long as its packet")
		}
		ip = in
	}
}

// quoted finds the packet that an ICMP error is about, as far as it is quoted.
func (ip ipAt) quoted(frame []byte) (ipAt, bool) {
	if ip.later || ip.l4+8 > min(ip.end, len(frame)) {
		return ip, false
	}
	four := ip.proto == packet.ProtoICMP && !ip.v6 && slices.Contains([]byte{3, 11, 12}, frame[ip.l4])
	six := ip.proto == packet.ProtoICMPv6 && ip.v6 && slices.Contains([]byte{1, 2, 3, 4}, frame[ip.l4])
	if !four && !six {
		return ip, false
	}
	quoted, ok := locateIP(frame[:min(ip.end, len(frame))], ip.l4+8, ip.v6)
	quoted.end = min(quoted.end, ip.end, len(frame))
	return quoted, ok && quoted.l4 <= quoted.end && quoted.proto != packet.ProtoSCTP // whose checksum it would take all of it for
}

// hops is where the TTL (hop limit) is.
func (ip ipAt) hops() int {
	if ip.v6 {
		return ip.l3 + 7
	}
	return ip.l3 + 8
}

// addrs are the source and destination address.
func (ip ipAt) addrs(frame []byte) (src, dst []byte) {
	if ip.v6 {
		return frame[ip.l3+8 : ip.l3+24], frame[ip.l3+24 : ip.l3+40]
	}
	return frame[ip.l3+12 : ip.l3+16], frame[ip.l3+16 : ip.l3+20]
}

// hasPorts says whether there is a header with ports.
func (ip ipAt) hasPorts(frame []byte) bool {
	return slices.Contains(tunnelled, ip.proto) && !ip.later && ip.l4+8 <= min(len(frame), ip.end)
}

// checkAt is where the checksum behind the IP header is; false: there is none.
func (ip ipAt) checkAt(frame []byte) (int, bool) {
	at, size := 0, 0
	switch {
	case ip.proto == packet.ProtoTCP:
		at, size = 16, 20
	case ip.proto == packet.ProtoUDP:
		at, size = 6, 8
	case ip.proto == packet.ProtoSCTP:
		at, size = 8, 12
	case ip.proto == packet.ProtoICMP && !ip.v6 || ip.proto == packet.ProtoICMPv6 && ip.v6:
		at, size = 2, 8
	default:
		return 0, false
	}
	return ip.l4 + at, !ip.later && ip.end <= len(frame) && ip.l4+size <= ip.end
}

// wrongs is by how much the checksums of a packet are wrong: the IP header's, and what is
// behind it. Of right ones it is zeros; who changes a packet and mends its checksums leaves
// it as it was. -1: there is no such checksum.
type wrongs struct{ header, body int64 }

func (ip ipAt) wrongs(frame []byte) wrongs {
	w := wrongs{-1, -1}
	if !ip.v6 {
		w.header = int64(packet.Checksum(frame[ip.l3:ip.l4])) % 0xffff
	}
	at, ok := ip.checkAt(frame)
	if !ok {
		return w
	}
	body := frame[ip.l4:ip.end]
	switch {
	case ip.proto == packet.ProtoSCTP && binary.LittleEndian.Uint32(frame[at:]) == 0: // yet to be filled in
	case ip.proto == packet.ProtoSCTP:
		w.body = int64(crcOf(body) ^ binary.LittleEndian.Uint32(frame[at:]))
	case ip.proto == packet.ProtoUDP && frame[at] == 0 && frame[at+1] == 0:
	case ip.proto == packet.ProtoICMP:
		w.body = int64(packet.Checksum(body)) % 0xffff
	default:
		w.body = int64(packet.Checksum(slices.Concat(ip.pseudo(frame), body))) % 0xffff
	}
	return w
}

// pseudo is the pseudo header.
func (ip ipAt) pseudo(frame []byte) []byte {
	src, dst := ip.addrs(frame)
	return binary.BigEndian.AppendUint16(slices.Concat(src, dst, []byte{0, ip.proto}), uint16(ip.end-ip.l4))
}

// crcOf is SCTP's checksum of a packet, whatever is in its place.
func crcOf(sctp []byte) uint32 {
	blank := slices.Clone(sctp)
	copy(blank[8:12], make([]byte, 4))
	return crc32.Checksum(blank, crc32.MakeTable(crc32.Castagnoli))
}

// mend makes the checksums of a frame's packets right, from the inside out.
func mend(frame []byte) {
	if ip, ok := locate(frame); ok {
		ip.mend(frame)
	}
}

func (ip ipAt) mend(frame []byte) {
	if in, ok := ip.carried(frame); ok {
		in.mend(frame)
	}
	if !ip.v6 && ip.l4 <= len(frame) {
		copy(frame[ip.l3+10:], []byte{0, 0})
		binary.BigEndian.PutUint16(frame[ip.l3+10:], packet.Checksum(frame[ip.l3:ip.l4]))
	}
	at, ok := ip.checkAt(frame)
	if !ok || ip.proto == packet.ProtoUDP && frame[at] == 0 && frame[at+1] == 0 {
		return
	}
	body := frame[ip.l4:ip.end]
	if ip.proto == packet.ProtoSCTP {
		binary.LittleEndian.PutUint32(frame[at:], crcOf(body))
		return
	}
	copy(frame[at:], []byte{0, 0})
	pseudo := ip.pseudo(frame)
	if ip.proto == packet.ProtoICMP {
		pseudo = nil
	}
	sum := packet.Checksum(slices.Concat(pseudo, body))
	if sum == 0 && ip.proto == packet.ProtoUDP {
		sum = 0xffff // RFC 768
	}
	binary.BigEndian.PutUint16(frame[at:], sum)
}

// stretch makes the packets of a frame as long as it is.
func stretch(frame []byte) {
	ip, ok := locate(frame)
	for ok && ip.l4 <= len(frame) {
		if ip.v6 {
			binary.BigEndian.PutUint16(frame[ip.l3+4:], uint16(len(frame)-ip.l3-40))
		} else {
			binary.BigEndian.PutUint16(frame[ip.l3+2:], uint16(len(frame)-ip.l3))
		}
		ip.end = len(frame)
		if ip.proto == packet.ProtoUDP && !ip.later && ip.l4+8 <= len(frame) {
			binary.BigEndian.PutUint16(frame[ip.l4+4:], uint16(len(frame)-ip.l4))
		}
		ip, ok = ip.carried(frame)
	}
}

// payload is what is behind the header with the ports, which nobody has to change.
func (ip ipAt) payload(frame []byte) []byte {
	body := frame[ip.l4:ip.end]
	switch {
	case ip.later:
		return body
	case ip.proto == packet.ProtoTCP && len(body) >= 20:
		return body[min(len(body), max(20, int(body[12]>>4)*4)):]
	case ip.proto == packet.ProtoUDP && len(body) >= 8:
		return body[8:]
	case ip.proto == packet.ProtoSCTP && len(body) >= 12:
		return body[12:]
	}
	return nil
}

// behindPorts is what is between the ports and the checksum: numbers, flags, lengths.
func (ip ipAt) behindPorts(frame []byte) []byte {
	if at, ok := ip.checkAt(frame); ok && ip.hasPorts(frame) {
		return frame[ip.l4+4 : at]
	}
	return nil
}

// checkCarried says what is wrong with a frame that was sent or passed on: its packet is
// the one that came in, with its checksums as right or wrong as they were.
func checkCarried(in, out []byte) error {
	was, err := innermost(in, false)
	if err != nil {
		return nil // none to begin with
	}
	is, err := innermost(out, true)
	if err != nil {
		return err
	}
	if outermost, _ := locate(out); outermost != is && !outermost.v6 && outermost.wrongs(out).header != 0 {
		return fmt.Errorf("the tunnel's checksum is wrong")
	}
	if is.v6 != was.v6 || is.proto != was.proto || is.end-is.l3 != was.end-was.l3 || is.later != was.later {
		return fmt.Errorf("another packet: %+v of %+v", is, was)
	}
	if before, now := was.wrongs(in), is.wrongs(out); before != now {
		return fmt.Errorf("checksums are wrong by %x, were by %x", now, before)
	}
	if !bytes.Equal(was.payload(in), is.payload(out)) || !bytes.Equal(was.behindPorts(in), is.behindPorts(out)) {
		return fmt.Errorf("more than addresses and ports has changed")
	}
	quoted, ok := was.quoted(in)
	quote, still := is.quoted(out)
	if ok != still {
		return fmt.Errorf("the error quotes a packet: %v, did: %v", still, ok)
	}
	if ok && quoted.wrongs(in) != quote.wrongs(out) {
		return fmt.Errorf("checksums of the quote are wrong by %x, were by %x", quote.wrongs(out), quoted.wrongs(in))
	}
	return nil
}

// checkMade says what is wrong with a frame that was made.
func checkMade(out []byte) error {
	ip, ok := locate(out)
	if !ok {
		return nil // ARP
	}
	if ip.end != len(out) {
		return fmt.Errorf("an IP packet of %d bytes in %d", ip.end-ip.l3, len(out)-ip.l3)
	}
	if w := ip.wrongs(out); w.header > 0 || w.body != 0 {
		return fmt.Errorf("checksums are wrong by %x", w)
	}
	return nil
}
