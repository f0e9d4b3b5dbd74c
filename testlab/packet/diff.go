package packet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// field is one line of a packet's dissection.
type field struct{ name, value string }

// Diff returns how got differs from want, one line for each field, "- " before
// what was wanted and "+ " before what came; "" when they are the same, byte for byte.
func Diff(want, got []byte) string {
	if string(want) == string(got) {
		return ""
	}
	wanted, came := dissect(want), dissect(got)
	var out strings.Builder
	gotValue := map[string]string{}
	for _, f := range came {
		gotValue[f.name] = f.value
	}
	known := map[string]bool{}
	for _, f := range wanted {
		known[f.name] = true
		value, ok := gotValue[f.name]
		if ok && value == f.value {
			continue
		}
		fmt.Fprintf(&out, "- %-16s %s\n", f.name, f.value)
		if ok {
			fmt.Fprintf(&out, "+ %-16s %s\n", f.name, value)
		}
	}
	for _, f := range came {
		if !known[f.name] {
			fmt.Fprintf(&out, "+ %-16s %s\n", f.name, f.value)
		}
	}
	if out.Len() == 0 { // no field shows it: bits that dissect leaves out
		fmt.Fprintf(&out, "- %x\n+ %x\n", want, got)
	}
	return out.String()
}

// String returns the packet's fields, one a line.
func String(frame []byte) string {
	var out strings.Builder
	for _, f := range dissect(frame) {
		fmt.Fprintf(&out, "%-16s %s\n", f.name, f.value)
	}
	return out.String()
}

// dissection collects the fields of a packet. Names repeat from layer to layer
// with a number: ip, ip2.
type dissection struct {
	fields []field
	tags   int // VLAN tags so far
	depth  int // IP headers so far
}

func dissect(frame []byte) []field {
	d := &dissection{}
	d.ethernet(frame)
	return d.fields
}

func (d *dissection) add(name, format string, args ...any) {
	d.fields = append(d.fields, field{name, fmt.Sprintf(format, args...)})
}

func (d *dissection) rest(name string, b []byte) {
	if len(b) > 0 {
		d.add(name, "%d bytes: %x", len(b), b)
	}
}

func (d *dissection) ethernet(b []byte) {
	if len(b) < 14 {
		d.rest("eth.truncated", b)
		return
	}
	kind := binary.BigEndian.Uint16(b[12:])
	d.add("eth.dst", "%s", MAC(b[:6]))
	d.add("eth.src", "%s", MAC(b[6:12]))
	d.add("eth.type", "%#04x", kind)
	d.behind(kind, b[14:])
}

// behind is what an EtherType says.
func (d *dissection) behind(kind uint16, b []byte) {
	switch kind {
	case TypeIPv4:
		d.ipv4(b)
	case TypeIPv6:
		d.ipv6(b)
	case TypeARP:
		d.arp(b)
	case TypeVLAN, TypeQinQ:
		d.tags++
		d.vlan(fmt.Sprintf("vlan%d", d.tags), b)
	default:
		d.rest("payload", b)
	}
}

func (d *dissection) vlan(name string, b []byte) {
	if len(b) < 4 {
		d.rest(name+".truncated", b)
		return
	}
	kind := binary.BigEndian.Uint16(b[2:])
	d.add(name+".tci", "%#04x", binary.BigEndian.Uint16(b))
	d.add(name+".type", "%#04x", kind)
	d.behind(kind, b[4:])
}

func (d *dissection) arp(b []byte) {
	if len(b) < 28 {
		d.rest("arp.truncated", b)
		return
	}
	d.add("arp.hardware", "%d, %d bytes", binary.BigEndian.Uint16(b), b[4])
	d.add("arp.protocol", "%#04x, %d bytes", binary.BigEndian.Uint16(b[2:]), b[5])
	d.add("arp.op", "%d", binary.BigEndian.Uint16(b[6:]))
	d.add("arp.sender_mac", "%s", MAC(b[8:14]))
	d.add("arp.sender", "%s", netip.AddrFrom4([4]byte(b[14:18])))
	d.add("arp.target_mac", "%s", MAC(b[18:24]))
	d.add("arp.target", "%s", netip.AddrFrom4([4]byte(b[24:28])))
	d.rest("padding", b[28:])
}

func (d *dissection) ipName() string {
	d.depth++
	if d.depth > 1 {
		return fmt.Sprintf("ip%d", d.depth)
	}
	return "ip"
}

func (d *dissection) ipv4(b []byte) {
	name := d.ipName()
	if len(b) < 20 {
		d.rest(name+".truncated", b)
		return
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	d.add(name+".version", "%d", b[0]>>4)
	d.add(name+".header_len", "%d", header)
	d.add(name+".tos", "%#02x", b[1])
	d.add(name+".length", "%d", total)
	d.add(name+".id", "%#04x", binary.BigEndian.Uint16(b[4:]))
	d.add(name+".fragment", "%#04x", binary.BigEndian.Uint16(b[6:]))
	d.add(name+".ttl", "%d", b[8])
	d.add(name+".protocol", "%d", b[9])
	d.add(name+".src", "%s", netip.AddrFrom4([4]byte(b[12:16])))
	d.add(name+".dst", "%s", netip.AddrFrom4([4]byte(b[16:20])))
	if header < 20 || header > len(b) || total < header || total > len(b) {
		d.add(name+".checksum", "%#04x", binary.BigEndian.Uint16(b[10:]))
		d.rest(name+".malformed", b[20:])
		return
	}
	d.checksum(name+".checksum", b[10:], Checksum(b[:header]))
	d.rest(name+".options", b[20:header])
	body := b[header:total]
	fragment := binary.BigEndian.Uint16(b[6:])&0x1fff != 0
	d.transport(b[12:16], b[16:20], b[9], body, fragment)
	d.rest(name+".padding", b[total:])
}

func (d *dissection) ipv6(b []byte) {
	name := d.ipName()
	if len(b) < 40 {
		d.rest(name+".truncated", b)
		return
	}
	first, length := binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint16(b[4:]))
	d.add(name+".version", "%d", first>>28)
	d.add(name+".class", "%#02x", first>>20&0xff)
	d.add(name+".label", "%#05x", first&0xfffff)
	d.add(name+".length", "%d", length)
	d.add(name+".next", "%d", b[6])
	d.add(name+".hops", "%d", b[7])
	d.add(name+".src", "%s", netip.AddrFrom16([16]byte(b[8:24])))
	d.add(name+".dst", "%s", netip.AddrFrom16([16]byte(b[24:40])))
	if 40+length > len(b) {
		d.rest(name+".malformed", b[40:])
		return
	}
	body, kind, fragment := b[40:40+length], b[6], false
	for n := 1; len(body) >= 8 && !fragment; n++ {
		size := 8
		switch kind {
		case KindFragment:
			fragment = binary.BigEndian.Uint16(body[2:])&0xfff8 != 0
		case KindHopByHop, KindRouting, KindDestination:
			size += int(body[1]) * 8
		default:
			size = 0
		}
		if size == 0 || size > len(body) {
			break
		}
		d.rest(fmt.Sprintf("%s.extension%d", name, n), body[:size])
		kind, body = body[0], body[size:]
	}
	d.transport(b[8:24], b[24:40], kind, body, fragment)
	d.rest(name+".padding", b[40+length:])
}

// transport is what is behind an IP header from src to dst. fragment: it has no
// header of its own.
func (d *dissection) transport(src, dst []byte, proto uint8, body []byte, fragment bool) {
	switch {
	case fragment:
		d.rest("payload", body)
	case proto == ProtoTCP && len(body) >= 20:
		d.tcp(src, dst, body)
	case proto == ProtoUDP && len(body) >= 8:
		d.udp(src, dst, body)
	case proto == ProtoSCTP && len(body) >= 16:
		d.sctp(body)
	case (proto == ProtoICMP || proto == ProtoICMPv6) && len(body) >= 8:
		d.add("icmp.type", "%d", body[0])
		d.add("icmp.code", "%d", body[1])
		d.add("icmp.id", "%d", binary.BigEndian.Uint16(body[4:]))
		d.add("icmp.seq", "%d", binary.BigEndian.Uint16(body[6:]))
		over := Checksum(body)
		if proto == ProtoICMPv6 {
			over = pseudoChecksum(src, dst, proto, body)
		}
		d.checksum("icmp.checksum", body[2:], over)
		d.rest("payload", body[8:])
	case proto == ProtoIPIP:
		d.ipv4(body)
	case proto == ProtoIPv6:
		d.ipv6(body)
	default:
		d.rest("payload", body)
	}
}

func (d *dissection) sctp(b []byte) {
	d.add("sctp.src", "%d", binary.BigEndian.Uint16(b))
	d.add("sctp.dst", "%d", binary.BigEndian.Uint16(b[2:]))
	d.add("sctp.tag", "%#08x", binary.BigEndian.Uint32(b[4:]))
	sum, word := binary.LittleEndian.Uint32(b[8:]), "wrong"
	if sctpChecksum(append(append(append([]byte{}, b[:8]...), 0, 0, 0, 0), b[12:]...)) == sum {
		word = "right"
	}
	d.add("sctp.checksum", "%#08x %s", sum, word)
	d.add("sctp.chunk", "%d, flags %#02x, %d bytes", b[12], b[13], binary.BigEndian.Uint16(b[14:]))
	d.rest("payload", b[16:])
}

// GenevePort is Geneve's port (RFC 8926, section 3.3).
const GenevePort = 6081

func (d *dissection) geneve(b []byte) {
	size := 8 + int(b[0]&0x3f)*4
	kind := binary.BigEndian.Uint16(b[2:])
	d.add("geneve.version", "%d", b[0]>>6)
	d.add("geneve.flags", "%#02x", b[1])
	d.add("geneve.type", "%#04x", kind)
	d.add("geneve.vni", "%d", binary.BigEndian.Uint32(b[4:])>>8)
	if size > len(b) {
		d.rest("geneve.malformed", b[8:])
		return
	}
	d.rest("geneve.options", b[8:size])
	d.behind(kind, b[size:])
}

func (d *dissection) tcp(src, dst, b []byte) {
	header := int(b[12]>>4) * 4
	d.add("tcp.src", "%d", binary.BigEndian.Uint16(b))
	d.add("tcp.dst", "%d", binary.BigEndian.Uint16(b[2:]))
	d.add("tcp.seq", "%d", binary.BigEndian.Uint32(b[4:]))
	d.add("tcp.ack", "%d", binary.BigEndian.Uint32(b[8:]))
	d.add("tcp.header_len", "%d", header)
	d.add("tcp.flags", "%s", flagNames(b[13]))
	d.add("tcp.window", "%d", binary.BigEndian.Uint16(b[14:]))
	d.checksum("tcp.checksum", b[16:], pseudoChecksum(src, dst, ProtoTCP, b))
	d.add("tcp.urgent", "%d", binary.BigEndian.Uint16(b[18:]))
	if header < 20 || header > len(b) {
		d.rest("tcp.malformed", b[20:])
		return
	}
	d.rest("tcp.options", b[20:header])
	d.rest("payload", b[header:])
}

func (d *dissection) udp(src, dst, b []byte) {
	d.add("udp.src", "%d", binary.BigEndian.Uint16(b))
	d.add("udp.dst", "%d", binary.BigEndian.Uint16(b[2:]))
	d.add("udp.length", "%d", binary.BigEndian.Uint16(b[4:]))
	if binary.BigEndian.Uint16(b[6:]) == 0 {
		d.add("udp.checksum", "none")
	} else {
		d.checksum("udp.checksum", b[6:], pseudoChecksum(src, dst, ProtoUDP, b))
	}
	if binary.BigEndian.Uint16(b[2:]) == GenevePort && len(b) >= 16 {
		d.geneve(b[8:])
		return
	}
	d.rest("payload", b[8:])
}

// checksum shows the checksum at the start of b. over is the checksum over
// data that includes it, which is 0 (or, as one's complements go, 0xffff) when
// it is right.
func (d *dissection) checksum(name string, b []byte, over uint16) {
	word := "right"
	if over != 0 && over != 0xffff {
		word = "wrong"
	}
	d.add(name, "%#04x %s", binary.BigEndian.Uint16(b), word)
}

func flagNames(flags uint8) string {
	var names []string
	for i, n := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if flags&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, "|")
}
