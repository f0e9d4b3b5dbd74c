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
	depth  int // IPv4 headers so far
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
	switch kind {
	case TypeIPv4:
		d.ipv4(b[14:])
	case TypeARP:
		d.arp(b[14:])
	default:
		d.rest("payload", b[14:])
	}
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

func (d *dissection) ipv4(b []byte) {
	d.depth++
	name := "ip"
	if d.depth > 1 {
		name = fmt.Sprintf("ip%d", d.depth)
	}
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
	switch {
	case b[9] == ProtoTCP && len(body) >= 20 && !fragment:
		d.tcp(b, body)
	case b[9] == ProtoUDP && len(body) >= 8 && !fragment:
		d.udp(b, body)
	case b[9] == ProtoICMP && len(body) >= 8 && !fragment:
		d.add("icmp.type", "%d", body[0])
		d.add("icmp.code", "%d", body[1])
		d.add("icmp.id", "%d", binary.BigEndian.Uint16(body[4:]))
		d.add("icmp.seq", "%d", binary.BigEndian.Uint16(body[6:]))
		d.checksum("icmp.checksum", body[2:], Checksum(body))
		d.rest("payload", body[8:])
	case b[9] == ProtoIPIP && !fragment:
		d.ipv4(body)
	default:
		d.rest("payload", body)
	}
	d.rest(name+".padding", b[total:])
}

func (d *dissection) tcp(ip, b []byte) {
	header := int(b[12]>>4) * 4
	d.add("tcp.src", "%d", binary.BigEndian.Uint16(b))
	d.add("tcp.dst", "%d", binary.BigEndian.Uint16(b[2:]))
	d.add("tcp.seq", "%d", binary.BigEndian.Uint32(b[4:]))
	d.add("tcp.ack", "%d", binary.BigEndian.Uint32(b[8:]))
	d.add("tcp.header_len", "%d", header)
	d.add("tcp.flags", "%s", flagNames(b[13]))
	d.add("tcp.window", "%d", binary.BigEndian.Uint16(b[14:]))
	d.checksum("tcp.checksum", b[16:], pseudoChecksum(ip[12:16], ip[16:20], ProtoTCP, b))
	d.add("tcp.urgent", "%d", binary.BigEndian.Uint16(b[18:]))
	if header < 20 || header > len(b) {
		d.rest("tcp.malformed", b[20:])
		return
	}
	d.rest("tcp.options", b[20:header])
	d.rest("payload", b[header:])
}

func (d *dissection) udp(ip, b []byte) {
	d.add("udp.src", "%d", binary.BigEndian.Uint16(b))
	d.add("udp.dst", "%d", binary.BigEndian.Uint16(b[2:]))
	d.add("udp.length", "%d", binary.BigEndian.Uint16(b[4:]))
	if binary.BigEndian.Uint16(b[6:]) == 0 {
		d.add("udp.checksum", "none")
	} else {
		d.checksum("udp.checksum", b[6:], pseudoChecksum(ip[12:16], ip[16:20], ProtoUDP, b))
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
