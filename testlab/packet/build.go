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
		b = layers[i].encode(b, at(i-1), at(i+1))
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
)

// Ethernet is an Ethernet II header.
type Ethernet struct {
	Dst, Src MAC
	Type     *uint16
}

func (e Ethernet) encode(payload []byte, _, inner Layer) []byte {
	var t uint16
	switch inner.(type) {
	case IPv4:
		t = TypeIPv4
	case ARP:
		t = TypeARP
	}
	b := append(e.Dst[:], e.Src[:]...)
	return append(binary.BigEndian.AppendUint16(b, or(e.Type, t)), payload...)
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
	ProtoICMP = 1
	ProtoIPIP = 4
	ProtoTCP  = 6
	ProtoUDP  = 17
)

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
	var proto uint8
	switch inner.(type) {
	case TCP:
		proto = ProtoTCP
	case UDP:
		proto = ProtoUDP
	case ICMP:
		proto = ProtoICMP
	case IPv4:
		proto = ProtoIPIP
	}
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
	b = append(b, ttl, or(ip.Protocol, proto), 0, 0)
	b = append(append(b, addr4(ip.Src)...), addr4(ip.Dst)...)
	b = append(b, options...)
	binary.BigEndian.PutUint16(b[10:], or(ip.Checksum, Checksum(b)))
	return append(b, payload...)
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

// ICMP types.
const (
	EchoReply   = 0
	EchoRequest = 8
)

// ICMP is an ICMP echo header. The zero Type is EchoReply.
type ICMP struct {
	Type, Code uint8
	ID, Seq    uint16
	Checksum   *uint16
}

func (i ICMP) encode(payload []byte, _, _ Layer) []byte {
	b := append([]byte{i.Type, i.Code, 0, 0}, ports(i.ID, i.Seq)...)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[2:], or(i.Checksum, Checksum(b)))
	return b
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
// IPv4 layer before; 0 when there is none.
func transportChecksum(outer Layer, proto uint8, segment []byte) uint16 {
	ip, ok := outer.(IPv4)
	if !ok {
		return 0
	}
	return pseudoChecksum(addr4(ip.Src), addr4(ip.Dst), proto, segment)
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
