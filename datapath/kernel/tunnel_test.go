package kernel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// The VIP's ports whose backend is reached through a tunnel; TCP, UDP and SCTP on each.
const (
	portIPIP    = 280
	portGeneve  = 281
	portGeneve6 = 282 // the other node has an IPv6 address alone
	portGeneve4 = 283 // an IPv4 address alone
	portByFIB   = 284 // IP in IP; the next hop is the FIB's to find
	portTagged  = 285 // IP in IP, in a VLAN
	portHere    = 286 // on a pod of this node
)

var tunnelled = []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP}

// addTunnels gives the world those ports. backend is the pod behind the tunnels, and nodes
// are the addresses, of IPv4 and IPv6, of its node.
func (n *node) addTunnels(f family, backend netip.Addr, nodes [2]netip.Addr, mac packet.MAC) {
	n.t.Helper()
	hop := bpfNextHop{Ifindex: uint32(n.out.Attrs().Index), Mtu: 1500, Saddr: be32(nodeAddr), Saddr6: words(families[1].node), Dmac: mac, Smac: nodeMAC}
	both, only6, only4, tagged := hop, hop, hop, hop
	both.Node, both.Node6 = be32(nodes[0]), words(nodes[1])
	only6.Node6 = words(nodes[1])
	only4.Node = be32(nodes[0])
	tagged.Vlan = 7
	for id, row := range map[uint32]bpfNextHop{30: both, 31: only6, 32: only4, 33: {}, 34: tagged} {
		n.put("next_hops", id, row)
	}
	for port, row := range map[uint16]struct{ set, hop, flags uint32 }{
		portIPIP:    {30, 30, 0},
		portGeneve:  {31, 30, uint32(bpfFrontendFlagsFRONTEND_GENEVE)},
		portGeneve6: {32, 31, uint32(bpfFrontendFlagsFRONTEND_GENEVE)},
		portGeneve4: {33, 32, uint32(bpfFrontendFlagsFRONTEND_GENEVE)},
		portByFIB:   {34, 33, 0},
		portTagged:  {35, 34, 0},
	} {
		n.putBackend(f, row.set, backend, 8080, row.hop, 0)
		n.table(row.set, 0, []uint32{row.set})
		for _, proto := range tunnelled {
			n.putFrontend(f, f.vip, port, proto, bpfFrontend{Set: row.set, Flags: row.flags})
		}
	}
	n.putBackend(f, 36, f.localPod, 8080, 0, uint8(bpfBackendFlagsBACKEND_LOCAL))
	n.table(36, 0, []uint32{36})
	n.putEndpoint(f, f.localPod, bpfEndpoint{Ifindex: uint32(n.pod.Attrs().Index), PodMac: podMAC, HostMac: podHostMAC})
	for _, proto := range tunnelled {
		n.putFrontend(f, f.vip, portHere, proto, bpfFrontend{Set: 36})
		for port := uint16(portIPIP); port <= portHere; port++ {
			n.putTarget(f, f.vip, f.localPod, port, proto, 8080)
		}
	}
}

func (n *node) putEndpoint(f family, pod netip.Addr, row bpfEndpoint) {
	n.t.Helper()
	if f.v6 {
		n.put("endpoints6", words(pod), row)
		return
	}
	n.put("endpoints", be32(pod), row)
}

func (n *node) putTarget(f family, vip, pod netip.Addr, port uint16, proto uint8, target uint16) {
	n.t.Helper()
	if f.v6 {
		n.put("local_targets6", bpfLocalKey6{Vip: words(vip), Pod: words(pod), Port: be16(port), Proto: proto}, bpfLocalTarget{Port: be16(target)})
		return
	}
	n.put("local_targets", bpfLocalKey{Vip: be32(vip), Pod: be32(pod), Port: be16(port), Proto: proto}, bpfLocalTarget{Port: be16(target)})
}

// ip is the header that f.packet gives a packet.
func (f family) ip(src, dst netip.Addr, hops uint8) packet.Layer {
	if f.v6 {
		return packet.IPv6{TrafficClass: 2, FlowLabel: 0x12345, HopLimit: hops, Src: src, Dst: dst}
	}
	return packet.IPv4{TOS: 2, TTL: hops, Src: src, Dst: dst}
}

// transport is a header of TCP (PSH), UDP or SCTP (DATA).
func transport(proto uint8, src, dst uint16) packet.Layer {
	switch proto {
	case packet.ProtoTCP:
		return packet.TCP{SrcPort: src, DstPort: dst, Flags: packet.PSH | packet.ACK, Seq: 77}
	case packet.ProtoUDP:
		return packet.UDP{SrcPort: src, DstPort: dst}
	}
	return packet.SCTP{SrcPort: src, DstPort: dst, Tag: 77}
}

// outer is a tunnel's IP header.
func outer(from, to netip.Addr, hash uint32, handedOn bool) packet.Layer {
	if from.Is6() {
		label := hash&0x7ffff | 1
		if handedOn {
			label |= 0x80000
		}
		return packet.IPv6{TrafficClass: 2, FlowLabel: label, Src: from, Dst: to}
	}
	ip := packet.IPv4{TOS: 2, Fragment: packet.DontFragment, Src: from, Dst: to}
	if handedOn {
		ip.ID = 0x5ea1
	}
	return ip
}

// podOption is the option of a Geneve packet for a pod.
func podOption(pod netip.Addr, flags uint8) []byte {
	data := append([]byte{1, flags, 0, 0}, pod.AsSlice()...)
	return append([]byte{0xff, 0x5e, 0x81, uint8(len(data) / 4)}, data...)
}

// inGeneve is the layers between two IP headers of a Geneve packet.
func inGeneve(hash uint32, option []byte) []packet.Layer {
	return []packet.Layer{packet.UDP{SrcPort: uint16(0xc000 | hash&0x3fff), DstPort: 6081, Checksum: new(uint16(0))}, packet.Geneve{Critical: true, Options: option}}
}

func concat(parts ...[]packet.Layer) []byte {
	var all []packet.Layer
	for _, p := range parts {
		all = append(all, p...)
	}
	return packet.Build(all...)
}

func flowHash(f family, sport, port uint16, proto uint8) uint32 {
	return FlowHash(netip.AddrPortFrom(f.client, sport), netip.AddrPortFrom(f.vip, port), proto)
}

// What goes to a pod on another node, whole: the packet stays as it is.
func TestTunnelOut(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		four, six := families[0], families[1]
		n.addTunnels(f, f.remotePod, [2]netip.Addr{four.otherNode, six.otherNode}, otherMAC)
		for _, proto := range tunnelled {
			in := []packet.Layer{f.ip(f.client, f.vip, 63), nil, packet.Payload("odd")}
			inner := func(port uint16) []packet.Layer { return with(in, 1, transport(proto, 1025, port)) }
			geneve := func(port uint16, over family) []byte {
				hash := flowHash(f, 1025, port, proto)
				return concat([]packet.Layer{toOther, outer(over.node, over.otherNode, hash, false)}, inGeneve(hash, podOption(f.remotePod, 0)), inner(port))
			}
			ipip := func(port uint16, eth ...packet.Layer) []byte {
				return concat(eth, []packet.Layer{outer(f.node, f.remotePod, flowHash(f, 1025, port, proto), false)}, inner(port))
			}
			for name, row := range map[string]struct {
				port uint16
				out  []byte
			}{
				"ip in ip":                  {portIPIP, ipip(portIPIP, toOther)},
				"geneve":                    {portGeneve, geneve(portGeneve, f)},
				"geneve over ipv6":          {portGeneve6, geneve(portGeneve6, six)},
				"geneve over ipv4":          {portGeneve4, geneve(portGeneve4, four)},
				"ip in ip, next hop by FIB": {portByFIB, ipip(portByFIB, toOther)},
				"ip in ip, tagged":          {portTagged, ipip(portTagged, packet.Ethernet{Dst: otherMAC, Src: nodeMAC, Type: new(uint16(packet.TypeVLAN))}, packet.VLAN{TCI: 7})},
			} {
				n.sub(fmt.Sprintf("protocol %d/%s", proto, name), func(n *node) {
					n.expect(kindXDP, n.out, concat([]packet.Layer{fromRouter}, inner(row.port)), xdpTX, "forward_remote", row.out)
				})
			}
		}
	})
}

// isBefore says whether this kernel is older than a release.
func isBefore(t testing.TB, major, minor int) bool {
	t.Helper()
	release, err := kernelRelease()
	if err != nil {
		t.Fatal(err)
	}
	var have, haveMinor int
	if _, err := fmt.Sscanf(release, "%d.%d", &have, &haveMinor); err != nil {
		t.Fatal(err)
	}
	return have < major || have == major && haveMinor < minor
}

// Any packet comes out of the tunnel as it went in, but for the pod's address and
// port: this node sends it to itself. In tc, kernels before 6.3 cannot take off a header of
// the other family (docs/devices.md).
func TestTunnelIsTransparent(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.localPod, [2]netip.Addr{families[0].node, families[1].node}, nodeMAC)
		random := rand.New(rand.NewPCG(1, 2))
		self := packet.Ethernet{Dst: nodeMAC, Src: nodeMAC}
		for range 500 {
			proto := tunnelled[random.IntN(3)]
			sport, port := uint16(random.IntN(65536)), []uint16{portIPIP, portGeneve, portGeneve6, portGeneve4}[random.IntN(4)]
			data := make(packet.Payload, random.IntN(1300))
			for i := range data {
				data[i] = byte(random.Uint32())
			}
			hops := uint8(2 + random.IntN(250))
			in := f.packet(fromRouter, f.client, f.vip, hops, transport(proto, sport, port), data)
			through := n.run(kindXDP, n.out, in)
			out := n.run(kindXDP, n.out, through.out)
			if crosses := port == portGeneve6 && !f.v6 || port == portGeneve4 && f.v6; crosses && n.inTC && isBefore(t, 6, 3) {
				if through.reason != "forward_remote" || out.action != xdpDrop || out.reason != "truncated" {
					t.Fatalf("%s, then %d for %s, want it dropped, of\n%s", through.reason, out.action, out.reason, packet.String(in))
				}
				continue
			}
			if through.reason != "forward_remote" || out.action != xdpPass || out.reason != "decap" {
				t.Fatalf("%s, then %d for %s, of\n%s", through.reason, out.action, out.reason, packet.String(in))
			}
			want := f.packet(self, f.client, f.localPod, hops, transport(proto, sport, 8080), data)
			if n.inTC {
				_, _, want = n.inPod(n.out, "decap", want)
			}
			if d := packet.Diff(want, out.out); d != "" {
				t.Fatalf("what came out of the tunnel:\n%s", d)
			}
		}
	})
}

// What comes from another node for a pod of this one, or is not for one.
func TestTunnelIn(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
		fromOther := packet.Ethernet{Dst: nodeMAC, Src: otherMAC}
		inner := []packet.Layer{f.ip(f.client, f.vip, 63), packet.UDP{SrcPort: 9, DstPort: portHere}, packet.Payload("x")}
		toPod := f.packet(fromOther, f.client, f.localPod, 63, packet.UDP{SrcPort: 9, DstPort: 8080}, packet.Payload("x"))
		ipip := func(in []packet.Layer) []byte {
			return concat([]packet.Layer{fromOther, outer(f.otherNode, f.localPod, 5, false)}, in)
		}
		via := func(to netip.Addr, g packet.Geneve, in []packet.Layer) []byte {
			udp := packet.UDP{SrcPort: 0xc001, DstPort: 6081, Checksum: new(uint16(0))}
			return concat([]packet.Layer{fromOther, outer(f.otherNode, to, 5, false), udp, g}, in)
		}
		geneve := func(option []byte) []byte { return via(f.node, packet.Geneve{Critical: true, Options: option}, inner) }
		option := podOption(f.localPod, 0)
		changed := func(at int, value byte) []byte {
			o := append([]byte{}, option...)
			o[at] = value
			return o
		}
		wrongFamily := []packet.Layer{packet.IPv6{Src: families[1].client, Dst: families[1].vip}, packet.UDP{SrcPort: 9, DstPort: portHere}}
		if f.v6 {
			wrongFamily = []packet.Layer{packet.IPv4{Src: client, Dst: vip}, packet.UDP{SrcPort: 9, DstPort: portHere}}
		}
		for name, row := range map[string]struct {
			in     []byte
			action uint32
			reason string
			out    []byte
		}{
			"ip in ip":                    {ipip(inner), xdpPass, "decap", toPod},
			"geneve":                      {geneve(option), xdpPass, "decap", toPod},
			"a port that is not served":   {ipip(with(inner, 1, packet.UDP{DstPort: portUnserved})), xdpDrop, "stale_backend", nil},
			"a pod that is not here":      {geneve(podOption(f.remotePod, 0)), xdpDrop, "stale_backend", nil},
			"no vip of ours, geneve":      {via(f.node, packet.Geneve{Options: option}, with(inner, 0, f.ip(f.client, f.router, 63))), xdpDrop, "stale_backend", nil},
			"no vip of ours, ip in ip":    {ipip(with(inner, 0, f.ip(f.client, f.router, 63))), xdpPass, "not_ours", nil},
			"geneve of others":            {geneve(changed(1, 0x5f)), xdpPass, "not_ours", nil},
			"another option of the class": {geneve(changed(2, 0x82)), xdpPass, "not_ours", nil},
			"geneve without options":      {geneve(nil), xdpPass, "not_ours", nil},
			"geneve to another node":      {via(f.router, packet.Geneve{Options: option}, inner), xdpPass, "not_ours", nil},
			"another version":             {geneve(changed(4, 2)), xdpDrop, "bad_tunnel", nil},
			"an option too long":          {geneve(changed(3, option[3]+1)), xdpDrop, "bad_tunnel", nil},
			"an option too many":          {geneve(append(changed(0, 0xff), option...)), xdpDrop, "bad_tunnel", nil},
			"the other family inside":     {via(f.node, packet.Geneve{Options: option}, wrongFamily), xdpDrop, "bad_tunnel", nil},
			"no packet inside":            {via(f.node, packet.Geneve{Options: option, Type: new(uint16(0x6558))}, inner), xdpDrop, "bad_tunnel", nil},
			"geneve version 1":            {via(f.node, packet.Geneve{Options: option, Version: new(uint8(1))}, inner), xdpDrop, "bad_tunnel", nil},
			"flooded":                     {concat([]packet.Layer{packet.Ethernet{Dst: otherMAC, Src: routerMAC}, outer(f.otherNode, f.localPod, 5, false)}, inner), xdpPass, "not_ours", nil},
		} {
			n.sub(name, func(n *node) { n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out) })
		}
		n.sub("cut off", func(n *node) {
			least := 14
			if n.inTC { // BPF_PROG_TEST_RUN takes no shorter ones
				least += len(f.packet(packet.Ethernet{}, f.client, f.vip, 1)) - 14
			}
			for _, whole := range [][]byte{ipip(inner), geneve(option)} {
				for size := least; size < len(whole); size++ {
					if r := n.run(kindXDP, n.out, whole[:size]); r.reason != "truncated" {
						n.t.Errorf("%d bytes of %d: %s", size, len(whole), r.reason)
					}
				}
			}
		})
	})
}

// A node has several addresses that others may know it by: Geneve comes in at each. A
// daemon that starts keeps to what it finds.
func TestNodeAddrs(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
		fromOther := packet.Ethernet{Dst: nodeMAC, Src: otherMAC}
		inner := []packet.Layer{f.ip(f.client, f.vip, 63), packet.UDP{SrcPort: 9, DstPort: portHere}, packet.Payload("x")}
		toPod := f.packet(fromOther, f.client, f.localPod, 63, packet.UDP{SrcPort: 9, DstPort: 8080}, packet.Payload("x"))
		to := func(addr netip.Addr) []byte {
			return concat([]packet.Layer{fromOther, outer(f.otherNode, addr, 5, false)}, inGeneve(5, podOption(f.localPod, 0)), inner)
		}
		n.expect(kindXDP, n.out, to(f.unmet), xdpPass, "not_ours", nil)
		var many []netip.Addr
		for addr := f.unmet; len(many) < 9; addr = addr.Prev() {
			many = append(many, addr)
		}
		four, six := families[0].node, families[1].node
		for name, row := range map[string]struct {
			addrs, at, not []netip.Addr
		}{
			"two of them":        {[]netip.Addr{four, six, f.unmet}, []netip.Addr{f.node, f.unmet}, many[1:2]},
			"in the other order": {[]netip.Addr{f.unmet, six, four}, []netip.Addr{f.node, f.unmet}, many[1:2]},
			"as many as fit":     {many, many[:8], many[8:]},
			"another":            {[]netip.Addr{f.unmet}, []netip.Addr{f.unmet}, []netip.Addr{f.node}},
		} {
			n.sub(name, func(n *node) {
				if err := errors.Join(n.SetNodeAddrs(row.addrs), n.firstNodeAddrs()); err != nil {
					n.t.Fatal(err)
				}
				for _, addr := range row.at {
					n.expect(kindXDP, n.out, to(addr), xdpPass, "decap", toPod)
				}
				for _, addr := range row.not {
					n.expect(kindXDP, n.out, to(addr), xdpPass, "not_ours", nil)
				}
			})
		}
	})
}

// RFC 6040, figure 4: what the path did to the outer header is brought in.
func TestTunnelECN(t *testing.T) {
	const notECT, ect1, ect0, ce, dropped = 0, 1, 2, 3, 4
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
		fromOther := packet.Ethernet{Dst: nodeMAC, Src: otherMAC}
		classed := func(ip packet.Layer, class uint8) packet.Layer {
			if ip, ok := ip.(packet.IPv6); ok {
				ip.TrafficClass = class
				return ip
			}
			four := ip.(packet.IPv4)
			four.TOS = class
			return four
		}
		for inner, row := range [4][4]uint8{ // by the outer one
			notECT: {notECT, notECT, notECT, dropped},
			ect1:   {ect1, ect1, ect1, ce},
			ect0:   {ect0, ect1, ect0, ce},
			ce:     {ce, ce, ce, ce},
		} {
			for way, want := range row {
				for _, proto := range tunnelled {
					from, to := transport(proto, 9, portHere), transport(proto, 9, 8080)
					inside := []packet.Layer{classed(f.ip(f.client, f.vip, 63), 0xb8|uint8(inner)), from}
					ipip := concat([]packet.Layer{fromOther, classed(outer(f.otherNode, f.localPod, 5, true), uint8(way))}, inside)
					geneve := concat([]packet.Layer{fromOther, classed(outer(f.otherNode, f.node, 5, false), uint8(way))}, inGeneve(5, podOption(f.localPod, 1)), inside)
					for _, in := range [][]byte{ipip, geneve} {
						if want == dropped {
							n.expect(kindXDP, n.out, in, xdpDrop, "bad_tunnel", nil)
							continue
						}
						n.expect(kindXDP, n.out, in, xdpPass, "decap", packet.Build(fromOther, classed(f.ip(f.client, f.localPod, 63), 0xb8|want), to))
					}
				}
			}
		}
	})
}
