package kernel

import (
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// putFlow notes a flow to the VIP's port of a family's local pod, on podPort.
func (n *node) putFlow(f family, table string, proto uint8, clientPort, podPort, port uint16) {
	n.t.Helper()
	if f.v6 {
		n.put(table+"6", bpfFlowKey6{Pod: words(f.localPod), Client: words(f.client), PodPort: be16(podPort), ClientPort: be16(clientPort), Proto: proto},
			bpfFlow6{Vip: words(f.vip), Port: be16(port)})
		return
	}
	n.put(table, bpfFlowKey{Pod: be32(f.localPod), Client: be32(f.client), PodPort: be16(podPort), ClientPort: be16(clientPort), Proto: proto},
		bpfFlow{Vip: be32(f.vip), Port: be16(port)})
}

// What a pod answers leaves from the VIP, in every protocol, and so do its
// fragments and its errors; and what comes for it goes into it.
func TestReplies(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
		n.putFlow(f, "flows", packet.ProtoTCP, 1025, 8080, portIPIP)
		n.putFlow(f, "flows", packet.ProtoTCP, 1026, 8080, portGeneve)
		n.putFlow(f, "half_open", packet.ProtoUDP, 1025, 8080, portIPIP)
		n.putFlow(f, "flows", packet.ProtoSCTP, 1025, 8080, portIPIP)
		fromPod := packet.Ethernet{Dst: podHostMAC, Src: podMAC}
		toPod := packet.Ethernet{Dst: podMAC, Src: podHostMAC}
		reply := func(l4 ...packet.Layer) []byte { return f.packet(fromPod, f.localPod, f.client, 64, l4...) }
		replied := func(l4 ...packet.Layer) []byte { return f.packet(toRouter, f.vip, f.client, 63, l4...) }
		arrived := func(l4 ...packet.Layer) []byte { return f.packet(fromRouter, f.client, f.localPod, 63, l4...) }
		entered := func(l4 ...packet.Layer) []byte { return f.packet(toPod, f.client, f.localPod, 62, l4...) }
		synAck := func(client, port, mss uint16) packet.Layer {
			return packet.TCP{SrcPort: port, DstPort: client, Flags: packet.SYN | packet.ACK, Options: packet.MSS(mss)}
		}
		// 1440 is for IPv4 in IP in IP; what IPv6's headers and Geneve's take more.
		mss, geneveMSS := uint16(1440), uint16(1440-28)
		if f.v6 {
			mss, geneveMSS = 1440-40, 1440-80
		}
		for name, row := range map[string]struct {
			kind    string
			in      []byte
			reason  string
			out     []byte
			nowhere bool
		}{
			"tcp":                {kindTCPod, reply(transport(packet.ProtoTCP, 8080, 1025), packet.Payload("odd")), "reply", replied(transport(packet.ProtoTCP, portIPIP, 1025), packet.Payload("odd")), false},
			"udp":                {kindTCPod, reply(transport(packet.ProtoUDP, 8080, 1025), packet.Payload("odd")), "reply", replied(transport(packet.ProtoUDP, portIPIP, 1025), packet.Payload("odd")), false},
			"sctp":               {kindTCPod, reply(transport(packet.ProtoSCTP, 8080, 1025), packet.Payload("data")), "reply", replied(transport(packet.ProtoSCTP, portIPIP, 1025), packet.Payload("data")), false},
			"mss":                {kindTCPod, reply(synAck(1025, 8080, 8960)), "reply", replied(synAck(1025, portIPIP, mss)), false},
			"mss in geneve":      {kindTCPod, reply(synAck(1026, 8080, 8960)), "reply", replied(synAck(1026, portGeneve, geneveMSS)), false},
			"tcp for the pod":    {kindTCOutside, arrived(transport(packet.ProtoTCP, 1025, 8080)), "pod_delivered", entered(transport(packet.ProtoTCP, 1025, 8080)), false},
			"udp for the pod":    {kindTCOutside, arrived(transport(packet.ProtoUDP, 1025, 8080)), "pod_delivered", entered(transport(packet.ProtoUDP, 1025, 8080)), false},
			"sctp for the pod":   {kindTCOutside, arrived(transport(packet.ProtoSCTP, 1025, 8080)), "pod_delivered", entered(transport(packet.ProtoSCTP, 1025, 8080)), false},
			"of another flow":    {kindTCOutside, arrived(transport(packet.ProtoTCP, 1027, 8080)), "not_ours", arrived(transport(packet.ProtoTCP, 1027, 8080)), true},
			"answer to no flow":  {kindTCPod, reply(transport(packet.ProtoTCP, 8080, 1027)), "not_ours", reply(transport(packet.ProtoTCP, 8080, 1027)), true},
			"error about a flow": {kindTCPod, f.podError(fromPod, f.localPod, f.localPod, 8080, 64), "icmp_forwarded", f.podError(toRouter, f.vip, f.vip, portIPIP, 63), false},
			"error about none":   {kindTCPod, f.podError(fromPod, f.localPod, f.localPod, 8081, 64), "not_ours", f.podError(fromPod, f.localPod, f.localPod, 8081, 64), true},
		} {
			n.sub(name, func(n *node) {
				dev, action := n.out, uint32(tcRedirect)
				if row.kind == kindTCPod {
					dev = n.pod
				}
				if row.nowhere {
					action = tcNext
				}
				n.expect(row.kind, dev, row.in, action, row.reason, row.out)
			})
		}
		n.sub("fragments", func(n *node) {
			whole := reply(transport(packet.ProtoUDP, 8080, 1025), make(packet.Payload, 64))
			want := replied(transport(packet.ProtoUDP, portIPIP, 1025), make(packet.Payload, 64))
			header := len(whole) - 72
			pod := func(eth packet.Ethernet, from netip.Addr, hops uint8, frame []byte, offset int, more bool) []byte {
				body := packet.Payload(frame[header+offset:])
				if more {
					body = body[:40]
				}
				return f.fragment(eth, from, f.client, hops, 77, offset, more, body)
			}
			n.expect(kindTCPod, n.pod, pod(fromPod, f.localPod, 64, whole, 0, true), tcRedirect, "reply", pod(toRouter, f.vip, 63, want, 0, true))
			n.expect(kindTCPod, n.pod, pod(fromPod, f.localPod, 64, whole, 40, false), tcRedirect, "fragment_passed", pod(toRouter, f.vip, 63, want, 40, false))
		})
	})
}

// podError is an error (port unreachable) from a pod or VIP about a UDP packet of the
// client's to quoted:port.
func (f family) podError(eth packet.Ethernet, from, quoted netip.Addr, port uint16, hops uint8) []byte {
	kind := packet.ICMP{Type: 3, Code: 3}
	if f.v6 {
		kind = packet.ICMP{Type: 1, Code: 4}
	}
	quote := f.packet(eth, f.client, quoted, 60, packet.UDP{SrcPort: 1025, DstPort: port}, packet.Payload("what"))
	return f.packet(eth, from, f.client, hops, kind, packet.Payload(quote[14:]))
}

// fragment is a part of a UDP packet.
func (f family) fragment(eth packet.Ethernet, src, dst netip.Addr, hops uint8, id uint16, offset int, more bool, body packet.Payload) []byte {
	udp := new(uint8(packet.ProtoUDP))
	if f.v6 {
		at := uint16(offset)
		if more {
			at |= 1
		}
		return packet.Build(eth, packet.IPv6{HopLimit: hops, Src: src, Dst: dst}, packet.Fragment6{Offset: at, ID: uint32(id), NextHeader: udp}, body)
	}
	at := uint16(offset / 8)
	if more {
		at |= packet.MoreFragments
	}
	return packet.Build(eth, packet.IPv4{ID: id, Fragment: at, TTL: hops, Src: src, Dst: dst, Protocol: udp}, body)
}

// A pod whose answer does not fit the way to the client is told what would.
func TestReplyTooBig(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.putEndpoint(f, f.localPod, bpfEndpoint{Ifindex: uint32(n.pod.Attrs().Index), PodMac: podMAC, HostMac: podHostMAC})
		n.putFlow(f, "flows", packet.ProtoTCP, 1025, 8080, portSNAT)
		in := f.packet(fromPod, f.localPod, f.client, 64, transport(packet.ProtoTCP, 8080, 1025), large(1600))
		r := n.run(kindTCPod, n.pod, in)
		if r.action != tcRedirect || r.reason != "icmp_too_big" {
			t.Fatalf("action %d for %q", r.action, r.reason)
		}
		kind, ip, quoted := packet.ICMP{Type: 3, Code: 4, Seq: 1500}, packet.Layer(packet.IPv4{TOS: 0xc0, Fragment: packet.DontFragment, Src: f.client, Dst: f.localPod}), 576-28
		if f.v6 {
			kind, ip, quoted = packet.ICMP{Type: 2, Seq: 1500}, packet.IPv6{TrafficClass: 0xc0, Src: f.client, Dst: f.localPod}, 1280-48
		}
		if d := packet.Diff(packet.Build(intoPod, ip, kind, packet.Payload(in[14:14+quoted])), r.out); d != "" {
			t.Errorf("the answer is not as wanted:\n%s", d)
		}
	})
}
