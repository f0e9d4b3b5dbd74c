package kernel

import (
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// moved makes a set whose one slot went from backend before to backend after.
func (n *node) moved(set, before, after uint32) {
	n.t.Helper()
	n.table(set, 1, []uint32{before})
	n.table(set, 0, []uint32{after})
	n.put("sets", set, bpfBackendSet{Size: [4]uint32{1, 1}, Look: 1 << 2})
}

// The ports of a VIP whose slots have moved.
const (
	portToHere     = 290 // from the other node to the pod here
	portFromHere   = 291 // from the pod here to the other node
	portStayed     = 292 // not at all: the pod here
	portGone       = 293 // to the pod here, from one that is gone
	portBothHere   = 294 // between two pods here
	portGeneveTo   = 295 // as portToHere, in Geneve
	portElsewhere2 = 296 // between pods of two other nodes
)

var secondPod = map[bool]netip.Addr{false: netip.MustParseAddr("172.20.0.9"), true: netip.MustParseAddr("fd00:20::9")} // on this node; by v6

func (n *node) addMoved(f family) {
	n.t.Helper()
	n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
	const here, there, gone, second, third = 36, 30, 41, 42, 43
	n.putBackend(f, second, secondPod[f.v6], 8080, 0, uint8(bpfBackendFlagsBACKEND_LOCAL))
	n.putBackend(f, third, f.unmet, 8080, 30, 0)
	n.putEndpoint(f, secondPod[f.v6], bpfEndpoint{Ifindex: uint32(n.pod.Attrs().Index)})
	for port, row := range map[uint16]struct{ before, after, flags uint32 }{
		portToHere:     {there, here, 0},
		portFromHere:   {here, there, 0},
		portStayed:     {here, here, 0},
		portGone:       {gone, here, 0},
		portBothHere:   {second, here, 0},
		portGeneveTo:   {there, here, uint32(bpfFrontendFlagsFRONTEND_GENEVE)},
		portElsewhere2: {third, there, 0},
	} {
		set := uint32(port)
		n.moved(set, row.before, row.after)
		for _, proto := range tunnelled {
			n.putFrontend(f, f.vip, port, proto, bpfFrontend{Set: set, Flags: row.flags})
			n.putTarget(f, f.vip, f.localPod, port, proto, 8080)
			n.putTarget(f, f.vip, secondPod[f.v6], port, proto, 8080)
		}
	}
}

// A packet that the pod it was sent to does not know goes once to the other
// backend of its slot.
func TestSecondChance(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.addMoved(f)
		fromOther := packet.Ethernet{Dst: nodeMAC, Src: otherMAC}
		ack := func(port uint16) packet.Layer { return transport(packet.ProtoTCP, 9, port) }
		hash := func(port uint16) uint32 { return flowHash(f, 9, port, packet.ProtoTCP) }
		syn := func(port uint16) packet.Layer { return packet.TCP{SrcPort: 9, DstPort: port, Flags: packet.SYN} }
		tunnel := func(handedOn bool, hops uint8, l4 packet.Layer) []byte {
			return concat([]packet.Layer{fromOther, outer(f.otherNode, f.localPod, 5, handedOn)}, []packet.Layer{f.ip(f.client, f.vip, hops), l4})
		}
		direct := func(l4 packet.Layer) []byte { return f.packet(fromRouter, f.client, f.vip, 63, l4) }
		on := func(port uint16, l4 packet.Layer, hash uint32) []byte {
			return concat([]packet.Layer{toOther, outer(f.node, f.remotePod, hash, true), f.ip(f.client, f.vip, 62), l4})
		}
		into := func(eth packet.Ethernet, pod netip.Addr, hops uint8, l4 packet.Layer) []byte {
			return f.packet(eth, f.client, pod, hops, l4)
		}
		toPort := func(l4 packet.Layer, port uint16) packet.Layer {
			switch l := l4.(type) {
			case packet.TCP:
				l.DstPort = port
				return l
			case packet.UDP:
				l.DstPort = port
				return l
			case packet.SCTP:
				l.DstPort = port
				return l
			}
			return l4
		}
		udp := packet.UDP{SrcPort: 9, DstPort: portToHere}
		init := packet.SCTP{SrcPort: 9, DstPort: portToHere, Chunk: packet.ChunkInit}
		data := packet.SCTP{SrcPort: 9, DstPort: portToHere, Tag: 7}
		overGeneve := concat([]packet.Layer{toOther, outer(f.node, f.otherNode, hash(portGeneveTo), false)},
			inGeneve(hash(portGeneveTo), podOption(f.remotePod, 1)), []packet.Layer{f.ip(f.client, f.vip, 62), ack(portGeneveTo)})
		markedGeneve := concat([]packet.Layer{fromOther, outer(f.otherNode, f.node, 5, false)},
			inGeneve(5, podOption(f.localPod, 1)), []packet.Layer{f.ip(f.client, f.vip, 63), ack(portGeneveTo)})

		for name, row := range map[string]struct {
			in     []byte
			action uint32
			reason string
			out    []byte
		}{
			"to the one before":          {tunnel(false, 63, ack(portToHere)), xdpTX, "second_chance", on(portToHere, ack(portToHere), hash(portToHere))},
			"to the one now":             {tunnel(false, 63, ack(portFromHere)), xdpTX, "second_chance", on(portFromHere, ack(portFromHere), hash(portFromHere))},
			"to the one now, of three":   {tunnel(false, 63, ack(portElsewhere2)), xdpTX, "second_chance", on(portElsewhere2, ack(portElsewhere2), hash(portElsewhere2))},
			"from the client itself":     {direct(ack(portToHere)), xdpTX, "second_chance", on(portToHere, ack(portToHere), hash(portToHere))},
			"sctp data":                  {tunnel(false, 63, data), xdpTX, "second_chance", on(portToHere, data, flowHash(f, 9, portToHere, packet.ProtoSCTP))},
			"in geneve":                  {tunnel(false, 63, ack(portGeneveTo)), xdpTX, "second_chance", overGeneve},
			"to another pod here":        {tunnel(false, 63, ack(portBothHere)), xdpPass, "second_chance", into(fromOther, secondPod[f.v6], 63, toPort(ack(portBothHere), 8080))},
			"handed on":                  {tunnel(true, 63, ack(portToHere)), xdpPass, "decap", into(fromOther, f.localPod, 63, toPort(ack(portToHere), 8080))},
			"handed on in geneve":        {markedGeneve, xdpPass, "decap", into(fromOther, f.localPod, 63, toPort(ack(portGeneveTo), 8080))},
			"slot has not moved":         {tunnel(false, 63, ack(portStayed)), xdpPass, "decap", into(fromOther, f.localPod, 63, toPort(ack(portStayed), 8080))},
			"the other is gone":          {tunnel(false, 63, ack(portGone)), xdpPass, "decap", into(fromOther, f.localPod, 63, toPort(ack(portGone), 8080))},
			"syn":                        {tunnel(false, 63, syn(portToHere)), xdpPass, "decap", into(fromOther, f.localPod, 63, toPort(syn(portToHere), 8080))},
			"syn from the client itself": {direct(syn(portToHere)), xdpPass, "forward_local", into(fromRouter, f.localPod, 63, toPort(syn(portToHere), 8080))},
			"udp":                        {tunnel(false, 63, udp), xdpPass, "decap", into(fromOther, f.localPod, 63, toPort(udp, 8080))},
			"sctp init":                  {tunnel(false, 63, init), xdpPass, "decap", into(fromOther, f.localPod, 63, toPort(init, 8080))},
			"hops used up":               {tunnel(false, 1, ack(portToHere)), xdpDrop, "ttl_expired", into(fromOther, f.vip, 1, ack(portToHere))},
		} {
			n.sub(name, func(n *node) {
				n.clearFamilyFlows(f)
				n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out)
				noted := n.entries(f.table("half_open")) + n.entries(f.table("flows"))
				if want := map[bool]int{true: 1}[row.action == xdpPass]; noted != want {
					n.t.Errorf("%d flows noted, want %d", noted, want)
				}
			})
		}
		n.sub("a flow that is known", func(n *node) {
			n.clearFamilyFlows(f)
			n.run(kindXDP, n.out, tunnel(false, 63, syn(portToHere)))
			n.expect(kindXDP, n.out, tunnel(false, 63, ack(portToHere)), xdpPass, "decap", into(fromOther, f.localPod, 63, toPort(ack(portToHere), 8080)))
		})
	})
}

// A flow that only the other backend knows survives, and what nobody knows is
// let in at the second node: it never comes back.
func TestSecondChanceOfTwoNodes(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			// The second node's pod is remotePod; both nodes are 192.168.10.100, and nodeMAC.
			first := newNode(t)
			first.addFamily(f)
			h := newHost(t)
			second := nodeWith(t, h, h.config())
			second.addFamily(f)
			first.addMoved(f)
			first.put("next_hops", uint32(30), bpfNextHop{Ifindex: uint32(first.out.Attrs().Index), Mtu: 1500, Saddr: be32(nodeAddr), Saddr6: words(families[1].node), Dmac: nodeMAC, Smac: nodeMAC})
			there := f
			there.localPod, there.remotePod = f.remotePod, f.localPod
			second.addMoved(there)
			// At the second node the slot has moved the other way round: from its own pod.
			second.moved(portToHere, 36, 30)

			packetOf := func(sport uint16, flags uint8) []byte {
				return f.packet(fromRouter, f.client, f.vip, 63, packet.TCP{SrcPort: sport, DstPort: portToHere, Flags: flags})
			}
			old := concat([]packet.Layer{fromRouter, outer(f.otherNode, f.remotePod, 5, false), f.ip(f.client, f.vip, 63), packet.TCP{SrcPort: 7, DstPort: portToHere, Flags: packet.SYN}})
			second.run(kindXDP, second.out, old)
			for sport, known := range map[uint16]bool{7: true, 8: false} {
				flows := second.entries(f.table("half_open"))
				on := first.run(kindXDP, first.out, packetOf(sport, packet.ACK))
				in := second.run(kindXDP, second.out, on.out)
				if on.reason != "second_chance" || in.action != xdpPass || in.reason != "decap" {
					t.Errorf("flow %d: %s, and then action %d for %s", sport, on.reason, in.action, in.reason)
				}
				if fresh := second.entries(f.table("half_open")) != flows; fresh == known {
					t.Errorf("flow %d: noted anew: %v", sport, fresh)
				}
			}
		})
	}
}

// Without it, a pod gets what it was sent.
func TestNoSecondChance(t *testing.T) {
	h := newHost(t)
	cfg := h.config()
	cfg.NoSecondChance = true
	n, f := nodeWith(t, h, cfg), families[0]
	n.addFamily(f)
	n.addMoved(f)
	ack := func(port uint16) packet.Layer { return transport(packet.ProtoTCP, 9, port) }
	n.expect(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, ack(portToHere)), xdpPass, "forward_local",
		f.packet(fromRouter, f.client, f.localPod, 63, ack(8080)))
}

// clearFamilyFlows forgets all flows of a family.
func (n *node) clearFamilyFlows(f family) {
	n.t.Helper()
	for _, name := range []string{"flows", "half_open"} {
		m := n.maps[f.table(name)]
		key := make([]byte, m.KeySize())
		for m.NextKey(nil, &key) == nil {
			if err := m.Delete(key); err != nil {
				n.t.Fatal(err)
			}
		}
	}
}

// entries counts the entries of a table.
func (n *node) entries(name string) (count int) {
	n.t.Helper()
	m := n.maps[name]
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	it := m.Iterate()
	for it.Next(&key, &value) {
		count++
	}
	if err := it.Err(); err != nil {
		n.t.Fatal(err)
	}
	return count
}
