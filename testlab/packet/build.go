// Package packet builds packets for tests, right ones and wrong ones, and says
// field by field how two packets differ.
//
// A packet is a list of layers, outermost first. What a layer does not say is
// filled in: lengths, checksums, types, the usual constants. Fields that are
// pointers are filled in when nil, and taken as they are when not, however
// wrong: packet.IPv4{Length: new(uint16(7))}.
package packet

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC [6]byte

// Broadcast is everyone's address.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ParseMAC parses an address such as "02:00:00:00:00:01". It panics when there
// is none: addresses in tests are constants.
func ParseMAC(s string) MAC {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		panic(fmt.Sprintf("parse MAC %q: %v", s, err))
	}
	return MAC(hw)
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Layer is a header with what it has to know of its neighbours to be right.
type Layer interface {
	// encode returns the header and the payload behind it. outer is the layer
	// before, inner the one behind; nil where there is none.
	encode(payload []byte, outer, inner Layer) []byte
}

// Build returns the packet's bytes.
func Build(layers ...Layer) []byte {
	at := func(i int) Layer {
		if i < 0 || i >= len(layers) {
			return nil
		}
		return layers[i]
	}
	var b []byte
	for i := len(layers) - 1; i >= 0; i-- {
		outer := i - 1
		for isExtension(at(outer)) { // the pseudo header is IP's
			outer--
		}
		b = layers[i].encode(b, at(outer), at(i+1))
	}
	return b
}

// Payload is bytes.
type Payload []byte

func (p Payload) encode(payload []byte, _, _ Layer) []byte {
	return append(append([]byte{}, p...), payload...)
}

// EtherTypes.
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeIPv6 = 0x86dd
	TypeVLAN = 0x8100
	TypeQinQ = 0x88a8
)

// Ethernet is an Ethernet II header.
type Ethernet struct {
	Dst, Src MAC
	Type     *uint16
}

func (e Ethernet) encode(payload []byte, _, inner Layer) []byte {
	b := append(e.Dst[:], e.Src[:]...)
	return append(binary.BigEndian.AppendUint16(b, or(e.Type, typeOf(inner))), payload...)
}

// typeOf is the EtherType of a layer.
func typeOf(l Layer) uint16 {
	switch l := l.(type) {
	case IPv4:
		return TypeIPv4
	case IPv6:
		return TypeIPv6
	case ARP:
		return TypeARP
	case VLAN:
		return max(l.TPID, TypeVLAN)
	}
	return 0
}

// VLAN is a tag (IEEE 802.1Q) behind the Ethernet header. Its own TPID is 0 for
// 802.1Q, or TypeQinQ.
type VLAN struct {
	TPID uint16
	TCI  uint16 // priority and VLAN
	Type *uint16
}

func (v VLAN) encode(payload []byte, _, inner Layer) []byte {
	b := binary.BigEndian.AppendUint16(nil, v.TCI)
	return append(binary.BigEndian.AppendUint16(b, or(v.Type, typeOf(inner))), payload...)
}

// ARP operations (RFC 826).
const (
	ARPRequest = 1
	ARPReply   = 2
)

// ARP is for IPv4 over Ethernet. Op 0 stands for a request.
type ARP struct {
	Op                   uint16
	SenderMAC, TargetMAC MAC
	Sender, Target       netip.Addr
	// Hardware and Protocol are 1 and TypeIPv4, their lengths 6 and 4, when nil.
	Hardware, Protocol   *uint16
	HardwareLen, AddrLen *uint8
}

func (a ARP) encode(payload []byte, _, _ Layer) []byte {
	b := binary.BigEndian.AppendUint16(nil, or(a.Hardware, 1))
	b = binary.BigEndian.AppendUint16(b, or(a.Protocol, TypeIPv4))
	b = append(b, or(a.HardwareLen, 6), or(a.AddrLen, 4))
	b = binary.BigEndian.AppendUint16(b, max(a.Op, ARPRequest))
	b = append(append(b, a.SenderMAC[:]...), addr4(a.Sender)...)
	b = append(append(b, a.TargetMAC[:]...), addr4(a.Target)...)
	return append(b, payload...)
}

// IP protocols.
const (
	ProtoICMP   = 1
	ProtoIPIP   = 4
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoIPv6   = 41
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
)

// protoOf is the protocol number of a layer behind an IP header of that version.
func protoOf(l Layer, version int) uint8 {
	switch l := l.(type) {
	case TCP:
		return ProtoTCP
	case UDP:
		return ProtoUDP
	case SCTP:
		return ProtoSCTP
	case ICMP:
		if version == 6 {
			return ProtoICMPv6
		}
		return ProtoICMP
	case ND:
		return ProtoICMPv6
	case IPv4:
		return ProtoIPIP
	case IPv6:
		return ProtoIPv6
	case Extension:
		return l.Kind
	case Fragment6:
		return KindFragment
	}
	return 0
}

// Bits of the IPv4 fragment field.
const (
	DontFragment  = 0x4000
	MoreFragments = 0x2000
)

// IPv4 is an IPv4 header. TTL 0 stands for 64; NoTTL means 0.
type IPv4 struct {
	TOS      uint8
	ID       uint16
	Fragment uint16 // flags and offset
	TTL      uint8
	NoTTL    bool
	Src, Dst netip.Addr
	// Options are padded with zeros to a multiple of 4.
	Options []byte

	Version, HeaderLen *uint8 // HeaderLen in words of 4 bytes
	Length, Checksum   *uint16
	Protocol           *uint8
}

func (ip IPv4) encode(payload []byte, _, inner Layer) []byte {
	ttl := ip.TTL
	if ttl == 0 && !ip.NoTTL {
		ttl = 64
	}
	options := pad(ip.Options)
	size := 20 + len(options)
	b := []byte{or(ip.Version, 4)<<4 | or(ip.HeaderLen, uint8(size/4))&15, ip.TOS}
	b = binary.BigEndian.AppendUint16(b, or(ip.Length, uint16(size+len(payload))))
	b = binary.BigEndian.AppendUint16(b, ip.ID)
	b = binary.BigEndian.AppendUint16(b, ip.Fragment)
	b = append(b, ttl, or(ip.Protocol, protoOf(inner, 4)), 0, 0)
	b = append(append(b, addr4(ip.Src)...), addr4(ip.Dst)...)
	b = append(b, options...)
	binary.BigEndian.PutUint16(b[10:], or(ip.Checksum, Checksum(b)))
	return append(b, payload...)
}

// Kinds of extension headers (RFC 8200, section 4).
const (
	KindHopByHop    = 0
	KindRouting     = 43
	KindFragment    = 44
	KindDestination = 60
)

// IPv6 is an IPv6 header. HopLimit 0 stands for 64; NoHops means 0.
type IPv6 struct {
	TrafficClass uint8
	FlowLabel    uint32
	HopLimit     uint8
	NoHops       bool
	Src, Dst     netip.Addr

	Version    *uint8
	Length     *uint16 // of what is behind the header
	NextHeader *uint8
}

func (ip IPv6) encode(payload []byte, _, inner Layer) []byte {
	hops := ip.HopLimit
	if hops == 0 && !ip.NoHops {
		hops = 64
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(or(ip.Version, 6))<<28|uint32(ip.TrafficClass)<<20|ip.FlowLabel&0xfffff)
	b = binary.BigEndian.AppendUint16(b, or(ip.Length, uint16(len(payload))))
	b = append(b, or(ip.NextHeader, protoOf(inner, 6)), hops)
	return append(append(append(b, addr6(ip.Src)...), addr6(ip.Dst)...), payload...)
}

// Extension is an extension header of IPv6: hop-by-hop or destination options, or
// routing. Body is what is behind its length, padded to a whole header.
type Extension struct {
	Kind       uint8
	Body       []byte
	Length     *uint8 // in units of 8 bytes beyond the first
	NextHeader *uint8
}

func (e Extension) encode(payload []byte, _, inner Layer) []byte {
	b := append([]byte{or(e.NextHeader, protoOf(inner, 6)), 0}, e.Body...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b[1] = or(e.Length, uint8(len(b)/8-1))
	return append(b, payload...)
}

// Fragment6 is the fragment header of IPv6. Offset has M in its lowest bit, as
// on the wire.
type Fragment6 struct {
	Offset     uint16
	ID         uint32
	NextHeader *uint8
}

func (f Fragment6) encode(payload []byte, _, inner Layer) []byte {
	b := []byte{or(f.NextHeader, protoOf(inner, 6)), 0}
	b = binary.BigEndian.AppendUint16(b, f.Offset)
	return append(binary.BigEndian.AppendUint32(b, f.ID), payload...)
}

func isExtension(l Layer) bool {
	switch l.(type) {
	case Extension, Fragment6:
		return true
	}
	return false
}

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// TCP is a TCP header. Flags 0 stands for ACK.
type TCP struct {
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	Flags            uint8
	Window           uint16
	// Options are padded with zeros to a multiple of 4.
	Options []byte

	DataOffset *uint8 // in words of 4 bytes
	Checksum   *uint16
}

// MSS is the TCP option of that name.
func MSS(bytes uint16) []byte { return binary.BigEndian.AppendUint16([]byte{2, 4}, bytes) }

func (t TCP) encode(payload []byte, outer, _ Layer) []byte {
	flags := t.Flags
	if flags == 0 {
		flags = ACK
	}
	options := pad(t.Options)
	b := ports(t.SrcPort, t.DstPort)
	b = binary.BigEndian.AppendUint32(b, t.Seq)
	b = binary.BigEndian.AppendUint32(b, t.Ack)
	b = append(b, or(t.DataOffset, uint8(5+len(options)/4))<<4, flags)
	b = binary.BigEndian.AppendUint16(b, t.Window)
	b = append(b, 0, 0, 0, 0)
	b = append(append(b, options...), payload...)
	binary.BigEndian.PutUint16(b[16:], or(t.Checksum, transportChecksum(outer, ProtoTCP, b)))
	return b
}

// UDP is a UDP header.
type UDP struct {
	SrcPort, DstPort uint16
	Length, Checksum *uint16
}

func (u UDP) encode(payload []byte, outer, _ Layer) []byte {
	b := ports(u.SrcPort, u.DstPort)
	b = binary.BigEndian.AppendUint16(b, or(u.Length, uint16(8+len(payload))))
	b = append(append(b, 0, 0), payload...)
	sum := transportChecksum(outer, ProtoUDP, b)
	if sum == 0 {
		sum = 0xffff // 0 says that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(b[6:], or(u.Checksum, sum))
	return b
}

// ICMP types, and those of ICMPv6.
const (
	EchoReply    = 0
	EchoRequest  = 8
	EchoRequest6 = 128
	EchoReply6   = 129
)

// ICMP is an ICMP echo header, or ICMPv6's behind an IPv6 header: types are as
// they are given. The zero Type is EchoReply. In other kinds, ID and Seq are the
// four bytes behind the checksum.
type ICMP struct {
	Type, Code uint8
	ID, Seq    uint16
	Checksum   *uint16
}

func (i ICMP) encode(payload []byte, outer, _ Layer) []byte {
	b := append([]byte{i.Type, i.Code, 0, 0}, ports(i.ID, i.Seq)...)
	b = append(b, payload...)
	sum := Checksum(b)
	if _, ok := outer.(IPv6); ok {
		sum = transportChecksum(outer, ProtoICMPv6, b)
	}
	binary.BigEndian.PutUint16(b[2:], or(i.Checksum, sum))
	return b
}

// Types of neighbour discovery (RFC 4861, section 4), and flags of an advertisement.
const (
	NDSolicitation  = 135
	NDAdvertisement = 136

	NDSolicited = 1 << 30
	NDOverride  = 1 << 29
)

// ND is a message of neighbour discovery. Type 0 stands for a solicitation.
type ND struct {
	Type, Code uint8
	Flags      uint32
	Target     netip.Addr
	Options    []byte
	Checksum   *uint16
}

// SourceMAC is the option with the link-layer address of who sends.
func SourceMAC(m MAC) []byte { return append([]byte{1, 1}, m[:]...) }

// TargetMAC is the option with that of the target.
func TargetMAC(m MAC) []byte { return append([]byte{2, 1}, m[:]...) }

func (n ND) encode(payload []byte, outer, _ Layer) []byte {
	kind := n.Type
	if kind == 0 {
		kind = NDSolicitation
	}
	b := binary.BigEndian.AppendUint32([]byte{kind, n.Code, 0, 0}, n.Flags)
	b = append(append(append(b, addr6(n.Target)...), n.Options...), payload...)
	binary.BigEndian.PutUint16(b[2:], or(n.Checksum, transportChecksum(outer, ProtoICMPv6, b)))
	return b
}

// SCTP chunk types.
const (
	ChunkData  = 0
	ChunkInit  = 1
	ChunkAbort = 6
)

// SCTP is an SCTP header with one chunk, of which the payload is the value.
type SCTP struct {
	SrcPort, DstPort uint16
	Tag              uint32
	Chunk, Flags     uint8
	Checksum         *uint32
}

func (s SCTP) encode(payload []byte, _, _ Layer) []byte {
	b := binary.BigEndian.AppendUint32(ports(s.SrcPort, s.DstPort), s.Tag)
	b = append(b, 0, 0, 0, 0, s.Chunk, s.Flags)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(payload)))
	b = pad(append(b, payload...))
	binary.LittleEndian.PutUint32(b[8:], or(s.Checksum, sctpChecksum(b)))
	return b
}

// sctpChecksum is the CRC32c of a packet whose checksum field is 0.
func sctpChecksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Geneve is a Geneve header (RFC 8926) behind UDP. Options are whole words.
type Geneve struct {
	Critical bool
	VNI      uint32
	Options  []byte
	Version  *uint8
	Type     *uint16
}

func (g Geneve) encode(payload []byte, _, inner Layer) []byte {
	var flags uint8
	if g.Critical {
		flags = 0x40
	}
	b := []byte{or(g.Version, 0)<<6 | uint8(len(g.Options)/4), flags}
	b = binary.BigEndian.AppendUint16(b, or(g.Type, typeOf(inner)))
	b = binary.BigEndian.AppendUint32(b, g.VNI<<8)
	return append(append(b, g.Options...), payload...)
}

// Checksum is the Internet checksum of b (RFC 1071).
func Checksum(b []byte) uint16 { return ^fold(sum(0, b)) }

func sum(s uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// transportChecksum is the checksum of segment with the pseudo header of the
// IP layer before; 0 when there is none.
func transportChecksum(outer Layer, proto uint8, segment []byte) uint16 {
	switch ip := outer.(type) {
	case IPv4:
		return pseudoChecksum(addr4(ip.Src), addr4(ip.Dst), proto, segment)
	case IPv6:
		return pseudoChecksum(addr6(ip.Src), addr6(ip.Dst), proto, segment)
	}
	return 0
}

func pseudoChecksum(src, dst []byte, proto uint8, segment []byte) uint16 {
	s := uint32(proto) + uint32(len(segment))
	return ^fold(sum(sum(sum(s, src), dst), segment))
}

func addr4(a netip.Addr) []byte {
	if !a.IsValid() {
		return make([]byte, 4)
	}
	b := a.As4()
	return b[:]
}

func addr6(a netip.Addr) []byte {
	if !a.IsValid() {
		return make([]byte, 16)
	}
	b := a.As16()
	return b[:]
}

func ports(src, dst uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, src), dst)
}

func pad(b []byte) []byte {
	b = append([]byte{}, b...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func or[T any](given *T, computed T) T {
	if given != nil {
		return *given
	}
	return computed
}
