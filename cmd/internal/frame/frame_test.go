package frame

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/seamark-lb/seamark/state"
	"github.com/seamark-lb/seamark/testlab/packet"
)

var (
	eth     = packet.Ethernet{Src: packet.ParseMAC("02:00:00:00:00:c8"), Dst: packet.ParseMAC("02:00:00:00:00:64")}
	client  = netip.MustParseAddr("10.10.1.200")
	vip     = netip.MustParseAddr("192.168.10.211")
	node    = netip.MustParseAddr("192.168.10.100")
	pod     = netip.MustParseAddr("172.20.1.7")
	client6 = netip.MustParseAddr("2001:db8:1::200")
	vip6    = netip.MustParseAddr("2001:db8:10::211")

	request = []packet.Layer{packet.IPv4{Src: client, Dst: vip}, packet.TCP{SrcPort: 40000, DstPort: 80, Flags: packet.SYN}}
)

func under(outer ...packet.Layer) []byte { return packet.Build(append(outer, request...)...) }

func typed(t uint16) packet.Ethernet {
	e := eth
	e.Type = &t
	return e
}

// ipv6 is a frame of an IPv6 header with what is behind it.
func ipv6(next uint8, payload ...byte) []byte {
	b := packet.Build(typed(packet.TypeIPv6))
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = append(b, next, 64)
	b = append(b, client6.AsSlice()...)
	b = append(b, vip6.AsSlice()...)
	return append(b, payload...)
}

func geneve(inner uint16, options ...byte) []byte {
	b := []byte{byte(len(options) / 4), 0}
	b = binary.BigEndian.AppendUint16(b, inner)
	return append(append(b, 0, 0, 7, 0), options...)
}

func TestDecode(t *testing.T) {
	tcp6 := []byte{0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12, 0, 0, 0, 0, 0, 0}
	quoted := packet.Build(request...)
	for _, tc := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"TCP", under(eth), "10.10.1.200:40000 > 192.168.10.211:80 TCP SYN length 40"},
		{"UDP", packet.Build(eth, packet.IPv4{Src: client, Dst: vip}, packet.UDP{SrcPort: 5, DstPort: 53}, packet.Payload("hi")),
			"10.10.1.200:5 > 192.168.10.211:53 UDP length 30"},
		{"SCTP", packet.Build(eth, packet.IPv4{Src: client, Dst: vip, Protocol: ptr(uint8(132))}, packet.Payload{0, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1}),
			"10.10.1.200:5 > 192.168.10.211:9 SCTP INIT length 33"},
		{"options", packet.Build(eth, packet.IPv4{Src: client, Dst: vip, Options: []byte{1, 1, 1}}, packet.TCP{SrcPort: 1, DstPort: 2, Flags: packet.ACK | packet.FIN}),
			"10.10.1.200:1 > 192.168.10.211:2 TCP FIN,ACK length 44"},
		{"IPIP", under(eth, packet.IPv4{Src: node, Dst: pod}),
			"192.168.10.100 > 172.20.1.7 IPIP length 60 [10.10.1.200:40000 > 192.168.10.211:80 TCP SYN length 40]"},
		{"Geneve", under(eth, packet.IPv4{Src: node, Dst: pod}, packet.UDP{SrcPort: 50000, DstPort: 6081}, packet.Payload(geneve(0x0800, 1, 2, 3, 4))),
			"192.168.10.100:50000 > 172.20.1.7:6081 UDP Geneve vni 7 length 80 [10.10.1.200:40000 > 192.168.10.211:80 TCP SYN length 40]"},
		{"Geneve of Ethernet", under(eth, packet.IPv4{Src: node, Dst: pod}, packet.UDP{SrcPort: 50000, DstPort: 6081}, packet.Payload(geneve(0x6558)), eth),
			"192.168.10.100:50000 > 172.20.1.7:6081 UDP Geneve vni 7 length 90 [10.10.1.200:40000 > 192.168.10.211:80 TCP SYN length 40]"},
		{"ping", packet.Build(eth, packet.IPv4{Src: client, Dst: vip}, packet.ICMP{Type: 8}), "10.10.1.200 > 192.168.10.211 ICMP echo request length 28"},
		{"fragmentation needed", packet.Build(eth, packet.IPv4{Src: node, Dst: client}, packet.ICMP{Type: 3, Code: 4, Seq: 1480}, packet.Payload(quoted)),
			"192.168.10.100 > 10.10.1.200 ICMP fragmentation needed, MTU 1480 length 68 [10.10.1.200:40000 > 192.168.10.211:80 TCP SYN length 40]"},
		{"port unreachable", packet.Build(eth, packet.IPv4{Src: node, Dst: client}, packet.ICMP{Type: 3, Code: 3}, packet.Payload(quoted[:28])),
			"192.168.10.100 > 10.10.1.200 ICMP unreachable code 3 length 56 [10.10.1.200:40000 > 192.168.10.211:80 TCP length 40 (capture ends here)]"},
		{"first fragment", packet.Build(eth, packet.IPv4{Src: client, Dst: vip, ID: 9, Fragment: packet.MoreFragments}, packet.UDP{SrcPort: 5, DstPort: 53}),
			"10.10.1.200:5 > 192.168.10.211:53 UDP fragment 0x9 at 0 length 28"},
		{"later fragment", packet.Build(eth, packet.IPv4{Src: client, Dst: vip, ID: 9, Fragment: 3, Protocol: ptr(uint8(17))}, packet.Payload("12345678")),
			"10.10.1.200 > 192.168.10.211 UDP fragment 0x9 at 24 length 28"},
		{"VLAN", packet.Build(append([]packet.Layer{typed(0x8100), packet.Payload{0x20, 10, 8, 0}}, request...)...),
			"vlan 10 10.10.1.200:40000 > 192.168.10.211:80 TCP SYN length 40"},
		{"ARP request", packet.Build(eth, packet.ARP{Op: 1, SenderMAC: eth.Src, Sender: node, Target: vip}), "ARP who has 192.168.10.211, tell 192.168.10.100 (02:00:00:00:00:c8)"},
		{"ARP reply", packet.Build(eth, packet.ARP{Op: 2, SenderMAC: eth.Src, Sender: vip, Target: node}), "ARP 192.168.10.211 is at 02:00:00:00:00:c8"},
		{"TCP over IPv6", ipv6(6, tcp6...), "[2001:db8:1::200]:40000 > [2001:db8:10::211]:80 TCP SYN,ACK length 60"},
		{"IPv6 extension headers", ipv6(0, append([]byte{60, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0}, tcp6...)...),
			"[2001:db8:1::200]:40000 > [2001:db8:10::211]:80 TCP SYN,ACK length 76"},
		{"IPv6 first fragment", ipv6(44, append([]byte{6, 0, 0, 1, 0, 0, 0, 5}, tcp6...)...),
			"[2001:db8:1::200]:40000 > [2001:db8:10::211]:80 TCP fragment 0x5 at 0 SYN,ACK length 68"},
		{"IPv6 later fragment", ipv6(44, 6, 0, 0, 8, 0, 0, 0, 5, 1, 2, 3), "2001:db8:1::200 > 2001:db8:10::211 TCP fragment 0x5 at 8 length 51"},
		{"packet too big", ipv6(58, append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, ipv6(6, tcp6...)[14:]...)...),
			"2001:db8:1::200 > 2001:db8:10::211 ICMPv6 packet too big, MTU 1280 length 108 [[2001:db8:1::200]:40000 > [2001:db8:10::211]:80 TCP SYN,ACK length 60]"},
		{"another protocol", packet.Build(eth, packet.IPv4{Src: client, Dst: vip, Protocol: ptr(uint8(47))}, packet.Payload("1234")), "10.10.1.200 > 192.168.10.211 protocol 47 length 24"},
		{"another ethertype", packet.Build(typed(0x88cc), packet.Payload("lldp")), "02:00:00:00:00:c8 > 02:00:00:00:00:64 ethertype 0x88cc"},
		{"bad header length", packet.Build(eth, packet.IPv4{Src: client, Dst: vip, HeaderLen: ptr(uint8(2))}), "10.10.1.200 > 192.168.10.211 malformed length 20"},
		{"length beyond the capture", packet.Build(eth, packet.IPv4{Src: client, Dst: vip, Length: ptr(uint16(9000))}, packet.UDP{SrcPort: 1, DstPort: 2}),
			"10.10.1.200:1 > 192.168.10.211:2 UDP length 9000"},
		{"too deep", under(eth, packet.IPv4{Src: node, Dst: pod}, packet.IPv4{Src: node, Dst: pod}, packet.IPv4{Src: node, Dst: pod}, packet.IPv4{Src: node, Dst: pod}),
			"192.168.10.100 > 172.20.1.7 IPIP length 120 [192.168.10.100 > 172.20.1.7 IPIP length 100 [192.168.10.100 > 172.20.1.7 IPIP length 80 " +
				"[192.168.10.100 > 172.20.1.7 IPIP length 60 (more inside)]]]"},
		{"nothing", nil, "(capture ends here)"},
		{"half an IP header", under(eth)[:20], "02:00:00:00:00:c8 > 02:00:00:00:00:64 IPv4 (capture ends here)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Decode(tc.frame).String(); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestHas(t *testing.T) {
	p := Decode(under(eth, packet.IPv4{Src: node, Dst: pod}))
	for addr, want := range map[string]bool{"192.168.10.211:80": true, "10.10.1.200:40000": true, "192.168.10.211:81": false, "172.20.1.7:80": false} {
		if got := p.Has(netip.MustParseAddrPort(addr), state.TCP); got != want {
			t.Errorf("Has(%s) = %v", addr, got)
		}
	}
	if p.Has(netip.MustParseAddrPort("192.168.10.211:80"), state.UDP) {
		t.Error("has a TCP packet's addresses in UDP")
	}
}

// Whatever a frame holds and wherever the capture ends, it is read: in bounded
// depth, and a shorter capture says nothing that the longer one does not.
func FuzzDecode(f *testing.F) {
	f.Add(under(eth))
	f.Add(under(eth, packet.IPv4{Src: node, Dst: pod}, packet.UDP{SrcPort: 50000, DstPort: 6081}, packet.Payload(geneve(0x0800))))
	f.Add(ipv6(0, 44, 255, 0, 0, 0, 0, 0, 0))
	f.Add(ipv6(58, append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, ipv6(6)[14:]...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := Decode(b)
		if len(whole.IP) > maxDepth {
			t.Fatalf("%d packets in one another", len(whole.IP))
		}
		for end := range b {
			part := Decode(b[:end:end])
			if len(part.IP) > len(whole.IP) {
				t.Fatalf("the first %d bytes have %d IP packets, all of them have %d", end, len(part.IP), len(whole.IP))
			}
			for i, ip := range part.IP {
				if ip.Length != whole.IP[i].Length || ip.Src.Addr() != whole.IP[i].Src.Addr() {
					t.Fatalf("the first %d bytes say %v, all of them %v", end, ip, whole.IP[i])
				}
			}
			if !slices.Equal(part.VLANs, whole.VLANs[:len(part.VLANs)]) {
				t.Fatalf("VLANs %v of %v", part.VLANs, whole.VLANs)
			}
		}
	})
}

func ptr[T any](v T) *T { return &v }
