package kernel

import (
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// A frame that fills several buffers, of which XDP sees the first, goes where
// smaller ones go, and is counted with all of them.
func TestSeveralBuffers(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
		n.put("next_hops", uint32(30), bpfNextHop{Ifindex: uint32(n.out.Attrs().Index), Mtu: 9000,
			Saddr: be32(nodeAddr), Saddr6: words(families[1].node), Dmac: otherMAC, Smac: nodeMAC})
		a := answersIn(n, f)
		data := large(8000)
		inner := func(dst netip.Addr, port uint16) []packet.Layer {
			return []packet.Layer{f.ip(f.client, dst, 63), packet.UDP{SrcPort: 1025, DstPort: port}, data}
		}
		from := func(port uint16) []byte { return concat([]packet.Layer{fromRouter}, inner(f.vip, port)) }
		tunnel := func(eth packet.Ethernet, src, dst netip.Addr, port uint16) []byte {
			return concat([]packet.Layer{eth, outer(src, dst, flowHash(f, 1025, port, packet.ProtoUDP), false)}, inner(f.vip, port))
		}
		tooBig := a.ask(packet.UDP{SrcPort: 1025, DstPort: portSmall}, data)
		for name, row := range map[string]row{
			"to a pod here":    {from(portHere), xdpPass, "forward_local", concat([]packet.Layer{fromRouter}, inner(f.localPod, 8080))},
			"to another node":  {from(portIPIP), xdpTX, "forward_remote", tunnel(toOther, f.node, f.remotePod, portIPIP)},
			"out of a tunnel":  {tunnel(packet.Ethernet{Dst: nodeMAC, Src: otherMAC}, f.otherNode, f.localPod, portHere), xdpPass, "decap", concat([]packet.Layer{packet.Ethernet{Dst: nodeMAC, Src: otherMAC}}, inner(f.localPod, 8080))},
			"too big":          {tooBig, xdpTX, "icmp_too_big", a.fault(pick(a, uint16(0x0304), uint16(0x0200)), uint32(max(pick(a, 68, 1280), 1300-pick(a, 20, 40))), tooBig)},
			"not a VIP's":      {concat([]packet.Layer{fromRouter}, inner(f.node, portHere)), xdpPass, "not_ours", nil},
			"longer than said": {append(from(portHere), make([]byte, 5000)...), xdpPass, "forward_local", append(concat([]packet.Layer{fromRouter}, inner(f.localPod, 8080)), make([]byte, 5000)...)},
			"shorter":          {from(portHere)[:5000], xdpDrop, "truncated", nil},
		} {
			n.sub(name, func(n *node) { n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out) })
		}
	})
}
