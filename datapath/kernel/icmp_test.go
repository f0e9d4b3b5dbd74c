package kernel

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/seamark-lb/seamark/testlab/packet"
	"golang.org/x/sys/unix"
)

// answers is a node of one family whose VIP refuses what it does not serve.
type answers struct {
	*node
	v6                  bool
	vip, client, router netip.Addr
	pod                 netip.Addr // local
}

// eachAnswers runs a test for IPv4 and IPv6, on one node for both, with packets
// balanced in XDP and in tc.
func eachAnswers(t *testing.T, test func(a answers)) {
	atEachHook(t, func(n *node) { answersOf(n, test) })
}

func answersOf(n *node, test func(a answers)) {
	n.put("frontends", bpfFrontendKey{Addr: be32(vip)}, refusing)
	n.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(portEmpty), Proto: packet.ProtoTCP}, bpfFrontend{Set: 7, Flags: refusing.Flags})
	six := answers{node: n, v6: true, vip: netip.MustParseAddr("2001:db8:10::d3"), client: netip.MustParseAddr("2001:db8:99::c8"),
		router: netip.MustParseAddr("2001:db8:10::1"), pod: netip.MustParseAddr("2001:db8:20::5")}
	n.put("frontends6", bpfFrontendKey6{Addr: be128(six.vip)}, refusing)
	n.put("frontends6", bpfFrontendKey6{Addr: be128(six.vip), Port: be16(portEmpty), Proto: packet.ProtoTCP}, bpfFrontend{Set: 7, Flags: refusing.Flags})
	for _, a := range []answers{{node: n, vip: vip, client: client, router: router, pod: localPod}, six} {
		name := "IPv4"
		if a.v6 {
			name = "IPv6"
		}
		n.sub(name, func(n *node) {
			a.node = n
			test(a)
		})
	}
}

var refusing = bpfFrontend{Flags: uint32(bpfFrontendFlagsFRONTEND_VIP | bpfFrontendFlagsFRONTEND_REFUSE)}

func be128(a netip.Addr) (words [4]uint32) {
	b := a.As16()
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return words
}

// ip is a header of the family; the TTL is the hop limit.
func (a answers) ip(src, dst netip.Addr, ttl, tos uint8) packet.Layer {
	if a.v6 {
		return packet.IPv6{HopLimit: ttl, TrafficClass: tos, Src: src, Dst: dst}
	}
	return packet.IPv4{TTL: ttl, TOS: tos, Src: src, Dst: dst}
}

// ask is a client's packet to the VIP.
func (a answers) ask(l4 ...packet.Layer) []byte {
	return packet.Build(append([]packet.Layer{fromRouter, a.ip(a.client, a.vip, 63, 0)}, l4...)...)
}

// answer is the VIP's.
func (a answers) answer(tos uint8, l4 ...packet.Layer) []byte {
	header := a.ip(a.vip, a.client, 64, tos)
	if ip, ok := header.(packet.IPv4); ok {
		ip.Fragment = packet.DontFragment
		header = ip
	}
	return packet.Build(append([]packet.Layer{packet.Ethernet{Dst: routerMAC, Src: nodeMAC}, header}, l4...)...)
}

// pick returns what is for the family.
func pick[T any](a answers, v4, v6 T) T {
	if a.v6 {
		return v6
	}
	return v4
}

// fault is the error that the VIP answers a frame with: the quote is as long as
// may be.
func (a answers) fault(kind uint16, rest uint32, frame []byte) []byte {
	quote := frame[14:]
	quote = quote[:min(len(quote), pick(a, 576-28, 1280-48))]
	return a.answer(0xc0, packet.ICMP{Type: uint8(kind >> 8), Code: uint8(kind), ID: uint16(rest >> 16), Seq: uint16(rest)}, packet.Payload(quote))
}

func (a answers) refillQuota() {
	a.t.Helper()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		a.t.Fatal(err)
	}
	for of := range a.maps["quotas"].MaxEntries() {
		a.put("quotas", of, make([]bpfQuota, cpus))
	}
}

type row struct {
	in     []byte
	action uint32
	reason string
	out    []byte
}

func (a answers) rows(rows map[string]row) {
	for name, row := range rows {
		a.sub(name, func(n *node) {
			a := a
			a.node = n
			a.refillQuota()
			n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out)
		})
	}
}

func TestEcho(t *testing.T) {
	eachAnswers(t, func(a answers) {
		request, reply := pick(a, uint8(packet.EchoRequest), uint8(packet.EchoRequest6)), pick(a, uint8(packet.EchoReply), uint8(packet.EchoReply6))
		back := func(l ...packet.Layer) []byte {
			return packet.Build(append([]packet.Layer{packet.Ethernet{Dst: routerMAC, Src: nodeMAC}, a.ip(a.vip, a.client, 64, 0)}, l...)...)
		}
		ping := packet.ICMP{Type: request, ID: 7, Seq: 1}
		pong := packet.ICMP{Type: reply, ID: 7, Seq: 1}
		rows := map[string]row{
			"ping":         {a.ask(ping, packet.Payload("odd")), xdpTX, "icmp_echo_reply", back(pong, packet.Payload("odd"))},
			"empty":        {a.ask(ping), xdpTX, "icmp_echo_reply", back(pong)},
			"a reply":      {a.ask(pong), xdpDrop, "unserved_proto", nil},
			"of a code":    {a.ask(packet.ICMP{Type: request, Code: 1}), xdpDrop, "unserved_proto", nil},
			"cut off":      {a.ask(packet.Payload{request, 0, 0, 0}), xdpDrop, pick(a, "unserved_proto", "unserved_proto"), nil},
			"other family": {a.ask(packet.Payload{}), xdpDrop, "unserved_proto", nil},
		}
		if a.v6 {
			options := packet.Extension{Kind: packet.KindDestination}
			rows["behind options"] = row{a.ask(options, ping), xdpTX, "icmp_echo_reply", back(options, pong)}
			first := packet.Fragment6{Offset: 1, ID: 5}
			rows["in pieces"] = row{a.ask(first, ping), xdpDrop, "fragment", nil}
			rows["a later piece"] = row{a.ask(packet.Fragment6{Offset: 8, NextHeader: new(uint8(packet.ProtoICMPv6))}, packet.Payload("12345678")), xdpDrop, "fragment", nil}
			delete(rows, "other family")
		} else {
			piece := func(fragment uint16) []byte {
				return packet.Build(fromRouter, packet.IPv4{Src: a.client, Dst: a.vip, Fragment: fragment}, ping)
			}
			rows["in pieces"] = row{piece(packet.MoreFragments), xdpDrop, "fragment", nil}
			rows["a later piece"] = row{piece(1), xdpDrop, "fragment", nil}
		}
		a.rows(rows)
	})
}

func TestRefuse(t *testing.T) {
	eachAnswers(t, func(a answers) {
		tcp := func(flags uint8, port uint16) packet.TCP {
			return packet.TCP{SrcPort: 1025, DstPort: port, Seq: 0xfffffffe, Ack: 77, Flags: flags}
		}
		closed := tcp(packet.SYN, portUnserved)
		withOptions := closed
		withOptions.Options = packet.MSS(1460)
		sctp := packet.SCTP{SrcPort: 1025, DstPort: portUnserved, Tag: 0x01020304}
		chunk := func(kind uint8) packet.SCTP { s := sctp; s.Chunk = kind; return s }
		aborted := func(tag uint32, kind, flags uint8) []byte {
			return a.answer(0, packet.SCTP{SrcPort: portUnserved, DstPort: 1025, Tag: tag, Chunk: kind, Flags: flags})
		}
		reset := func(port uint16, flags uint8, seq, ack uint32) []byte {
			return a.answer(0, packet.TCP{SrcPort: port, DstPort: 1025, Seq: seq, Ack: ack, Flags: flags})
		}
		from := func(src string, l4 ...packet.Layer) []byte {
			return packet.Build(append([]packet.Layer{fromRouter, a.ip(netip.MustParseAddr(src), a.vip, 63, 0)}, l4...)...)
		}
		udp := packet.UDP{SrcPort: 1025, DstPort: portUnserved}
		question := a.ask(udp, packet.Payload("odd"))
		unreachable := pick(a, uint16(0x0303), uint16(0x0104))

		rows := map[string]row{
			"syn":              {a.ask(closed), xdpTX, "refused", reset(portUnserved, packet.RST|packet.ACK, 0, 0xffffffff)},
			"syn with options": {a.ask(withOptions), xdpTX, "refused", reset(portUnserved, packet.RST|packet.ACK, 0, 0xffffffff)},
			"syn with data":    {a.ask(closed, packet.Payload("12345")), xdpTX, "refused", reset(portUnserved, packet.RST|packet.ACK, 0, 4)},
			"fin":              {a.ask(tcp(packet.FIN, portUnserved), packet.Payload("12345")), xdpTX, "refused", reset(portUnserved, packet.RST|packet.ACK, 0, 4)},
			"neither":          {a.ask(tcp(packet.PSH, portUnserved), packet.Payload("12345")), xdpTX, "refused", reset(portUnserved, packet.RST|packet.ACK, 0, 3)},
			"syn and fin":      {a.ask(tcp(packet.SYN|packet.FIN, portUnserved)), xdpTX, "refused", reset(portUnserved, packet.RST|packet.ACK, 0, 0)},
			"ack":              {a.ask(tcp(packet.ACK, portUnserved), packet.Payload("12345")), xdpTX, "refused", reset(portUnserved, packet.RST, 77, 0)},
			"syn and ack":      {a.ask(tcp(packet.SYN|packet.ACK, portUnserved)), xdpTX, "refused", reset(portUnserved, packet.RST, 77, 0)},
			"rst":              {a.ask(tcp(packet.RST, portUnserved)), xdpDrop, "unserved_port", nil},
			"rst and ack":      {a.ask(tcp(packet.RST|packet.ACK, portUnserved)), xdpDrop, "unserved_port", nil},
			"no backend":       {a.ask(tcp(packet.SYN, portEmpty)), xdpTX, "refused", reset(portEmpty, packet.RST|packet.ACK, 0, 0xffffffff)},
			"rst, no backend":  {a.ask(tcp(packet.RST, portEmpty)), xdpDrop, "no_backend", nil},
			"data offset":      {a.ask(packet.TCP{DstPort: portUnserved, DataOffset: new(uint8(15))}), xdpDrop, "bad_header", nil},

			"udp":         {question, xdpTX, "refused", a.fault(unreachable, 0, question)},
			"udp, padded": {append(slices.Clone(question), 1, 2, 3), xdpTX, "refused", a.fault(unreachable, 0, question)},

			"sctp init":              {a.ask(chunk(packet.ChunkInit), packet.Payload{9, 8, 7, 6, 0, 0, 0, 0}), xdpTX, "refused", aborted(0x09080706, packet.ChunkAbort, 0)},
			"sctp data":              {a.ask(chunk(packet.ChunkData), packet.Payload("data")), xdpTX, "refused", aborted(0x01020304, packet.ChunkAbort, 1)},
			"sctp shutdown ack":      {a.ask(chunk(8), packet.Payload("data")), xdpTX, "refused", aborted(0x01020304, 14, 1)},
			"sctp abort":             {a.ask(chunk(packet.ChunkAbort), packet.Payload("data")), xdpDrop, "unserved_port", nil},
			"sctp shutdown complete": {a.ask(chunk(14), packet.Payload("data")), xdpDrop, "unserved_port", nil},
			"sctp cookie ack":        {a.ask(chunk(11), packet.Payload("data")), xdpDrop, "unserved_port", nil},
			"sctp error":             {a.ask(chunk(9), packet.Payload("data")), xdpDrop, "unserved_port", nil},
			"sctp, short":            {a.ask(chunk(packet.ChunkInit)), xdpDrop, "unserved_port", nil},

			"flooded": {packet.Build(packet.Ethernet{Dst: otherMAC, Src: routerMAC}, a.ip(a.client, a.vip, 63, 0), closed), xdpPass, "not_ours", nil},
		}
		for _, src := range pick(a, []string{"224.0.0.1", "255.255.255.255", "240.0.0.1", "0.0.0.0", "0.1.2.3", "127.0.0.1", a.vip.String()},
			[]string{"ff02::1", "::", "::1", a.vip.String()}) {
			rows["tcp from "+src] = row{from(src, closed), xdpDrop, "unserved_port", nil}
			rows["udp from "+src] = row{from(src, udp), xdpDrop, "unserved_port", nil}
			rows["sctp from "+src] = row{from(src, chunk(packet.ChunkInit), packet.Payload("12345678")), xdpDrop, "unserved_port", nil}
		}
		if a.v6 {
			options := packet.Extension{Kind: packet.KindHopByHop, Body: make([]byte, 14)}
			rows["options"] = row{a.ask(options, closed), xdpTX, "refused", reset(portUnserved, packet.RST|packet.ACK, 0, 0xffffffff)}
		} else {
			options := func(l4 ...packet.Layer) []byte {
				return packet.Build(append([]packet.Layer{fromRouter, packet.IPv4{TTL: 63, Src: a.client, Dst: a.vip, Options: make([]byte, 40)}}, l4...)...)
			}
			rows["options"] = row{options(closed), xdpTX, "refused", reset(portUnserved, packet.RST|packet.ACK, 0, 0xffffffff)}
			rows["udp, options"] = row{options(udp), xdpTX, "refused", a.fault(unreachable, 0, options(udp))}
		}
		a.rows(rows)
		a.sub("udp of every length", func(n *node) { // the sum goes over the quote in pieces
			a := a
			a.node = n
			for _, size := range []int{0, 1, 2, 3, 227, 228, 229, 484, 485, 519, 520, 521, 1100, 1183, 1184, 1185, 1400} {
				data := make(packet.Payload, size)
				for i := range data {
					data[i] = byte(i*7 + size)
				}
				a.refillQuota()
				in := a.ask(udp, data)
				n.expect(kindXDP, n.out, in, xdpTX, "refused", a.fault(unreachable, 0, in))
			}
		})
		a.sub("by the flag alone", func(n *node) {
			for name, key := range map[string]any{"frontends": bpfFrontendKey{Addr: be32(vip)}, "frontends6": bpfFrontendKey6{Addr: be128(a.vip)}} {
				n.put(name, key, bpfFrontend{Flags: uint32(bpfFrontendFlagsFRONTEND_VIP)})
				defer n.put(name, key, refusing)
			}
			n.expect(kindXDP, n.out, a.ask(closed), xdpDrop, "unserved_port", nil)
			n.expect(kindXDP, n.out, question, xdpDrop, "unserved_port", nil)
		})
	})
}

// What is answered is bounded, and what is not answered is counted for what it is.
func TestQuota(t *testing.T) {
	eachAnswers(t, func(a answers) {
		question := a.ask(packet.UDP{SrcPort: 1025, DstPort: portUnserved})
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			a.t.Fatal(err)
		}
		window := func() uint32 {
			var ts unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
				a.t.Fatal(err)
			}
			return uint32(ts.Nano() >> 27)
		}
		const allowed = 1000 / 8
		// Until the window is the same before and after, the answer may be of the next.
		for deadline := time.Now().Add(10 * time.Second); ; {
			quotas := make([]bpfQuota, cpus)
			now := window()
			for i := range quotas {
				quotas[i] = bpfQuota{Window: now, Sent: allowed - 1}
			}
			a.put("quotas", uint32(0), quotas)
			options := runOptions(a.node, question)
			one, err := a.program(kindXDP).Run(options)
			if err != nil {
				a.t.Fatal(err)
			}
			if err := a.maps["quotas"].Lookup(uint32(0), &quotas); err != nil {
				a.t.Fatal(err)
			}
			for i := range quotas {
				quotas[i].Sent = allowed
			}
			a.put("quotas", uint32(0), quotas)
			r := a.run(kindXDP, a.out, question)
			if window() != now {
				if time.Now().After(deadline) {
					a.t.Fatal("no two packets fell in one window")
				}
				continue
			}
			if one != xdpTX {
				a.t.Errorf("the last of the quota is not answered: action %d", one)
			}
			if r.action != xdpDrop || r.reason != "unserved_port" {
				a.t.Errorf("beyond the quota: action %d for %q", r.action, r.reason)
			}
			break
		}
		// A window of long ago counts no more.
		old := make([]bpfQuota, cpus)
		for i := range old {
			old[i] = bpfQuota{Window: 1, Sent: 1 << 30}
		}
		a.put("quotas", uint32(0), old)
		a.expect(kindXDP, a.out, question, xdpTX, "refused", a.fault(pick(a, uint16(0x0303), uint16(0x0104)), 0, question))
	})
}

func TestTooBig(t *testing.T) { atEachHook(t, tooBig) }

func tooBig(n *node) {
	a := answers{node: n, vip: vip, client: client}
	const mtu = 1480 // the device's less the outer header
	tcp := packet.TCP{SrcPort: 1025, DstPort: portRemote}
	big := func(ip packet.IPv4, port uint16, size int) []byte {
		ip.TTL, ip.TOS, ip.Src, ip.Dst = 63, 0xb9, client, vip
		tcp := tcp
		tcp.DstPort = port
		return packet.Build(fromRouter, ip, tcp, make(packet.Payload, size))
	}
	df := packet.IPv4{Fragment: packet.DontFragment}
	answered := func(in []byte) row { return row{in, xdpTX, "icmp_too_big", a.fault(0x0304, mtu, in)} }
	rows := map[string]row{
		"just too big":      answered(big(df, portRemote, 1441)),
		"larger":            answered(big(df, portRemote, 1460)),
		"without df":        answered(big(packet.IPv4{}, portRemote, 1441)),
		"options":           answered(big(packet.IPv4{Options: make([]byte, 40)}, portRemote, 1420)),
		"on another device": answered(big(df, portElsewhere, 1441)),
		"a first fragment":  answered(big(packet.IPv4{Fragment: packet.MoreFragments}, portRemote, 1460)),
		"from everyone":     {packet.Build(fromRouter, packet.IPv4{Src: netip.MustParseAddr("255.255.255.255"), Dst: vip}, tcp, make(packet.Payload, 1441)), xdpDrop, "too_big", nil},
		"that just fits":    {big(df, portRemote, 1440), xdpTX, "forward_remote", inIPIP(packet.Ethernet{Dst: otherMAC, Src: nodeMAC}, remotePod, []packet.Layer{nil, packet.IPv4{TTL: 63, TOS: 0xb9, Src: client, Dst: vip, Fragment: packet.DontFragment}, tcp, make(packet.Payload, 1440)})},
	}
	a.rows(rows)
	a.sub("a later fragment", func(n *node) {
		a.refillQuota()
		first := big(packet.IPv4{Fragment: packet.MoreFragments, ID: 9}, portRemote, 1000)
		if r := n.run(kindXDP, n.out, first); r.action != xdpTX {
			n.t.Fatalf("first fragment: action %d for %s", r.action, r.reason)
		}
		later := packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip, ID: 9, Fragment: 200, Protocol: new(uint8(packet.ProtoTCP))}, make(packet.Payload, 1470))
		n.expect(kindXDP, n.out, later, xdpDrop, "too_big", nil)
	})
}

// An ICMP error about a flow of the VIP, as routers send it: about what the
// backend answered.
func TestICMPErrors(t *testing.T) {
	eachAnswers(t, func(a answers) {
		n := a.node
		clientPort := uint16(1025)
		// The VIP's ports are node ports, too, and those of a ClusterIP.
		nodePort := pick(a, nodeAddr, netip.MustParseAddr("2001:db8:10::64"))
		clusterIP := pick(a, families[0].clusterIP, families[1].clusterIP)
		for _, l4 := range []struct {
			proto     uint8
			port, pod uint16
			set       uint32
		}{{packet.ProtoTCP, portLocal, 8080, 1}, {packet.ProtoUDP, 53, 5353, 2}, {packet.ProtoSCTP, 36, 3636, 9}} {
			if a.v6 {
				n.put("backends6", l4.set, bpfBackend6{Addr: be128(a.pod), Port: be16(l4.pod), Flags: uint8(bpfBackendFlagsBACKEND_LOCAL)})
				n.put("frontends6", bpfFrontendKey6{Addr: be128(a.vip), Port: be16(l4.port), Proto: l4.proto}, bpfFrontend{Set: l4.set})
				n.put("local_targets6", bpfLocalKey6{Vip: be128(a.vip), Pod: be128(a.pod), Port: be16(l4.port), Proto: l4.proto}, bpfLocalTarget{Port: be16(l4.pod)})
				n.put("flows6", bpfFlowKey6{Pod: be128(a.pod), Client: be128(a.client), PodPort: be16(l4.pod), ClientPort: be16(clientPort), Proto: l4.proto}, bpfFlow6{})
			} else {
				n.put("backends", l4.set, bpfBackend{Addr: be32(a.pod), Port: be16(l4.pod), Flags: uint8(bpfBackendFlagsBACKEND_LOCAL)})
				n.put("frontends", bpfFrontendKey{Addr: be32(a.vip), Port: be16(l4.port), Proto: l4.proto}, bpfFrontend{Set: l4.set})
				n.put("local_targets", bpfLocalKey{Vip: be32(a.vip), Pod: be32(a.pod), Port: be16(l4.port), Proto: l4.proto}, bpfLocalTarget{Port: be16(l4.pod)})
				n.put("flows", bpfFlowKey{Pod: be32(a.pod), Client: be32(a.client), PodPort: be16(l4.pod), ClientPort: be16(clientPort), Proto: l4.proto}, bpfFlow{})
			}
			n.table(l4.set, 0, []uint32{l4.set})
			f := families[pick(a, 0, 1)]
			n.putFrontend(f, nodePort, l4.port, l4.proto, bpfFrontend{Set: l4.set})
			n.putTarget(f, nodePort, a.pod, l4.port, l4.proto, l4.pod)
			n.putFrontend(f, clusterIP, l4.port, l4.proto, bpfFrontend{Inside: l4.set, Flags: uint32(bpfFrontendFlagsFRONTEND_INSIDE)})
		}
		// l4 of what the backend sent, from the VIP's port or its own.
		tcp := func(port uint16) packet.Layer { return packet.TCP{SrcPort: port, DstPort: clientPort, Seq: 5, Ack: 6} }
		udp := func(port uint16) packet.Layer { return packet.UDP{SrcPort: port, DstPort: clientPort} }
		nosum := func(port uint16) packet.Layer {
			return packet.UDP{SrcPort: port, DstPort: clientPort, Checksum: new(uint16(0))}
		}
		// Of SCTP the quote's checksum stays as it is.
		sctp := func(port uint16) packet.Layer {
			return packet.SCTP{SrcPort: port, DstPort: clientPort, Tag: 1, Checksum: new(uint32(0x5eed))}
		}
		kind := pick(a, uint16(0x0304), uint16(0x0200))
		// fault is an error to someone about his packet, of which at most keep bytes behind IP are quoted.
		fault := func(kind uint16, to netip.Addr, keep int, quoted ...packet.Layer) []byte {
			quote := packet.Build(quoted...)
			quote = quote[:min(len(quote), pick(a, 20, 40)+keep)]
			return packet.Build(fromRouter, a.ip(a.router, to, 63, 0),
				packet.ICMP{Type: uint8(kind >> 8), Code: uint8(kind), Seq: 1400}, packet.Payload(quote))
		}
		sent := func(src netip.Addr, l4 packet.Layer) []packet.Layer {
			return []packet.Layer{a.ip(src, a.client, 60, 0), l4, packet.Payload("the data that was sent")}
		}
		rows := map[string]row{}
		for name, l4 := range map[string]struct {
			layer     func(uint16) packet.Layer
			port, pod uint16
		}{"tcp": {tcp, portLocal, 8080}, "udp": {udp, 53, 5353}, "udp, no checksum": {nosum, 53, 5353}, "sctp": {sctp, 36, 3636}} {
			for _, keep := range []int{8, 12, 16, 18, 1000} {
				rows[fmt.Sprintf("%s, %d bytes", name, keep)] = row{
					fault(kind, a.vip, keep, sent(a.vip, l4.layer(l4.port))...), xdpPass, "icmp_forwarded",
					fault(kind, a.pod, keep, sent(a.pod, l4.layer(l4.pod))...)}
			}
		}
		pass := func(name string, in []byte) { rows[name] = row{in, xdpPass, "not_ours", nil} }
		for name, l4 := range map[string]struct {
			layer     func(uint16) packet.Layer
			port, pod uint16
		}{"tcp": {tcp, portLocal, 8080}, "udp": {udp, 53, 5353}, "sctp": {sctp, 36, 3636}} {
			rows["node port, "+name] = row{
				fault(kind, nodePort, 1000, sent(nodePort, l4.layer(l4.port))...), xdpPass, "icmp_forwarded",
				fault(kind, a.pod, 1000, sent(a.pod, l4.layer(l4.pod))...)}
			pass("cluster ip, "+name, fault(kind, clusterIP, 1000, sent(clusterIP, l4.layer(l4.port))...))
		}
		rows["node port, another flow"] = row{fault(kind, nodePort, 8, sent(nodePort, packet.TCP{SrcPort: portLocal, DstPort: 9})...), xdpDrop, "icmp_unknown", nil}
		pass("the node's own", fault(kind, nodePort, 8, sent(nodePort, tcp(portUnserved))...))
		pass("of another's, to the node", fault(kind, nodePort, 8, sent(a.vip, tcp(portLocal))...))
		for _, kind := range pick(a, []uint16{0x0300, 0x0303, 0x030d, 0x0b00, 0x0c00}, []uint16{0x0104, 0x0300, 0x0401}) {
			rows[fmt.Sprintf("kind %04x", kind)] = row{fault(kind, a.vip, 8, sent(a.vip, tcp(portLocal))...), xdpPass, "icmp_forwarded", fault(kind, a.pod, 8, sent(a.pod, tcp(8080))...)}
		}
		for _, kind := range pick(a, []uint16{0x0400, 0x0500, 0x0d00}, []uint16{0x0000, 0x0500, 0x8600}) {
			rows[fmt.Sprintf("kind %04x", kind)] = row{fault(kind, a.vip, 8, sent(a.vip, tcp(portLocal))...), xdpDrop, "unserved_proto", nil}
		}
		drop := func(name, reason string, in []byte) { rows[name] = row{in, xdpDrop, reason, nil} }
		quoting := func(b []byte) []byte {
			return packet.Build(fromRouter, a.ip(a.router, a.vip, 63, 0), packet.ICMP{Type: uint8(kind >> 8), Code: uint8(kind)}, packet.Payload(b))
		}
		whole := packet.Build(sent(a.vip, tcp(portLocal))...)
		for _, size := range []int{0, 1, pick(a, 19, 39), pick(a, 20, 40), pick(a, 27, 47)} {
			drop(fmt.Sprintf("%d bytes of quote", size), "truncated", quoting(whole[:size]))
		}
		changed := func(at int, to byte) []byte { b := slices.Clone(whole); b[at] = to; return quoting(b) }
		drop("of another version", "bad_header", changed(0, pick(a, byte(0x65), byte(0x40))))
		drop("of another's packet", "icmp_unknown", fault(kind, a.vip, 8, sent(a.router, tcp(portLocal))...))
		drop("of another flow", "icmp_unknown", fault(kind, a.vip, 8, sent(a.vip, packet.TCP{SrcPort: portLocal, DstPort: 9})...))
		drop("of an unserved port", "icmp_unknown", fault(kind, a.vip, 8, sent(a.vip, tcp(portUnserved))...))
		drop("of no backend", "icmp_unknown", fault(kind, a.vip, 8, sent(a.vip, tcp(portEmpty))...))
		drop("of another protocol", "icmp_unknown", changed(pick(a, 9, 6), 47))
		drop("of an error", "icmp_unknown", changed(pick(a, 9, 6), pick(a, byte(1), byte(58))))
		if a.v6 {
			piece := func(src netip.Addr, offset, port uint16) []packet.Layer {
				return []packet.Layer{a.ip(src, a.client, 60, 0), packet.Fragment6{Offset: offset, ID: 4}, tcp(port), packet.Payload("data")}
			}
			rows["of a first fragment"] = row{fault(kind, a.vip, 1000, piece(a.vip, 1, portLocal)...), xdpPass, "icmp_forwarded", fault(kind, a.pod, 1000, piece(a.pod, 1, 8080)...)}
			drop("of a later fragment", "icmp_unknown", fault(kind, a.vip, 1000, piece(a.vip, 8, portLocal)...))
			drop("fragment header cut off", "truncated", fault(kind, a.vip, 7, piece(a.vip, 1, portLocal)...))
			drop("behind it nothing", "truncated", fault(kind, a.vip, 15, piece(a.vip, 1, portLocal)...))
		} else {
			ip := func(src netip.Addr, ip packet.IPv4, port uint16) []packet.Layer {
				ip.Src, ip.Dst = src, a.client
				return []packet.Layer{ip, tcp(port), packet.Payload("data")}
			}
			first, options := packet.IPv4{Fragment: packet.MoreFragments}, packet.IPv4{Options: make([]byte, 40)}
			rows["of a first fragment"] = row{fault(kind, a.vip, 1000, ip(a.vip, first, portLocal)...), xdpPass, "icmp_forwarded", fault(kind, a.pod, 1000, ip(a.pod, first, 8080)...)}
			rows["of options"] = row{fault(kind, a.vip, 48, ip(a.vip, options, portLocal)...), xdpPass, "icmp_forwarded", fault(kind, a.pod, 48, ip(a.pod, options, 8080)...)}
			drop("of a later fragment", "icmp_unknown", fault(kind, a.vip, 1000, ip(a.vip, packet.IPv4{Fragment: 1}, portLocal)...))
			drop("options cut off", "truncated", fault(kind, a.vip, 47, ip(a.vip, options, portLocal)...))
			drop("header too short", "bad_header", changed(0, 0x44))
		}
		a.rows(rows)
	})
}

// fault is a router's error to who sent a packet, that it is too big.
func (f family) fault(eth packet.Ethernet, hops uint8, to netip.Addr, quoted ...packet.Layer) []byte {
	kind := packet.ICMP{Type: 3, Code: 4, Seq: 1400}
	if f.v6 {
		kind = packet.ICMP{Type: 2, Seq: 1400}
	}
	return f.packet(eth, f.router, to, hops, kind, packet.Payload(packet.Build(quoted...)))
}

// An ICMP error on its way through the tunnel to the backend's node.
func TestICMPErrorsInTunnel(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
		n.putFlow(f, "flows", packet.ProtoTCP, 1025, 8080, portHere)
		fromOther := packet.Ethernet{Dst: nodeMAC, Src: otherMAC}
		fault := func(eth packet.Ethernet, hops uint8, to, src netip.Addr, port uint16) []byte {
			return f.fault(eth, hops, to, f.ip(src, f.client, 60), packet.TCP{SrcPort: port, DstPort: 1025})
		}
		proto := uint8(packet.ProtoIPIP)
		if f.v6 {
			proto = packet.ProtoIPv6
		}
		carried := func(eth packet.Ethernet, from, to netip.Addr, label uint32, inner []byte) []byte {
			head := outer(from, to, label, false)
			if ip, ok := head.(packet.IPv6); ok {
				ip.NextHeader = &proto
				return packet.Build(eth, ip, packet.Payload(inner[14:]))
			}
			ip := head.(packet.IPv4)
			ip.Protocol = &proto
			return packet.Build(eth, ip, packet.Payload(inner[14:]))
		}
		in := func(inner []byte) []byte { return carried(fromOther, f.otherNode, f.localPod, 5, inner) }
		about := fault(fromRouter, 63, f.vip, f.vip, portIPIP)
		for name, row := range map[string]row{
			"into it":                  {about, xdpTX, "icmp_forwarded", carried(toOther, f.node, f.remotePod, flowHash(f, 1025, portIPIP, packet.ProtoTCP), about)},
			"into it, on the last hop": {fault(fromRouter, 1, f.vip, f.vip, portIPIP), xdpDrop, "ttl_expired", nil},
			"out of it":                {in(fault(fromOther, 63, f.vip, f.vip, portHere)), xdpPass, "icmp_forwarded", fault(fromOther, 63, f.localPod, f.localPod, 8080)},
			"not served here":          {in(fault(fromOther, 63, f.vip, f.vip, portSNAT)), xdpDrop, "icmp_unknown", fault(fromOther, 63, f.vip, f.vip, portSNAT)},
			"no vip of ours":           {in(fault(fromOther, 63, f.unmet, f.unmet, portHere)), xdpPass, "not_ours", nil},
			"of another's":             {in(fault(fromOther, 63, f.vip, f.unmet, portHere)), xdpDrop, "icmp_unknown", fault(fromOther, 63, f.vip, f.unmet, portHere)},
		} {
			n.sub(name, func(n *node) { n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out) })
		}
	})
}

// putNAT writes an entry of nat_out or nat_in.
func (n *node) putNAT(f family, table string, from natTuple, to natEntry) {
	n.t.Helper()
	if f.v6 {
		n.put(table+"6", bpfTuple6{Saddr: words(from.src.Addr()), Daddr: words(from.dst.Addr()), Sport: be16(from.src.Port()), Dport: be16(from.dst.Port()), Proto: from.proto},
			bpfNat6{Saddr: words(to.src.Addr()), Daddr: words(to.dst.Addr()), Sport: be16(to.src.Port()), Dport: be16(to.dst.Port()), Flags: uint8(to.flags)})
		return
	}
	n.put(table, bpfTuple{Saddr: be32(from.src.Addr()), Daddr: be32(from.dst.Addr()), Sport: be16(from.src.Port()), Dport: be16(from.dst.Port()), Proto: from.proto},
		bpfNat{Saddr: be32(to.src.Addr()), Daddr: be32(to.dst.Addr()), Sport: be16(to.src.Port()), Dport: be16(to.dst.Port()), Flags: uint8(to.flags)})
}

// Errors about translated flows: those for the VIP are the backend's, those for
// the node the client's.
func TestICMPErrorsOfTranslated(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		for _, proto := range tunnelled {
			n.sub(fmt.Sprintf("protocol %d", proto), func(n *node) { icmpErrorsOfTranslated(n, f, proto) })
		}
	})
}

func icmpErrorsOfTranslated(n *node, f family, proto uint8) {
	const natPort, clientPort, backendPort, port = 61005, 1025, 8080, portIPIP
	strange := map[bool]netip.Addr{false: netip.MustParseAddr("10.99.0.7"), true: netip.MustParseAddr("fd00:bad::7")}[f.v6] // no route to it
	at := netip.AddrPortFrom
	for from, to := range map[netip.Addr]netip.Addr{f.client: f.vip, strange: f.vip, f.router: f.node} { // the last by a node port
		n.putNAT(f, "nat_out", natTuple{at(from, clientPort), at(to, port), proto}, natEntry{src: at(f.node, natPort), dst: at(f.remotePod, backendPort)})
	}
	back := func(to netip.AddrPort, client netip.Addr, flags bpfNatFlags) {
		n.putNAT(f, "nat_in", natTuple{at(f.remotePod, backendPort), to, proto}, natEntry{src: at(f.vip, port), dst: at(client, clientPort), flags: flags})
	}
	back(at(f.node, natPort), f.client, 0)
	back(at(f.node, natPort+1), strange, 0)
	back(at(f.localPod, clientPort), f.localPod, bpfNatFlagsNAT_INSIDE)
	// fault is an error to the source of a packet, of which no more than the ports and what is beside them is quoted.
	fault := func(eth packet.Ethernet, hops uint8, src, dst netip.Addr, sport, dport uint16) []byte {
		l4 := packet.Build(f.ip(src, dst, 60), transport(proto, sport, dport))
		if proto == packet.ProtoSCTP { // whose checksum is behind that, and stays as it was
			l4 = l4[:len(l4)-8]
		}
		return f.fault(eth, hops, src, packet.Payload(l4))
	}
	flooded := packet.Ethernet{Dst: otherMAC, Src: routerMAC}
	ping := packet.ICMP{Type: packet.EchoRequest}
	nothing := packet.ICMP{Type: 3}
	if f.v6 {
		ping.Type, nothing.Type = packet.EchoRequest6, 1
	}
	for name, row := range map[string]row{
		"of the answer": {fault(fromRouter, 63, f.vip, f.client, port, clientPort), xdpTX, "icmp_forwarded",
			fault(toOther, 62, f.remotePod, f.node, backendPort, natPort)},
		"of the answer from a node port": {fault(fromRouter, 63, f.node, f.router, port, clientPort), xdpTX, "icmp_forwarded",
			fault(toOther, 62, f.remotePod, f.node, backendPort, natPort)},
		"of the question": {fault(fromRouter, 63, f.node, f.remotePod, natPort, backendPort), xdpTX, "icmp_forwarded",
			fault(toRouter, 62, f.client, f.vip, clientPort, port)},
		"and no way on yet": {fault(fromRouter, 63, f.node, f.remotePod, natPort+1, backendPort), xdpPass, "icmp_forwarded",
			fault(fromRouter, 63, strange, f.vip, clientPort, port)},
		"last hop":         {fault(fromRouter, 1, f.vip, f.client, port, clientPort), xdpDrop, "ttl_expired", fault(fromRouter, 1, f.remotePod, f.node, backendPort, natPort)},
		"of a pod's flow":  {fault(fromRouter, 63, f.localPod, f.remotePod, clientPort, backendPort), xdpPass, "not_ours", nil},
		"of no flow":       {fault(fromRouter, 63, f.node, f.remotePod, natPort+2, backendPort), xdpPass, "not_ours", nil},
		"flooded":          {fault(flooded, 63, f.node, f.remotePod, natPort, backendPort), xdpPass, "not_ours", nil},
		"ping to the node": {f.packet(fromRouter, f.client, f.node, 63, ping), xdpPass, "not_ours", nil},
		"quote of nothing": {f.packet(fromRouter, f.client, f.node, 63, nothing), xdpPass, "not_ours", nil},
	} {
		n.sub(name, func(n *node) { n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out) })
	}
}

// Whatever is quoted: what goes on has right checksums, and what does not is
// counted once (run sees to that).
func TestICMPErrorsOfAnything(t *testing.T) { atEachHook(t, icmpErrorsOfAnything) }

func icmpErrorsOfAnything(n *node) {
	n.put("flows", bpfFlowKey{Pod: be32(localPod), Client: be32(client), PodPort: be16(8080), ClientPort: be16(1025), Proto: packet.ProtoTCP}, bpfFlow{})
	n.put("flows", bpfFlowKey{Pod: be32(localPod), Client: be32(client), PodPort: be16(5353), ClientPort: be16(1025), Proto: packet.ProtoUDP}, bpfFlow{})
	quotes := [][]byte{
		packet.Build(packet.IPv4{Src: vip, Dst: client}, packet.TCP{SrcPort: portLocal, DstPort: 1025, Options: packet.MSS(1460)}, packet.Payload("data")),
		packet.Build(packet.IPv4{Src: vip, Dst: client, Options: make([]byte, 12)}, packet.UDP{SrcPort: 53, DstPort: 1025}, packet.Payload("data")),
		packet.Build(packet.IPv4{Src: vip, Dst: client}, packet.TCP{SrcPort: portRemote, DstPort: 1025}),
		packet.Build(packet.IPv4{Src: nodeAddr, Dst: remotePod}, packet.IPv4{Src: client, Dst: vip}, packet.TCP{SrcPort: 1025, DstPort: portRemote}),
	}
	random := rand.New(rand.NewPCG(7, 11))
	went := map[string]int{}
	for i := range 4000 {
		quote := slices.Clone(quotes[i%len(quotes)])
		to := vip
		if i%len(quotes) == 3 {
			to = nodeAddr
		}
		for range random.IntN(3) {
			quote[random.IntN(len(quote))] = byte(random.Uint32())
		}
		if random.IntN(3) == 0 {
			quote = quote[:random.IntN(len(quote)+1)]
		}
		kind := []uint8{3, 11, 12}[random.IntN(3)]
		frame := packet.Build(fromRouter, packet.IPv4{TTL: 63, Src: router, Dst: to, Options: make([]byte, 4*random.IntN(11))},
			packet.ICMP{Type: kind, Code: 4, Seq: uint16(random.Uint32())}, packet.Payload(quote))
		r := n.run(kindXDP, n.out, frame)
		went[r.reason]++
		if text := packet.String(r.out); r.reason == "icmp_forwarded" && (strings.Contains(text, "wrong") || strings.Contains(text, "malformed")) {
			n.t.Fatalf("from\n%s\ncame\n%s", packet.String(frame), text)
		}
	}
	for _, reason := range []string{"icmp_forwarded", "icmp_unknown", "truncated", "bad_header", "not_ours"} {
		if went[reason] == 0 {
			n.t.Errorf("none was %s: %v", reason, went)
		}
	}
}
