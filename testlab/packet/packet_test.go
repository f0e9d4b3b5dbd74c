package packet

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

var (
	a = netip.MustParseAddr("10.0.0.1")
	b = netip.MustParseAddr("10.0.0.2")

	a6 = netip.MustParseAddr("2001:db8::1")
	b6 = netip.MustParseAddr("2001:db8::2")
)

func sample() []Layer {
	return []Layer{
		Ethernet{Dst: ParseMAC("02:00:00:00:00:02"), Src: ParseMAC("02:00:00:00:00:01")},
		IPv4{Src: b, Dst: a},
		IPv4{Src: a, Dst: b, TTL: 7, Options: []byte{1, 1, 1}},
		TCP{SrcPort: 1024, DstPort: 80, Flags: SYN, Options: MSS(1460)},
		Payload("hello"),
	}
}

// A packet known from elsewhere: the IPv4 header that RFC 1071's users like to
// quote, with checksum 0xb861.
func TestKnownIPv4Header(t *testing.T) {
	got := Build(IPv4{
		Fragment: DontFragment, Length: new(uint16(115)), Protocol: new(uint8(ProtoUDP)),
		Src: netip.MustParseAddr("192.168.0.1"), Dst: netip.MustParseAddr("192.168.0.199"),
	})
	want, _ := hex.DecodeString("45000073000040004011b861c0a80001c0a800c7")
	if string(got) != string(want) {
		t.Errorf("header = %x, want %x", got, want)
	}
}

func TestBuildIsRight(t *testing.T) {
	for name, layers := range map[string][]Layer{
		"tcp":  sample(),
		"udp":  {Ethernet{}, IPv4{Src: a, Dst: b}, UDP{SrcPort: 53, DstPort: 1}, Payload("odd")},
		"icmp": {Ethernet{}, IPv4{Src: a, Dst: b}, ICMP{Type: EchoRequest, ID: 1, Seq: 2}, Payload("odd")},
		"sctp": {Ethernet{}, IPv4{Src: a, Dst: b}, SCTP{SrcPort: 1, DstPort: 2, Chunk: ChunkInit}, Payload("odd")},

		"tcp over ipv6":    {Ethernet{}, IPv6{Src: a6, Dst: b6}, TCP{SrcPort: 1024, DstPort: 80}, Payload("odd")},
		"icmpv6":           {Ethernet{}, IPv6{Src: a6, Dst: b6}, ICMP{Type: EchoRequest6}, Payload("odd")},
		"extension header": {Ethernet{}, IPv6{Src: a6, Dst: b6}, Extension{Kind: KindHopByHop}, Fragment6{ID: 7}, UDP{}, Payload("odd")},
		"tags":             {Ethernet{}, VLAN{TPID: TypeQinQ, TCI: 2}, VLAN{TCI: 3}, IPv6{Src: a6, Dst: b6}, UDP{}},
		"geneve":           {Ethernet{}, IPv4{Src: a, Dst: b}, UDP{DstPort: GenevePort}, Geneve{Options: make([]byte, 8)}, IPv6{Src: a6, Dst: b6}, TCP{}},
	} {
		text := String(Build(layers...))
		if last := map[bool]string{true: "tcp", false: "checksum"}[name == "geneve"]; !strings.Contains(text, last) {
			t.Errorf("%s is not seen through:\n%s", name, text)
		}
		if strings.Contains(text, "wrong") || strings.Contains(text, "malformed") || !strings.Contains(text, "checksum") {
			t.Errorf("%s is not right:\n%s", name, text)
		}
	}
}

func TestBuildWrong(t *testing.T) {
	text := String(Build(Ethernet{}, IPv4{Src: a, Dst: b, Checksum: new(uint16(1))}, UDP{Checksum: new(uint16(1))}))
	if strings.Count(text, "0x0001 wrong") != 2 {
		t.Errorf("checksums are not as given, or not told from right ones:\n%s", text)
	}
}

func TestDiff(t *testing.T) {
	want := Build(sample()...)
	if d := Diff(want, want); d != "" {
		t.Errorf("Diff of the same = %q", d)
	}
	layers := sample()
	ip := layers[2].(IPv4)
	ip.TTL--
	layers[2] = ip
	got := Diff(want, Build(layers...))
	for _, line := range []string{"- ip2.ttl          7\n", "+ ip2.ttl          6\n", "- ip2.checksum"} {
		if !strings.Contains(got, line) {
			t.Errorf("Diff has no %q:\n%s", line, got)
		}
	}
	if n := strings.Count(got, "\n"); n != 4 {
		t.Errorf("Diff has %d lines, want ttl and checksum of both:\n%s", n, got)
	}
}

// Any change of any byte shows, and so does any truncation.
func TestDiffMissesNothing(t *testing.T) {
	want := Build(sample()...)
	for i := range want {
		got := append([]byte{}, want...)
		got[i] ^= 0x40
		if Diff(want, got) == "" {
			t.Errorf("Diff misses a change at byte %d", i)
		}
		if Diff(want, want[:i]) == "" {
			t.Errorf("Diff misses the end at byte %d", i)
		}
	}
}

func FuzzDiff(f *testing.F) {
	f.Add(Build(sample()...), Build(Ethernet{}, ARP{Sender: a, Target: b}))
	f.Fuzz(func(t *testing.T, x, y []byte) {
		if (Diff(x, y) == "") != (string(x) == string(y)) {
			t.Errorf("Diff(%x, %x) = %q", x, y, Diff(x, y))
		}
	})
}
