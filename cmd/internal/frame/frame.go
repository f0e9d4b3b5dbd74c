// Package frame reads captured Ethernet frames for people: addresses, ports,
// flags, and what is inside of tunnels and ICMP errors. A capture may end
// anywhere; what it does not hold is not said.
package frame

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/seamark-lb/seamark/state"
)

// Packet is what a frame's headers say.
type Packet struct {
	From string `json:"from,omitempty"` // MACs
	To   string `json:"to,omitempty"`
	// VLANs are the tags, the outer one first.
	VLANs []uint16 `json:"vlans,omitempty"`
	// ARP in words, "" for other packets.
	ARP string `json:"arp,omitempty"`
	// IP packets, the outer one first: what is inside of a tunnel, or what an
	// ICMP error is about, comes after.
	IP []IP `json:"ip,omitempty"`
	// Rest is why there is no more to say, "" when the frame was read to its payload.
	Rest string `json:"rest,omitempty"`
}

// IP is one IP packet.
type IP struct {
	// Src and Dst have port 0 where there is none.
	Src netip.AddrPort `json:"src"`
	Dst netip.AddrPort `json:"dst"`
	// Protocol is the one behind the IP header, and Name what people call it.
	Protocol uint8  `json:"protocol"`
	Name     string `json:"name"`
	// Detail: flags, message type, tunnel id, fragment.
	Detail string `json:"detail,omitempty"`
	// Length is the packet's, in bytes, by its own header.
	Length int `json:"length"`
}

// Protocols that state has no name for (IANA).
const (
	protoICMP   = 1
	protoIPIP   = 4
	protoIPv6   = 41
	protoICMPv6 = 58
)

const portGeneve = 6081 // RFC 8926

// maxDepth bounds the IP packets within one another that are read.
const maxDepth = 4

// Decode reads a frame, or the head of one.
func Decode(b []byte) Packet {
	var p Packet
	p.ethernet(b)
	return p
}

// Has says whether one of the IP packets is to or from that address and port.
func (p Packet) Has(addr netip.AddrPort, proto state.Protocol) bool {
	for _, ip := range p.IP {
		if ip.Protocol == uint8(proto) && (ip.Src == addr || ip.Dst == addr) {
			return true
		}
	}
	return false
}

// String is the packet in one line: one arrow for each IP packet.
func (p Packet) String() string {
	var parts []string
	for _, tag := range p.VLANs {
		parts = append(parts, fmt.Sprintf("vlan %d", tag))
	}
	if p.ARP != "" {
		parts = append(parts, p.ARP)
	}
	for i, ip := range p.IP {
		text := ip.String()
		if i > 0 {
			text = "[" + text
		}
		parts = append(parts, text)
	}
	if len(p.ARP)+len(p.IP) == 0 && p.From != "" {
		parts = append(parts, p.From+" > "+p.To)
	}
	if p.Rest != "" {
		parts = append(parts, p.Rest)
	}
	return strings.Join(parts, " ") + strings.Repeat("]", max(0, len(p.IP)-1))
}

func (ip IP) String() string {
	text := fmt.Sprintf("%s > %s %s", address(ip.Src), address(ip.Dst), ip.Name)
	if ip.Detail != "" {
		text += " " + ip.Detail
	}
	return fmt.Sprintf("%s length %d", text, ip.Length)
}

func address(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

const truncated = "(capture ends here)"

func (p *Packet) ethernet(b []byte) {
	if len(b) < 14 {
		p.Rest = truncated
		return
	}
	p.To, p.From = net.HardwareAddr(b[:6]).String(), net.HardwareAddr(b[6:12]).String()
	p.ethertype(binary.BigEndian.Uint16(b[12:]), b[14:])
}

func (p *Packet) ethertype(kind uint16, b []byte) {
	for kind == 0x8100 || kind == 0x88a8 { // IEEE 802.1Q, 802.1ad
		if len(b) < 4 {
			p.Rest = truncated
			return
		}
		p.VLANs = append(p.VLANs, binary.BigEndian.Uint16(b)&0xfff)
		kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	switch kind {
	case 0x0800:
		p.ipv4(b)
	case 0x86dd:
		p.ipv6(b)
	case 0x0806:
		p.arp(b)
	default:
		p.Rest = fmt.Sprintf("ethertype 0x%04x", kind)
	}
}

func (p *Packet) arp(b []byte) {
	if len(b) < 28 || binary.BigEndian.Uint16(b) != 1 || binary.BigEndian.Uint16(b[2:]) != 0x0800 {
		p.Rest = "ARP " + truncated
		return
	}
	sender, target := addr(b[14:18]), addr(b[24:28])
	switch op := binary.BigEndian.Uint16(b[6:]); op {
	case 1:
		p.ARP = fmt.Sprintf("ARP who has %s, tell %s (%s)", target, sender, net.HardwareAddr(b[8:14]))
	case 2:
		p.ARP = fmt.Sprintf("ARP %s is at %s", sender, net.HardwareAddr(b[8:14]))
	default:
		p.ARP = fmt.Sprintf("ARP operation %d", op)
	}
}

func (p *Packet) ipv4(b []byte) {
	if !p.deeper() {
		return
	}
	if len(b) < 20 {
		p.Rest = "IPv4 " + truncated
		return
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	ip := IP{Src: addrPort(b[12:16]), Dst: addrPort(b[16:20]), Protocol: b[9], Length: total}
	fragment := binary.BigEndian.Uint16(b[6:])
	more, offset := fragment&0x2000 != 0, int(fragment&0x1fff)*8
	if b[0]>>4 != 4 || header < 20 || total < header {
		p.malformed(ip)
		return
	}
	ip.fragment(more, offset, uint32(binary.BigEndian.Uint16(b[4:])))
	p.transport(ip, offset > 0, within(b, header, total))
}

func (p *Packet) ipv6(b []byte) {
	if !p.deeper() {
		return
	}
	if len(b) < 40 {
		p.Rest = "IPv6 " + truncated
		return
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	ip := IP{Src: addrPort(b[8:24]), Dst: addrPort(b[24:40]), Protocol: b[6], Length: total}
	if b[0]>>4 != 6 {
		p.malformed(ip)
		return
	}
	b, later := within(b, 40, total), false
	// Extension headers (RFC 8200, section 4): next header, then the length in
	// units of 8 bytes, the first not counted; a fragment header has no length.
	for {
		switch ip.Protocol {
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if len(b) < 8 {
				p.append(ip, truncated)
				return
			}
			size := 8 + int(b[1])*8
			ip.Protocol, b = b[0], b[min(size, len(b)):]
			continue
		case 44:
			if len(b) < 8 {
				p.append(ip, truncated)
				return
			}
			place := binary.BigEndian.Uint16(b[2:])
			ip.fragment(place&1 != 0, int(place&^7), binary.BigEndian.Uint32(b[4:]))
			later = later || place&^7 > 0
			ip.Protocol, b = b[0], b[8:]
			continue
		}
		break
	}
	p.transport(ip, later, b)
}

func (p *Packet) deeper() bool {
	if len(p.IP) >= maxDepth {
		p.Rest = "(more inside)"
		return false
	}
	return true
}

func (p *Packet) malformed(ip IP) {
	ip.Name = "malformed"
	p.append(ip, "")
}

func (p *Packet) append(ip IP, rest string) {
	if ip.Name == "" {
		ip.Name = protocolName(ip.Protocol)
	}
	p.IP, p.Rest = append(p.IP, ip), rest
}

// transport reads what is behind the IP header; of a later fragment it is payload.
func (p *Packet) transport(ip IP, later bool, b []byte) {
	if later {
		p.append(ip, "")
		return
	}
	switch ip.Protocol {
	case uint8(state.TCP):
		if len(b) >= 4 {
			ip.ports(b)
		}
		if len(b) < 14 {
			p.append(ip, truncated)
			return
		}
		ip.detail(tcpFlags(b[13]))
		p.append(ip, "")
	case uint8(state.UDP), uint8(state.SCTP):
		if len(b) < 8 {
			p.append(ip, truncated)
			return
		}
		ip.ports(b)
		if ip.Protocol == uint8(state.UDP) && ip.Dst.Port() == portGeneve {
			p.geneve(ip, b[8:])
			return
		}
		if ip.Protocol == uint8(state.SCTP) && len(b) > 12 {
			ip.detail(sctpChunk(b[12]))
		}
		p.append(ip, "")
	case protoICMP, protoICMPv6:
		p.icmp(ip, b)
	case protoIPIP:
		p.append(ip, "")
		p.ipv4(b)
	case protoIPv6:
		p.append(ip, "")
		p.ipv6(b)
	default:
		p.append(ip, "")
	}
}

func (p *Packet) geneve(ip IP, b []byte) {
	if len(b) < 8 {
		p.append(ip, truncated)
		return
	}
	options, inner := int(b[0]&0x3f)*4, binary.BigEndian.Uint16(b[2:])
	ip.detail(fmt.Sprintf("Geneve vni %d", binary.BigEndian.Uint32(b[4:])>>8))
	p.append(ip, "")
	b = b[min(8+options, len(b)):]
	switch inner {
	case 0x0800:
		p.ipv4(b)
	case 0x86dd:
		p.ipv6(b)
	case 0x6558: // an Ethernet frame
		if len(b) < 14 {
			p.Rest = truncated
			return
		}
		p.ethertype(binary.BigEndian.Uint16(b[12:]), b[14:])
	default:
		p.Rest = fmt.Sprintf("ethertype 0x%04x", inner)
	}
}

// icmp reads a message, and of an error what it is about.
func (p *Packet) icmp(ip IP, b []byte) {
	if len(b) < 8 {
		p.append(ip, truncated)
		return
	}
	names, quotes := icmpNames, b[0] == 3 || b[0] == 11 || b[0] == 12 // RFC 792
	if ip.Protocol == protoICMPv6 {
		names, quotes = icmpv6Names, b[0] < 128 // RFC 4443
	}
	name, ok := names[b[0]]
	if !ok {
		name = fmt.Sprintf("type %d", b[0])
	}
	switch {
	case ip.Protocol == protoICMP && b[0] == 3 && b[1] == 4:
		name = fmt.Sprintf("fragmentation needed, MTU %d", binary.BigEndian.Uint16(b[6:]))
	case ip.Protocol == protoICMPv6 && b[0] == 2:
		name = fmt.Sprintf("packet too big, MTU %d", binary.BigEndian.Uint32(b[4:]))
	case quotes:
		name += fmt.Sprintf(" code %d", b[1])
	}
	ip.detail(name)
	p.append(ip, "")
	if !quotes {
		return
	}
	if ip.Protocol == protoICMP {
		p.ipv4(b[8:])
	} else {
		p.ipv6(b[8:])
	}
}

var icmpNames = map[uint8]string{0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded", 12: "parameter problem"}

var icmpv6Names = map[uint8]string{1: "unreachable", 3: "time exceeded", 4: "parameter problem", 128: "echo request", 129: "echo reply",
	133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation", 136: "neighbour advertisement"}

// ports come first in TCP, UDP and SCTP alike.
func (ip *IP) ports(b []byte) {
	ip.Src = netip.AddrPortFrom(ip.Src.Addr(), binary.BigEndian.Uint16(b))
	ip.Dst = netip.AddrPortFrom(ip.Dst.Addr(), binary.BigEndian.Uint16(b[2:]))
}

func (ip *IP) detail(text string) {
	ip.Detail = strings.TrimSpace(ip.Detail + " " + text)
}

func (ip *IP) fragment(more bool, offset int, id uint32) {
	if more || offset > 0 {
		ip.detail(fmt.Sprintf("fragment %#x at %d", id, offset))
	}
}

func protocolName(p uint8) string {
	switch p {
	case uint8(state.TCP), uint8(state.UDP), uint8(state.SCTP):
		return state.Protocol(p).String()
	case protoICMP:
		return "ICMP"
	case protoICMPv6:
		return "ICMPv6"
	case protoIPIP, protoIPv6:
		return "IPIP"
	}
	return fmt.Sprintf("protocol %d", p)
}

// tcpFlags are the names of RFC 9293, section 3.1.
func tcpFlags(flags byte) string {
	var names []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"} {
		if flags&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// sctpChunk is the name of a packet's first chunk (RFC 9260, section 3.2).
func sctpChunk(kind byte) string {
	names := []string{"DATA", "INIT", "INIT ACK", "SACK", "HEARTBEAT", "HEARTBEAT ACK", "ABORT", "SHUTDOWN", "SHUTDOWN ACK", "ERROR",
		"COOKIE ECHO", "COOKIE ACK", "", "", "SHUTDOWN COMPLETE"}
	if int(kind) < len(names) && names[kind] != "" {
		return names[kind]
	}
	return fmt.Sprintf("chunk %d", kind)
}

// within is what is behind a header, to the packet's end or the capture's.
func within(b []byte, header, total int) []byte {
	b = b[:min(total, len(b))]
	return b[min(header, len(b)):]
}

func addr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

func addrPort(b []byte) netip.AddrPort { return netip.AddrPortFrom(addr(b), 0) }
