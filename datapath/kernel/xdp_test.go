package kernel

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

var fromRouter = packet.Ethernet{Dst: nodeMAC, Src: routerMAC}

// toVIP is a packet of client's, come in through the router.
func toVIP(l4 ...packet.Layer) []packet.Layer {
	return append([]packet.Layer{fromRouter, packet.IPv4{TTL: 63, TOS: 0xb9, Src: client, Dst: vip}}, l4...)
}

// toPod is the same after DNAT.
func toPod(l4 ...packet.Layer) []byte {
	return packet.Build(with(toVIP(l4...), 1, packet.IPv4{TTL: 63, TOS: 0xb9, Src: client, Dst: localPod})...)
}

// inIPIP is the packet on its way to another node, with the same TOS.
func inIPIP(eth packet.Ethernet, pod netip.Addr, layers []packet.Layer) []byte {
	outer := packet.IPv4{TOS: layers[1].(packet.IPv4).TOS, Fragment: packet.DontFragment, Src: nodeAddr, Dst: pod}
	return packet.Build(append([]packet.Layer{eth, outer}, layers[1:]...)...)
}

func TestXDPForwards(t *testing.T) {
	n := newNode(t)
	toOther := packet.Ethernet{Dst: otherMAC, Src: nodeMAC}
	remote := toVIP(packet.TCP{SrcPort: 1025, DstPort: portRemote, Flags: packet.SYN}, packet.Payload("data"))
	remoteUDP := toVIP(packet.UDP{SrcPort: 1025, DstPort: 54}, packet.Payload("odd"))
	options := with(remote, 1, packet.IPv4{TOS: 0xb8, Src: client, Dst: vip, Options: []byte{7, 7, 4, 0, 0, 0, 0}})
	padded := append(packet.Build(toVIP(packet.TCP{SrcPort: 1025, DstPort: portRemote})...), 0, 0, 0, 0, 0, 0)
	unresolved := toVIP(packet.TCP{SrcPort: 1025, DstPort: portUnresolved})
	elsewhere := toVIP(packet.TCP{SrcPort: 1025, DstPort: portElsewhere})

	// A word that makes the sum over the packet to the pod 0xffff: its checksum without it.
	without := toPod(packet.UDP{SrcPort: 1025, DstPort: 5353}, packet.Payload{0, 0})
	zeroSum := packet.Payload(without[14+20+6 : 14+20+8])

	for name, row := range map[string]struct {
		in     []byte
		action uint32
		reason string
		out    []byte
	}{
		"tcp to local pod": {
			packet.Build(toVIP(packet.TCP{SrcPort: 1025, DstPort: portLocal, Flags: packet.SYN}, packet.Payload("hi!"))...),
			xdpPass, "forward_local",
			toPod(packet.TCP{SrcPort: 1025, DstPort: 8080, Flags: packet.SYN}, packet.Payload("hi!")),
		},
		"tcp with a broken checksum stays broken": {
			packet.Build(toVIP(packet.TCP{SrcPort: 1025, DstPort: portLocal, Checksum: new(uint16(0x1234))})...),
			xdpPass, "forward_local",
			func() []byte { // by as much as the addresses and ports differ
				right := func(b []byte) uint32 { return uint32(b[14+20+16])<<8 | uint32(b[14+20+17]) }
				before := right(packet.Build(toVIP(packet.TCP{SrcPort: 1025, DstPort: portLocal})...))
				after := right(toPod(packet.TCP{SrcPort: 1025, DstPort: 8080}))
				sum := 0x1234 + after + 0xffff - before
				sum = sum&0xffff + sum>>16
				return toPod(packet.TCP{SrcPort: 1025, DstPort: 8080, Checksum: new(uint16(sum&0xffff + sum>>16))})
			}(),
		},
		"udp to local pod": {
			packet.Build(toVIP(packet.UDP{SrcPort: 1025, DstPort: 53}, packet.Payload("q"))...),
			xdpPass, "forward_local",
			toPod(packet.UDP{SrcPort: 1025, DstPort: 5353}, packet.Payload("q")),
		},
		"udp without checksum gets none": {
			packet.Build(toVIP(packet.UDP{SrcPort: 1025, DstPort: 53, Checksum: new(uint16(0))}, packet.Payload("q"))...),
			xdpPass, "forward_local",
			toPod(packet.UDP{SrcPort: 1025, DstPort: 5353, Checksum: new(uint16(0))}, packet.Payload("q")),
		},
		"udp checksum comes out as 0": { // which is sent as 0xffff (RFC 768)
			packet.Build(toVIP(packet.UDP{SrcPort: 1025, DstPort: 53}, zeroSum)...),
			xdpPass, "forward_local",
			toPod(packet.UDP{SrcPort: 1025, DstPort: 5353, Checksum: new(uint16(0xffff))}, zeroSum),
		},
		"tcp to remote pod":         {packet.Build(remote...), xdpTX, "forward_remote", inIPIP(toOther, remotePod, remote)},
		"udp to remote pod":         {packet.Build(remoteUDP...), xdpTX, "forward_remote", inIPIP(toOther, remotePod, remoteUDP)},
		"ip options":                {packet.Build(options...), xdpTX, "forward_remote", inIPIP(toOther, remotePod, options)},
		"padding":                   {padded, xdpTX, "forward_remote", append(inIPIP(toOther, remotePod, toVIP(packet.TCP{SrcPort: 1025, DstPort: portRemote})), 0, 0, 0, 0, 0, 0)},
		"next hop by FIB":           {packet.Build(unresolved...), xdpTX, "forward_remote", inIPIP(toOther, remotePod, unresolved)},
		"next hop on other device":  {packet.Build(elsewhere...), xdpRedirect, "forward_remote", inIPIP(toOther, remotePod, elsewhere)},
		"no route":                  {packet.Build(toVIP(packet.TCP{DstPort: portNoRoute})...), xdpDrop, "no_route", nil},
		"no backends":               {packet.Build(toVIP(packet.TCP{DstPort: portEmpty})...), xdpDrop, "no_backend", nil},
		"no table":                  {packet.Build(toVIP(packet.TCP{DstPort: portNoTable})...), xdpDrop, "no_backend", nil},
		"unserved tcp port":         {packet.Build(toVIP(packet.TCP{DstPort: portUnserved})...), xdpDrop, "unserved_port", nil},
		"unserved udp port":         {packet.Build(toVIP(packet.UDP{DstPort: portLocal})...), xdpDrop, "unserved_port", nil},
		"port 0":                    {packet.Build(toVIP(packet.UDP{DstPort: 0})...), xdpDrop, "unserved_port", nil},
		"unserved protocol":         {packet.Build(with(toVIP(packet.Payload("12345678")), 1, packet.IPv4{Src: client, Dst: vip, Protocol: new(uint8(47))})...), xdpDrop, "unserved_proto", nil},
		"ipip to the vip":           {packet.Build(toVIP(packet.IPv4{Src: client, Dst: vip}, packet.TCP{DstPort: portLocal})...), xdpDrop, "unserved_proto", nil},
		"fits the next hop's mtu":   {packet.Build(toVIP(packet.TCP{DstPort: portRemote}, make(packet.Payload, 1440))...), xdpTX, "forward_remote", inIPIP(toOther, remotePod, toVIP(packet.TCP{DstPort: portRemote}, make(packet.Payload, 1440)))},
		"not a vip":                 {packet.Build(with(toVIP(packet.TCP{DstPort: portLocal}), 1, packet.IPv4{Src: client, Dst: nodeAddr})...), xdpPass, "not_ours", nil},
		"flooded, for another host": {packet.Build(with(remote, 0, packet.Ethernet{Dst: otherMAC, Src: routerMAC})...), xdpPass, "not_ours", nil},
		"flooded, unserved port":    {packet.Build(with(toVIP(packet.TCP{DstPort: portUnserved}), 0, packet.Ethernet{Dst: otherMAC, Src: routerMAC})...), xdpPass, "not_ours", nil},
		"flooded ping":              {packet.Build(with(toVIP(packet.ICMP{Type: packet.EchoRequest}), 0, packet.Ethernet{Dst: otherMAC, Src: routerMAC})...), xdpPass, "not_ours", nil},
		"broadcast frame":           {packet.Build(with(remote, 0, packet.Ethernet{Dst: packet.Broadcast, Src: routerMAC})...), xdpPass, "not_ours", nil},
		"ipv6":                      {packet.Build(fromRouter, packet.IPv6{}, packet.TCP{DstPort: portLocal}), xdpPass, "not_ours", nil},
		"vlan":                      {packet.Build(packet.Ethernet{Dst: nodeMAC, Src: routerMAC, Type: new(uint16(0x8100))}, make(packet.Payload, 40)), xdpPass, "not_ours", nil},
		"icmp of another kind":      {packet.Build(toVIP(packet.ICMP{Type: 13})...), xdpDrop, "unserved_proto", nil},
		"icmp to the node":          {packet.Build(fromRouter, packet.IPv4{Src: client, Dst: nodeAddr}, packet.ICMP{Type: packet.EchoRequest}), xdpPass, "not_ours", nil},
		"ping": {
			packet.Build(toVIP(packet.ICMP{Type: packet.EchoRequest, ID: 7, Seq: 1}, packet.Payload("odd"))...),
			xdpTX, "icmp_echo_reply",
			packet.Build(packet.Ethernet{Dst: routerMAC, Src: nodeMAC}, packet.IPv4{TTL: 64, TOS: 0xb9, Src: vip, Dst: client},
				packet.ICMP{Type: packet.EchoReply, ID: 7, Seq: 1}, packet.Payload("odd")),
		},
	} {
		n.sub(name, func(n *node) {
			n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out)
		})
	}
	n.sub("too big for next hop, says the FIB", func(n *node) {
		r := n.run(kindXDP, n.out, packet.Build(toVIP(packet.TCP{DstPort: portUnresolved}, make(packet.Payload, 1441))...))
		if r.action != xdpTX || r.reason != "icmp_too_big" {
			n.t.Errorf("action %d for %q", r.action, r.reason)
		}
	})
}

func TestXDPDecapsulates(t *testing.T) {
	n := newNode(t)
	fromOther := packet.Ethernet{Dst: nodeMAC, Src: otherMAC}
	outer := packet.IPv4{Fragment: packet.DontFragment, Src: otherNode, Dst: localPod}
	inner := packet.IPv4{TTL: 63, Src: client, Dst: vip}
	build := func(l ...packet.Layer) []byte {
		return packet.Build(append([]packet.Layer{fromOther, outer, inner}, l...)...)
	}
	toPod := packet.IPv4{TTL: 63, Src: client, Dst: localPod}

	for name, row := range map[string]struct {
		in     []byte
		action uint32
		reason string
		out    []byte
	}{
		"tcp": {build(packet.TCP{SrcPort: 9, DstPort: portLocal}, packet.Payload("x")), xdpPass, "decap",
			packet.Build(fromOther, toPod, packet.TCP{SrcPort: 9, DstPort: 8080}, packet.Payload("x"))},
		"udp": {build(packet.UDP{SrcPort: 9, DstPort: 53}), xdpPass, "decap",
			packet.Build(fromOther, toPod, packet.UDP{SrcPort: 9, DstPort: 5353})},
		"inner options": {
			packet.Build(fromOther, outer, packet.IPv4{Src: client, Dst: vip, Options: []byte{1}}, packet.TCP{DstPort: portLocal}),
			xdpPass, "decap",
			packet.Build(fromOther, packet.IPv4{Src: client, Dst: localPod, Options: []byte{1}}, packet.TCP{DstPort: 8080})},
		"pod does not serve it":  {build(packet.TCP{DstPort: portRemote}), xdpDrop, "stale_backend", nil},
		"inner is ping":          {build(packet.ICMP{Type: packet.EchoRequest}), xdpDrop, "unserved_proto", nil},
		"inner is not for a vip": {packet.Build(fromOther, outer, packet.IPv4{Src: client, Dst: remotePod}, packet.TCP{DstPort: portLocal}), xdpPass, "not_ours", nil},
		"inner is broken":        {packet.Build(fromOther, outer, packet.IPv4{Src: client, Dst: vip, Version: new(uint8(6))}, packet.TCP{DstPort: portLocal}), xdpDrop, "bad_header", nil},
		"inner is longer":        {packet.Build(fromOther, outer, packet.IPv4{Src: client, Dst: vip, Length: new(uint16(41))}, packet.TCP{DstPort: portLocal}), xdpDrop, "truncated", nil},
		"not a pod of ours":      {packet.Build(fromOther, packet.IPv4{Src: otherNode, Dst: remotePod}, inner, packet.TCP{DstPort: portLocal}), xdpPass, "not_ours", nil},
		"outer is a fragment":    {packet.Build(fromOther, packet.IPv4{Src: otherNode, Dst: localPod, Fragment: packet.MoreFragments}, inner, packet.TCP{DstPort: portLocal}), xdpPass, "not_ours", nil},
		"flooded":                {packet.Build(packet.Ethernet{Dst: otherMAC, Src: routerMAC}, outer, inner, packet.TCP{DstPort: portLocal}), xdpPass, "not_ours", nil},
	} {
		n.sub(name, func(n *node) {
			n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out)
		})
	}
}

// A header cut short anywhere, or that says anything impossible, is dropped
// unchanged, with a reason.
func TestXDPMalformed(t *testing.T) {
	n := newNode(t)
	tcp := toVIP(packet.TCP{SrcPort: 1025, DstPort: portRemote, Options: packet.MSS(1460)}, packet.Payload("data"))
	udp := toVIP(packet.UDP{SrcPort: 1025, DstPort: 54}, packet.Payload("data"))
	ping := toVIP(packet.ICMP{Type: packet.EchoRequest}, packet.Payload("data"))
	options := with(tcp, 1, packet.IPv4{Src: client, Dst: vip, Options: make([]byte, 40)})
	ipip := append([]packet.Layer{fromRouter, packet.IPv4{Src: otherNode, Dst: localPod}}, tcp[1:]...)
	arp := []packet.Layer{packet.Ethernet{Dst: packet.Broadcast, Src: routerMAC}, packet.ARP{SenderMAC: routerMAC, Sender: router, Target: vip}}

	for name, layers := range map[string][]packet.Layer{"tcp": tcp, "udp": udp, "ping": ping, "options": options, "ipip": ipip, "arp": arp} {
		n.sub("frame ends early/"+name, func(n *node) {
			whole := packet.Build(layers...)
			for size := 14; size < len(whole); size++ {
				n.expect(kindXDP, n.out, whole[:size], xdpDrop, "truncated", nil)
			}
		})
	}

	// The same with a total length that says so.
	for name, row := range map[string]struct {
		layers []packet.Layer
		header int
	}{"tcp": {tcp, 20}, "udp": {udp, 8}, "ping": {ping, 8}} {
		n.sub("packet ends early/"+name, func(n *node) {
			whole := packet.Build(row.layers...)
			for size := range row.header {
				in := packet.Build(with(row.layers, 1, packet.IPv4{Src: client, Dst: vip, Length: new(uint16(20 + size))})...)
				n.expect(kindXDP, n.out, in[:14+20+size], xdpDrop, "truncated", nil)
				// And with the bytes there, but not the packet's.
				n.expect(kindXDP, n.out, in[:len(whole)], xdpDrop, "truncated", nil)
			}
		})
	}

	ip := func(ip packet.IPv4) []byte {
		ip.Src, ip.Dst = client, vip
		return packet.Build(with(tcp, 1, ip)...)
	}
	for name, row := range map[string]struct {
		in     []byte
		reason string
	}{
		"version 5":               {ip(packet.IPv4{Version: new(uint8(5))}), "bad_header"},
		"header of 16 bytes":      {ip(packet.IPv4{HeaderLen: new(uint8(4))}), "bad_header"},
		"header of 0 bytes":       {ip(packet.IPv4{HeaderLen: new(uint8(0))}), "bad_header"},
		"header past the packet":  {ip(packet.IPv4{HeaderLen: new(uint8(15)), Length: new(uint16(48))}), "bad_header"},
		"header past the end":     {packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip, HeaderLen: new(uint8(15)), Length: new(uint16(60))}, packet.TCP{}), "truncated"},
		"length 0":                {ip(packet.IPv4{Length: new(uint16(0))}), "bad_header"},
		"length 19":               {ip(packet.IPv4{Length: new(uint16(19))}), "bad_header"},
		"length past the end":     {ip(packet.IPv4{Length: new(uint16(65535))}), "truncated"},
		"tcp data offset 4":       {packet.Build(toVIP(packet.TCP{DstPort: portRemote, DataOffset: new(uint8(4))})...), "bad_header"},
		"tcp data offset 0":       {packet.Build(toVIP(packet.TCP{DstPort: portRemote, DataOffset: new(uint8(0))})...), "bad_header"},
		"tcp data offset too big": {packet.Build(toVIP(packet.TCP{DstPort: portRemote, DataOffset: new(uint8(15))}, packet.Payload("x"))...), "bad_header"},
		"udp length 7":            {packet.Build(toVIP(packet.UDP{DstPort: 54, Length: new(uint16(7))})...), "bad_header"},
		"udp length too big":      {packet.Build(toVIP(packet.UDP{DstPort: 54, Length: new(uint16(9))})...), "bad_header"},
	} {
		n.sub(name, func(n *node) {
			n.expect(kindXDP, n.out, row.in, xdpDrop, row.reason, nil)
		})
	}
	n.sub("not for a vip", func(n *node) {
		in := packet.Build(with(toVIP(packet.TCP{DataOffset: new(uint8(4))}), 1, packet.IPv4{Src: client, Dst: nodeAddr})...)
		n.expect(kindXDP, n.out, in, xdpPass, "not_ours", nil)
	})
}

// flowRow is a row of a table of flows without the time.
type flowRow struct {
	vip   netip.AddrPort
	flags bpfFlowFlags
	proof uint32
}

// flowTable reads a table of flows, by what the pod sends.
func (n *node) flowTable(f family, name string) map[natTuple]flowRow {
	n.t.Helper()
	all := map[natTuple]flowRow{}
	if !f.v6 {
		for k, v := range n.flows(name) {
			all[natTuple{endOf(k.Pod, k.PodPort), endOf(k.Client, k.ClientPort), k.Proto}] = flowRow{endOf(v.Vip, v.Port), bpfFlowFlags(v.Flags), v.Proof}
		}
		return all
	}
	var k bpfFlowKey6
	var v bpfFlow6
	it := n.maps[name+"6"].Iterate()
	for it.Next(&k, &v) {
		all[natTuple{endOf(k.Pod, k.PodPort), endOf(k.Client, k.ClientPort), k.Proto}] = flowRow{endOf(v.Vip, v.Port), bpfFlowFlags(v.Flags), v.Proof}
	}
	if err := it.Err(); err != nil {
		n.t.Fatal(err)
	}
	return all
}

// endOf is an address and port as maps have them.
func endOf[A uint32 | [4]uint32](addr A, port uint16) netip.AddrPort {
	b, err := binary.Append(nil, binary.NativeEndian, addr)
	if err != nil {
		panic(err)
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, be16(port))
}

func TestFlowTables(t *testing.T) { inEachFamily(t, flowTables) }

func flowTables(n *node, f family) {
	n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
	key := func(port uint16, proto uint8) natTuple {
		return natTuple{netip.AddrPortFrom(f.localPod, 8080), netip.AddrPortFrom(f.client, port), proto}
	}
	send := func(n *node, l4 packet.Layer) {
		n.t.Helper()
		n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4))
	}
	answer := func(n *node, l4 ...packet.Layer) {
		n.t.Helper()
		n.run(kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.client, 64, l4...))
	}
	check := func(n *node, step string, k natTuple, half, whole *flowRow) {
		n.t.Helper()
		for name, want := range map[string]*flowRow{"half_open": half, "flows": whole} {
			got, ok := n.flowTable(f, name)[k]
			if ok != (want != nil) || ok && got != *want {
				n.t.Errorf("%s: %s has %+v (%v), want %+v", step, name, got, ok, want)
			}
		}
	}
	fresh := &flowRow{vip: netip.AddrPortFrom(f.vip, portHere)}
	replied := &flowRow{vip: fresh.vip, flags: bpfFlowFlagsFLOW_REPLIED}
	const isn = 7000 // of the pod
	asked := *replied
	asked.proof = isn + 1
	accepted := &asked
	flagged := func(row *flowRow, flags bpfFlowFlags) *flowRow {
		with := *row
		with.flags |= flags
		return &with
	}
	closing := func(row *flowRow) *flowRow { return flagged(row, bpfFlowFlagsFLOW_CLOSING) }
	ended := func(row *flowRow) *flowRow { return flagged(row, bpfFlowFlagsFLOW_CLOSING|bpfFlowFlagsFLOW_ENDED) }
	tcp := func(port uint16, flags uint8) packet.TCP {
		return packet.TCP{SrcPort: port, DstPort: portHere, Flags: flags, Ack: isn + 1}
	}
	podTCP := func(port uint16, flags uint8) packet.TCP {
		return packet.TCP{SrcPort: 8080, DstPort: port, Flags: flags, Seq: isn}
	}

	n.sub("handshake", func(n *node) {
		k := key(1, packet.ProtoTCP)
		send(n, tcp(1, packet.SYN))
		check(n, "SYN", k, fresh, nil)
		send(n, tcp(1, packet.SYN))
		check(n, "SYN again", k, fresh, nil)
		send(n, tcp(1, packet.ACK))
		check(n, "ACK without an answer", k, fresh, nil)
		answer(n, podTCP(1, packet.SYN|packet.ACK))
		check(n, "SYN-ACK", k, accepted, nil)
		send(n, tcp(1, packet.SYN))
		check(n, "SYN late", k, accepted, nil)
		send(n, tcp(1, packet.ACK))
		check(n, "ACK", k, nil, accepted)
		send(n, tcp(1, packet.ACK))
		check(n, "more", k, nil, accepted)
		answer(n, podTCP(1, packet.FIN|packet.ACK))
		check(n, "FIN", k, nil, ended(accepted))
		send(n, tcp(1, packet.FIN|packet.ACK))
		answer(n, podTCP(1, packet.ACK))
		check(n, "the client's FIN, and the last ACK", k, nil, ended(accepted))
		send(n, tcp(1, packet.SYN))
		check(n, "the ports anew", k, fresh, nil)
		send(n, tcp(1, packet.RST))
		check(n, "RST", k, closing(fresh), nil)
		send(n, tcp(1, packet.SYN))
		check(n, "and anew", k, fresh, nil)
	})
	n.sub("blind", func(n *node) { // who gets no answers from the pod, and does as if
		k := key(5, packet.ProtoTCP)
		send(n, tcp(5, packet.SYN))
		answer(n, podTCP(5, packet.SYN|packet.ACK))
		for _, ack := range []uint32{0, 1, isn, isn + 1 + 1<<16, 1 << 31} {
			for _, flags := range []uint8{packet.ACK, packet.PSH | packet.ACK, packet.SYN | packet.ACK} {
				send(n, packet.TCP{SrcPort: 5, DstPort: portHere, Flags: flags, Ack: ack})
			}
		}
		send(n, tcp(5, packet.SYN|packet.ACK))
		send(n, tcp(5, packet.PSH)) // without an ACK
		check(n, "ACKs of anything", k, accepted, nil)
		send(n, packet.TCP{SrcPort: 5, DstPort: portHere, Flags: packet.ACK, Ack: isn + 1000})
		check(n, "an ACK of early data", k, nil, accepted)
	})
	n.sub("forged ends", func(n *node) {
		k := key(5, packet.ProtoTCP)
		for _, flags := range []uint8{packet.RST, packet.FIN | packet.ACK} {
			send(n, tcp(5, flags))
			check(n, "the client's end", k, nil, closing(accepted))
			send(n, tcp(5, packet.ACK))
			check(n, "which it does not take back", k, nil, closing(accepted))
			answer(n, podTCP(5, packet.ACK))
			check(n, "of which the pod knows nothing", k, nil, accepted)
		}
		send(n, tcp(5, packet.SYN))
		check(n, "SYN", k, nil, accepted)
		answer(n, podTCP(5, packet.RST))
		answer(n, podTCP(5, packet.ACK))
		check(n, "the pod's end", k, nil, ended(accepted))
	})
	n.sub("sctp", func(n *node) {
		const port, tag = 8080, 0x1234
		n.putFrontend(f, f.vip, port, packet.ProtoSCTP, bpfFrontend{Set: 36})
		k := natTuple{netip.AddrPortFrom(f.localPod, port), netip.AddrPortFrom(f.client, 6), packet.ProtoSCTP}
		half := &flowRow{vip: netip.AddrPortFrom(f.vip, port)}
		send(n, packet.SCTP{SrcPort: 6, DstPort: port, Chunk: packet.ChunkInit})
		check(n, "INIT", k, half, nil)
		answer(n, packet.SCTP{SrcPort: port, DstPort: 6, Chunk: 2}, packet.Payload(binary.BigEndian.AppendUint32(nil, tag)))
		half = flagged(half, bpfFlowFlagsFLOW_REPLIED)
		half.proof = tag
		check(n, "INIT ACK", k, half, nil)
		send(n, packet.SCTP{SrcPort: 6, DstPort: port, Tag: tag + 1<<16, Chunk: 10})
		check(n, "COOKIE ECHO with another tag", k, half, nil)
		send(n, packet.SCTP{SrcPort: 6, DstPort: port, Tag: tag, Chunk: 10})
		check(n, "COOKIE ECHO", k, nil, half)
	})
	n.sub("never asked for", func(n *node) { // an answer to the SYN-ACK of a SYN that another sent
		k := key(4, packet.ProtoTCP)
		send(n, tcp(4, packet.SYN))
		answer(n, podTCP(4, packet.SYN|packet.ACK))
		send(n, tcp(4, packet.RST))
		check(n, "RST", k, closing(accepted), nil)
	})
	n.sub("refused", func(n *node) {
		k := key(2, packet.ProtoTCP)
		send(n, tcp(2, packet.ACK)) // of a flood, or a flow older than the tables
		check(n, "ACK", k, fresh, nil)
		answer(n, podTCP(2, packet.RST))
		check(n, "RST", k, ended(fresh), nil)
		send(n, tcp(2, packet.ACK))
		check(n, "ACK again", k, ended(fresh), nil)
		answer(n, podTCP(2, packet.ACK))
		send(n, tcp(2, packet.ACK))
		check(n, "answered after all", k, nil, ended(replied))
	})
	n.sub("udp", func(n *node) {
		k := key(3, packet.ProtoUDP)
		send(n, packet.UDP{SrcPort: 3, DstPort: portHere})
		check(n, "first", k, fresh, nil)
		answer(n, packet.UDP{SrcPort: 8080, DstPort: 3})
		send(n, packet.UDP{SrcPort: 3, DstPort: portHere})
		check(n, "after the answer", k, nil, replied)
	})
	// through sends what another node has from the client for another VIP of the same pod.
	through := func(n *node, l4 packet.Layer) {
		n.t.Helper()
		n.run(kindXDP, n.out, concat([]packet.Layer{packet.Ethernet{Dst: nodeMAC, Src: otherMAC}, outer(f.otherNode, f.localPod, 5, false)},
			[]packet.Layer{f.ip(f.client, f.unmet, 63), l4}))
	}
	another := &flowRow{vip: netip.AddrPortFrom(f.unmet, 8)}
	n.sub("another vip", func(n *node) {
		n.putTarget(f, f.unmet, f.localPod, 8, packet.ProtoTCP, 8080)
		tcpToo := func(port uint16, flags uint8) packet.TCP {
			return packet.TCP{SrcPort: port, DstPort: 8, Flags: flags}
		}
		send(n, tcp(7, packet.SYN))
		answer(n, podTCP(7, packet.SYN|packet.ACK))
		send(n, tcp(7, packet.ACK))
		for _, flags := range []uint8{packet.SYN, packet.ACK, packet.SYN | packet.ACK, packet.RST} {
			through(n, tcpToo(7, flags))
		}
		check(n, "of a flow that goes on", key(7, packet.ProtoTCP), nil, closing(accepted))
		through(n, tcpToo(7, packet.SYN))
		check(n, "SYN of another", key(7, packet.ProtoTCP), another, nil)
		send(n, tcp(8, packet.SYN))
		through(n, tcpToo(8, packet.ACK))
		check(n, "ACK before the answer", key(8, packet.ProtoTCP), fresh, nil)
		through(n, tcpToo(8, packet.SYN))
		check(n, "SYN before the answer", key(8, packet.ProtoTCP), another, nil)
	})
	n.sub("another vip, udp", func(n *node) {
		n.putTarget(f, f.unmet, f.localPod, 8, packet.ProtoUDP, 8080)
		send(n, packet.UDP{SrcPort: 9, DstPort: portHere})
		answer(n, packet.UDP{SrcPort: 8080, DstPort: 9})
		send(n, packet.UDP{SrcPort: 9, DstPort: portHere})
		through(n, packet.UDP{SrcPort: 9, DstPort: 8})
		check(n, "whose last one is answered", key(9, packet.ProtoUDP), another, nil)
	})
	n.sub("flood", func(n *node) {
		n.clearFamilyFlows(f)
		send(n, packet.UDP{SrcPort: 1, DstPort: portHere})
		answer(n, packet.UDP{SrcPort: 8080, DstPort: 1})
		send(n, packet.UDP{SrcPort: 1, DstPort: portHere})
		for port := range uint16(10000) { // more than the tables hold
			in := f.packet(fromRouter, wireAddr(f.client, int(port>>8), int(port&0xff)), f.vip, 63, tcp(port, []uint8{packet.SYN, packet.ACK}[port%2]))
			if r, err := n.program(kindXDP).Run(runOptions(n, in)); err != nil || r != xdpPass {
				n.t.Fatalf("packet %d: action %d, %v", port, r, err)
			}
		}
		if got := n.flowTable(f, "flows"); len(got) != 1 {
			n.t.Errorf("flows has %d entries after a flood, want the one established", len(got))
		}
	})
}

// Every node has to choose the same backend, and seamark has to say which.
func TestFlowHashAsInGo(t *testing.T) {
	n := newNode(t)
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []uint32{1, 2, 251, 1021, 4093, 10007, 16381} {
		// Backend b, of as many as there are slots or room for: 172.30.b.
		backends := size
		if n.specs["tables_"+strconv.Itoa(int(size))] != nil {
			backends = uint32(bpfSmallSlotSMALL_BACKENDS)
		}
		ids := make([]uint32, size)
		for slot := range ids {
			ids[slot] = 100 + uint32(slot)%backends
		}
		for b := range backends {
			n.put("backends", 100+b, bpfBackend{Addr: be32(netip.AddrFrom4([4]byte{172, 30, byte(b >> 8), byte(b)})), NextHop: 1})
		}
		n.table(3, size%2, ids)
		used := map[uint32]bool{}
		for range 500 {
			var b [4]byte
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			from := netip.AddrPortFrom(netip.AddrFrom4(b), uint16(random.Uint32()))
			to, proto := netip.AddrPortFrom(vip, portRemote), uint8(packet.ProtoTCP)
			var l4 packet.Layer = packet.TCP{SrcPort: from.Port(), DstPort: to.Port()}
			if random.IntN(2) == 0 {
				to, proto = netip.AddrPortFrom(vip, 54), packet.ProtoUDP
				l4 = packet.UDP{SrcPort: from.Port(), DstPort: to.Port()}
			}
			options := runOptions(n, packet.Build(fromRouter, packet.IPv4{Src: from.Addr(), Dst: vip}, l4))
			if r, err := n.program(kindXDP).Run(options); err != nil || r != xdpTX {
				t.Fatalf("action %d, %v", r, err)
			}
			slot := MaglevSlot(FlowHash(from, to, proto), size)
			used[slot] = true
			if got, want := uint32(options.DataOut[14+18])<<8|uint32(options.DataOut[14+19]), slot%backends; got != want {
				t.Fatalf("%v to %v/%d of %d slots: kernel chose backend %d, Go %d", from, to, proto, size, got, want)
			}
		}
		// 500 of 251 slots leave e^-2 of them empty, 34.
		if size == 251 && len(used) < 200 {
			t.Errorf("500 flows used %d of 251 slots", len(used))
		}
	}
}
