package kernel

import (
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

const portTracedHere = 298 // on a pod of this node

// takesFrames has the pods of the world take frames from XDP, as long as a packet of mtu.
func (n *node) takesFrames(f family, mtu uint16) {
	n.t.Helper()
	row := bpfEndpoint{Ifindex: uint32(n.pod.Attrs().Index), PodMac: podMAC, HostMac: podHostMAC, XdpMtu: mtu}
	n.putEndpoint(f, f.localPod, row)
	n.putEndpoint(f, secondPod[f.v6], row)
	if err := n.setNative(uint32(n.out.Attrs().Index), true); err != nil {
		n.t.Fatal(err)
	}
}

// What is for a pod that takes frames from XDP goes straight there, by whatever way it
// came, and all else that XDP does with it is done.
func TestXDPIntoPod(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addMoved(f)
		n.takesFrames(f, 1500)
		fromOther := packet.Ethernet{Dst: nodeMAC, Src: otherMAC}
		toPod := packet.Ethernet{Dst: podMAC, Src: podHostMAC}
		sends := func(l4 packet.Layer, hops uint8, more ...packet.Layer) []byte {
			return f.packet(fromRouter, f.client, f.vip, hops, append([]packet.Layer{l4}, more...)...)
		}
		gets := func(l4 packet.Layer, hops uint8, more ...packet.Layer) []byte {
			return f.packet(toPod, f.client, f.localPod, hops, append([]packet.Layer{l4}, more...)...)
		}
		tunnel := func(l4 packet.Layer) []byte {
			return concat([]packet.Layer{fromOther, outer(f.otherNode, f.localPod, 5, false), f.ip(f.client, f.vip, 63), l4})
		}
		geneve := func(l4 packet.Layer) []byte {
			return concat([]packet.Layer{fromOther, outer(f.otherNode, f.node, 5, false)}, inGeneve(5, podOption(f.localPod, 0)),
				[]packet.Layer{f.ip(f.client, f.vip, 63), l4})
		}
		syn := func(port uint16) packet.Layer { return packet.TCP{SrcPort: 9, DstPort: port, Flags: packet.SYN} }
		full := make(packet.Payload, 1514-len(f.packet(fromRouter, f.client, f.vip, 63, packet.UDP{})))
		udp := func(port uint16) packet.Layer { return packet.UDP{SrcPort: 9, DstPort: port} }
		tooLong := make(packet.Payload, len(full)+1)
		left := func(l4 packet.Layer, more ...packet.Layer) []byte { // to tc, as it is where no pod takes frames
			return f.packet(fromRouter, f.client, f.localPod, 63, append([]packet.Layer{l4}, more...)...)
		}
		padding := make([]byte, 8)
		n.putFrontend(f, f.vip, portTracedHere, packet.ProtoUDP, bpfFrontend{Set: 36, Flags: uint32(bpfFrontendFlagsFRONTEND_TRACED)})
		for name, row := range map[string]row{
			"tcp":                     {sends(transport(packet.ProtoTCP, 1025, portHere), 63), xdpRedirect, "forward_local", gets(transport(packet.ProtoTCP, 1025, 8080), 62)},
			"udp":                     {sends(transport(packet.ProtoUDP, 1025, portHere), 63), xdpRedirect, "forward_local", gets(transport(packet.ProtoUDP, 1025, 8080), 62)},
			"a connection's first":    {sends(syn(portHere), 63), xdpRedirect, "forward_local", gets(syn(8080), 62)},
			"last hop":                {sends(syn(portHere), 2), xdpRedirect, "forward_local", gets(syn(8080), 1)},
			"no hop left":             {sends(syn(portHere), 1), xdpDrop, "ttl_expired", f.packet(fromRouter, f.client, f.localPod, 1, syn(8080))},
			"padded":                  {append(sends(syn(portHere), 63), padding...), xdpRedirect, "forward_local", append(gets(syn(8080), 62), padding...)},
			"as long as may be":       {sends(udp(portHere), 63, full), xdpRedirect, "forward_local", gets(udp(8080), 62, full)},
			"too long for the pod":    {sends(udp(portHere), 63, tooLong), xdpPass, "forward_local", left(udp(8080), tooLong)},
			"padded to be too long":   {append(sends(udp(portHere), 63, full), 0), xdpPass, "forward_local", append(left(udp(8080), full), 0)},
			"out of IP in IP":         {tunnel(syn(portHere)), xdpRedirect, "decap", gets(syn(8080), 62)},
			"sctp, out of IP in IP":   {tunnel(transport(packet.ProtoSCTP, 1025, portHere)), xdpRedirect, "decap", gets(transport(packet.ProtoSCTP, 1025, 8080), 62)},
			"out of geneve":           {geneve(syn(portHere)), xdpRedirect, "decap", gets(syn(8080), 62)},
			"handed to another pod":   {tunnel(transport(packet.ProtoTCP, 1026, portBothHere)), xdpRedirect, "second_chance", f.packet(toPod, f.client, secondPod[f.v6], 62, transport(packet.ProtoTCP, 1026, 8080))},
			"traced":                  {sends(udp(portTracedHere), 63), xdpRedirect, "forward_local", gets(udp(8080), 62)},
			"only to another node":    {sends(udp(portIPIP), 63), xdpTX, "forward_remote", concat([]packet.Layer{toOther, outer(f.node, f.remotePod, flowHash(f, 9, portIPIP, packet.ProtoUDP), false), f.ip(f.client, f.vip, 63), udp(portIPIP)})},
			"to a port nobody serves": {sends(udp(portUnserved), 63), xdpDrop, "unserved_port", nil},
		} {
			n.sub(name, func(n *node) { n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out) })
		}
		n.sub("the flow is known", func(n *node) { // or the pod's answers would not become the VIP's
			n.clearFamilyFlows(f)
			n.expect(kindXDP, n.out, sends(syn(portHere), 63), xdpRedirect, "forward_local", gets(syn(8080), 62))
			answer := f.packet(packet.Ethernet{Dst: podHostMAC, Src: podMAC}, f.localPod, f.client, 64, packet.TCP{SrcPort: 8080, DstPort: 9, Flags: packet.SYN | packet.ACK, Seq: 70})
			if r := n.run(kindTCPod, n.pod, answer); r.reason != "reply" {
				n.t.Errorf("the pod's answer: %s", r.reason)
			}
			ack := packet.TCP{SrcPort: 9, DstPort: portHere, Flags: packet.ACK, Ack: 71}
			toPod := ack
			toPod.DstPort = 8080
			n.expect(kindXDP, n.out, sends(ack, 63), xdpRedirect, "forward_local", gets(toPod, 62))
			if half, whole := n.entries(f.table("half_open")), n.entries(f.table("flows")); half != 0 || whole != 1 {
				n.t.Errorf("%d half open and %d established flows, want 0 and 1", half, whole)
			}
		})
		n.sub("fragments", func(n *node) {
			in, out := f.packet(fromRouter, f.client, f.vip, 63, udp(portHere), large(3000)), f.packet(toPod, f.client, f.localPod, 62, udp(8080), large(3000))
			header := len(in) - 3000 - 8
			for offset := 0; offset < 3008; offset += 1400 {
				reason := "fragment_passed"
				if offset == 0 {
					reason = "forward_local"
				}
				end := min(offset+1400, 3008)
				n.expect(kindXDP, n.out, f.fragment(fromRouter, f.client, f.vip, 63, 21, offset, end < 3008, in[header+offset:header+end]), xdpRedirect, reason,
					f.fragment(toPod, f.client, f.localPod, 62, 21, offset, end < 3008, out[header+offset:header+end]))
			}
		})
	})
}

// Frames of several buffers go into pods that take as long packets.
func TestXDPIntoPodOfJumboFrames(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addMoved(f)
		frame := func(eth packet.Ethernet, dst netip.Addr, port uint16, hops uint8) []byte {
			return f.packet(eth, f.client, dst, hops, packet.UDP{SrcPort: 9, DstPort: port}, large(8000))
		}
		in := frame(fromRouter, f.vip, portHere, 63)
		for mtu, row := range map[uint16]row{
			9000: {in, xdpRedirect, "forward_local", frame(packet.Ethernet{Dst: podMAC, Src: podHostMAC}, f.localPod, 8080, 62)},
			8000: {in, xdpPass, "forward_local", frame(fromRouter, f.localPod, 8080, 63)},
		} {
			n.takesFrames(f, mtu)
			n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out)
		}
	})
}

// Where a frame may not be sent into the pod it is tc's, as it was.
func TestXDPLeavesPodsToTC(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addMoved(f)
		udp := func(port uint16) packet.Layer { return packet.UDP{SrcPort: 9, DstPort: port} }
		in := f.packet(fromRouter, f.client, f.vip, 63, udp(portHere))
		left := f.packet(fromRouter, f.client, f.localPod, 63, udp(8080))
		sent := f.packet(packet.Ethernet{Dst: podMAC, Src: podHostMAC}, f.client, f.localPod, 62, udp(8080))
		leaves := func(n *node) { n.expect(kindXDP, n.out, in, xdpPass, "forward_local", left) }
		sends := func(n *node) { n.expect(kindXDP, n.out, in, xdpRedirect, "forward_local", sent) }
		index := uint32(n.out.Attrs().Index)
		n.takesFrames(f, 1500)
		n.sub("as it is", sends)
		n.takesFrames(f, 0)
		n.sub("the pod takes none", leaves)
		n.takesFrames(f, 1500)
		if err := n.setNative(index, false); err != nil {
			t.Fatal(err)
		}
		n.sub("XDP is in the stack", leaves)
		if err := n.setNative(index+1, true); err != nil { // another device's row
			t.Fatal(err)
		}
		n.sub("another device's driver", leaves)
		if err := n.setNative(index, true); err != nil {
			t.Fatal(err)
		}
		n.sub("XDP is in the driver again", sends)
		n.sub("in tc", func(n *node) {
			r := n.run(kindTCBalance, n.out, in)
			if d := packet.Diff(sent, r.out); r.action != tcRedirect || d != "" {
				n.t.Errorf("action %d:\n%s", int32(r.action), d)
			}
		})
	})
}
