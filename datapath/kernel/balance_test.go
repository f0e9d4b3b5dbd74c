package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Backends on the other node, and sets of them.
const (
	idNew, idOld, idThird = 121, 122, 123

	setMoved, setAffine = 131, 132

	portMoved, portAffine, portSources, portHidden = 90, 91, 92, 93
)

// pod is the address of one of those backends.
func (f family) pod(id uint32) netip.Addr {
	addr := f.remotePod.AsSlice()
	addr[len(addr)-1] = byte(id)
	pod, _ := netip.AddrFromSlice(addr)
	return pod
}

const (
	moved  = uint32(bpfSlotSLOT_MOVED)
	moving = uint32(bpfSetLookSET_MOVING)
)

// balancing adds frontends whose slots alone do not say the backend.
func (n *node) balancing(f family) {
	n.t.Helper()
	for _, id := range []uint32{idNew, idOld, idThird} {
		n.putBackend(f, id, f.pod(id), 8080, 20, 0)
	}
	n.move(idNew|moved, moving)
	n.table(setAffine, 0, []uint32{idNew, idOld, idThird})
	n.put("sets", uint32(setAffine), bpfBackendSet{Size: [4]uint32{3}, Affinity: 1000})
	for _, proto := range tunnelled {
		for port, row := range map[uint16]bpfFrontend{
			portMoved:   {Set: setMoved, Service: 5},
			portAffine:  {Set: setAffine, Service: 6, Flags: uint32(bpfFrontendFlagsFRONTEND_AFFINITY)},
			portSources: {Set: setMoved, Service: 7, Flags: uint32(bpfFrontendFlagsFRONTEND_SOURCES)},
			portHidden:  {Set: setMoved, Service: 8, Flags: uint32(bpfFrontendFlagsFRONTEND_INSIDE)},
		} {
			n.putFrontend(f, f.vip, port, proto, row)
		}
	}
}

// move makes slot that of a table of one, which had idOld before.
func (n *node) move(slot, look uint32) {
	n.t.Helper()
	n.table(setMoved, 0, []uint32{idOld})
	n.table(setMoved, 1, []uint32{slot})
	n.put("sets", uint32(setMoved), bpfBackendSet{Size: [4]uint32{1, 1}, Look: 1 | look})
}

// drain lets a backend keep its flows and get no new ones.
func (n *node) drain(f family, id uint32) {
	n.t.Helper()
	n.putBackend(f, id, f.pod(id), 8080, 20, uint8(bpfBackendFlagsBACKEND_DRAINING))
}

// goes sends a client's packet and looks which backend it went to, and why.
func (n *node) goes(f family, l4 packet.Layer, id uint32, reason string) {
	n.t.Helper()
	in := []packet.Layer{fromRouter, f.ip(f.client, f.vip, 63), l4}
	frame := packet.Build(in...)
	ports, proto := frame[14+20:], frame[14+9]
	if f.v6 {
		ports, proto = frame[14+40:], frame[14+6]
	}
	hash := flowHash(f, binary.BigEndian.Uint16(ports), binary.BigEndian.Uint16(ports[2:]), proto)
	n.expect(kindXDP, n.out, frame, xdpTX, reason, concat([]packet.Layer{toOther, outer(f.node, f.pod(id), hash, false)}, in[1:]))
}

// pin returns the backend that a flow of the client's is pinned to, and its flags.
func (n *node) pin(f family, proto uint8, from, to uint16) (backend, flags uint32) {
	n.t.Helper()
	var key any = bpfTuple{Saddr: be32(client), Daddr: be32(vip), Sport: be16(from), Dport: be16(to), Proto: proto}
	if f.v6 {
		key = bpfTuple6{Saddr: words(f.client), Daddr: words(f.vip), Sport: be16(from), Dport: be16(to), Proto: proto}
	}
	var pin bpfPin
	if err := n.maps[f.table("pins")].Lookup(key, &pin); err != nil {
		return 0, 0
	}
	return pin.Backend, pin.Flags
}

func (n *node) pinned(f family, proto uint8, from, to uint16, backend, flags uint32) {
	n.t.Helper()
	if b, got := n.pin(f, proto, from, to); b != backend || got != flags {
		n.t.Errorf("port %d is pinned to %d, flags %d; want %d, flags %d", from, b, got, backend, flags)
	}
}

// fillPins leaves no room for another pin.
func (n *node) fillPins(f family) {
	n.t.Helper()
	m := n.maps[f.table("pins")]
	room := int(m.MaxEntries())
	var keys any
	if f.v6 {
		all := make([]bpfTuple6, room)
		for i := range all {
			all[i] = bpfTuple6{Saddr: [4]uint32{uint32(i)}, Proto: 1}
		}
		keys = all
	} else {
		all := make([]bpfTuple, room)
		for i := range all {
			all[i] = bpfTuple{Saddr: uint32(i), Proto: 1}
		}
		keys = all
	}
	// What there is already takes some of the room.
	if _, err := m.BatchUpdate(keys, make([]bpfPin, room), nil); err != nil && !errors.Is(err, unix.E2BIG) {
		n.t.Fatal(err)
	}
}

func TestMovedSlots(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.balancing(f)
		const closing = uint32(bpfFlowFlagsFLOW_REPLIED | bpfFlowFlagsFLOW_CLOSING)
		tcp := func(from uint16, flags uint8) packet.TCP {
			return packet.TCP{SrcPort: from, DstPort: portMoved, Flags: flags}
		}
		udp := func(from uint16) packet.UDP { return packet.UDP{SrcPort: from, DstPort: portMoved} }
		sctp := func(from uint16, chunk uint8) packet.SCTP {
			return packet.SCTP{SrcPort: from, DstPort: portMoved, Chunk: chunk}
		}
		n.sub("older flow", func(n *node) {
			n.goes(f, tcp(1, packet.ACK), idOld, "forward_previous")
			n.pinned(f, packet.ProtoTCP, 1, portMoved, idOld, 0)
			n.goes(f, tcp(1, packet.ACK), idOld, "forward_pinned")
			n.goes(f, tcp(1, packet.FIN|packet.ACK), idOld, "forward_pinned")
			n.pinned(f, packet.ProtoTCP, 1, portMoved, idOld, closing)
		})
		n.sub("new flow, with the ports of an old one", func(n *node) {
			n.goes(f, tcp(1, packet.SYN), idNew, "forward_remote")
			n.pinned(f, packet.ProtoTCP, 1, portMoved, idNew, 0)
			n.goes(f, tcp(1, packet.ACK), idNew, "forward_pinned")
		})
		n.sub("SYN-ACK begins nothing", func(n *node) {
			n.goes(f, tcp(2, packet.SYN|packet.ACK), idOld, "forward_previous")
		})
		n.sub("RST is not remembered", func(n *node) {
			n.goes(f, tcp(3, packet.RST), idOld, "forward_previous")
			n.pinned(f, packet.ProtoTCP, 3, portMoved, 0, 0)
		})
		n.sub("udp", func(n *node) {
			n.goes(f, udp(1), idOld, "forward_previous")
			n.pinned(f, packet.ProtoUDP, 1, portMoved, idOld, 0)
			n.goes(f, udp(1), idOld, "forward_pinned")
		})
		n.sub("sctp", func(n *node) {
			n.goes(f, sctp(1, packet.ChunkInit), idNew, "forward_remote")
			n.goes(f, sctp(1, packet.ChunkData), idNew, "forward_pinned")
			n.goes(f, sctp(2, packet.ChunkData), idOld, "forward_previous")
		})
		n.sub("previous drains", func(n *node) {
			n.drain(f, idOld)
			n.goes(f, tcp(4, packet.ACK), idOld, "forward_previous")
			n.goes(f, udp(4), idNew, "forward_remote")
			n.pinned(f, packet.ProtoUDP, 4, portMoved, idNew, 0)
			n.goes(f, udp(1), idOld, "forward_pinned")
		})
		n.sub("previous is gone", func(n *node) {
			rows := n.maps[f.table("backends")]
			n.put(f.table("backends"), uint32(idOld), make([]byte, rows.ValueSize()))
			defer n.putBackend(f, idOld, f.pod(idOld), 8080, 20, 0)
			n.goes(f, tcp(5, packet.ACK), idNew, "forward_remote")
			n.pinned(f, packet.ProtoTCP, 5, portMoved, 0, 0)
			n.goes(f, udp(1), idNew, "forward_remote") // whose pin leads nowhere
			n.pinned(f, packet.ProtoUDP, 1, portMoved, idNew, 0)
		})
		n.sub("slot has not moved", func(n *node) {
			n.move(idNew, moving)
			defer n.move(idNew|moved, moving)
			n.goes(f, tcp(6, packet.ACK), idNew, "forward_remote")
			n.goes(f, tcp(6, packet.SYN), idNew, "forward_remote")
			n.pinned(f, packet.ProtoTCP, 6, portMoved, 0, 0)
		})
		n.sub("window is over", func(n *node) {
			n.move(idNew|moved, 0)
			defer n.move(idNew|moved, moving)
			n.goes(f, tcp(7, packet.ACK), idNew, "forward_remote")
			n.pinned(f, packet.ProtoTCP, 7, portMoved, 0, 0)
		})
		n.sub("no room for pins", func(n *node) {
			n.fillPins(f)
			n.goes(f, tcp(8, packet.SYN), idOld, "forward_previous")
			n.goes(f, tcp(8, packet.ACK), idOld, "forward_previous")
			n.pinned(f, packet.ProtoTCP, 8, portMoved, 0, 0)
			n.drain(f, idOld)
			n.goes(f, tcp(9, packet.SYN), idNew, "forward_remote")
		})
	})
}

func TestAffinity(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.balancing(f)
		var key any = bpfAffinityKey{Client: be32(client), Service: 6}
		if f.v6 {
			key = bpfAffinityKey6{Client: words(f.client), Service: 6}
		}
		tcp := func(from uint16, flags uint8) packet.TCP {
			return packet.TCP{SrcPort: from, DstPort: portAffine, Flags: flags}
		}
		n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, tcp(1, packet.SYN)))
		var last bpfAffinity
		if err := n.maps[f.table("affinity")].Lookup(key, &last); err != nil {
			n.t.Fatal(err)
		}
		home := last.Backend
		n.sub("all connections of a client", func(n *node) {
			for port := range uint16(20) { // of which a third would go there by chance
				n.goes(f, tcp(100+port, packet.SYN), home, "forward_remote")
				n.goes(f, tcp(100+port, packet.ACK), home, "forward_pinned")
				n.goes(f, tcp(200+port, packet.ACK), home, "forward_remote")
				n.goes(f, packet.UDP{SrcPort: port, DstPort: portAffine}, home, "forward_remote")
				n.goes(f, packet.SCTP{SrcPort: port, DstPort: portAffine, Chunk: packet.ChunkInit}, home, "forward_remote")
				n.goes(f, packet.SCTP{SrcPort: port, DstPort: portAffine}, home, "forward_pinned")
			}
		})
		slot := func(from uint16) uint32 {
			return []uint32{idNew, idOld, idThird}[MaglevSlot(flowHash(f, from, portAffine, packet.ProtoTCP), 3)]
		}
		elsewhere := uint16(1000)
		for slot(elsewhere) == home {
			elsewhere++
		}
		next := elsewhere + 1
		for slot(next) == home {
			next++
		}
		n.sub("time is over", func(n *node) {
			old := last
			old.Seen -= 1001
			n.put(f.table("affinity"), key, old)
			n.goes(f, tcp(elsewhere, packet.SYN), slot(elsewhere), "forward_remote")
			n.put(f.table("affinity"), key, last)
		})
		n.sub("its backend drains", func(n *node) {
			n.drain(f, home)
			n.goes(f, tcp(elsewhere, packet.SYN), slot(elsewhere), "forward_pinned")
			n.goes(f, tcp(100, packet.ACK), home, "forward_pinned")
			n.goes(f, tcp(next, packet.SYN), slot(next), "forward_remote") // the client's new one
		})
	})
}

func TestSourcesAndInside(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		n.balancing(f)
		for _, l4 := range []packet.Layer{
			packet.TCP{SrcPort: 1, DstPort: portSources, Flags: packet.SYN},
			packet.UDP{SrcPort: 1, DstPort: portSources},
			packet.SCTP{SrcPort: 1, DstPort: portSources, Chunk: packet.ChunkInit},
		} {
			n.expect(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4), xdpDrop, "source_range", nil)
		}
		in := packet.TCP{SrcPort: 1, DstPort: portSources, Flags: packet.SYN}
		whole, around := netip.PrefixFrom(f.client, f.client.BitLen()), netip.PrefixFrom(f.client, f.client.BitLen()/2)
		n.putSource(f, 8, whole) // of another Service
		n.expect(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, in), xdpDrop, "source_range", nil)
		n.putSource(f, 7, around.Masked())
		n.goes(f, in, idNew, "forward_remote")
		n.expect(kindXDP, n.out, f.packet(fromRouter, f.router, f.vip, 63, in), xdpDrop, "source_range", nil)
		n.expect(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, packet.TCP{DstPort: portHidden}), xdpPass, "not_ours", nil)
	})
}

func TestCounts(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.balancing(f)
		in := f.packet(fromRouter, f.client, f.vip, 63, packet.TCP{SrcPort: 1, DstPort: portMoved, Flags: packet.SYN})
		size := uint64(len(in) - 14)
		counters := map[string]uint32{"service_counts": 5, "backend_counts": idNew}
		before := map[string]bpfCount{}
		for name, at := range counters {
			before[name] = n.counted(name, at)
		}
		for range 3 {
			n.run(kindXDP, n.out, in)
		}
		for name, at := range counters {
			now, then := n.counted(name, at), before[name]
			got := bpfCount{Packets: now.Packets - then.Packets, Bytes: now.Bytes - then.Bytes}
			if want := (bpfCount{Packets: 3, Bytes: 3 * size}); got != want {
				n.t.Errorf("%s[%d] rose by %+v, want %+v", name, at, got, want)
			}
		}
	})
}

// counted is a counter's sum over the CPUs.
func (n *node) counted(name string, at uint32) (sum bpfCount) {
	n.t.Helper()
	var counts []bpfCount
	if err := n.maps[name].Lookup(at, &counts); err != nil {
		n.t.Fatal(err)
	}
	for _, c := range counts {
		sum.Packets, sum.Bytes = sum.Packets+c.Packets, sum.Bytes+c.Bytes
	}
	return sum
}

func TestVLAN(t *testing.T) { inEachFamily(t, inVLANs) }

func inVLANs(n *node, f family) {
	const portHop, portByVLAN, portSNATByVLAN = 94, 95, 96
	n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
	out, second := uint32(n.out.Attrs().Index), uint32(n.second.Attrs().Index)
	secondMAC := packet.ParseMAC("02:00:00:00:01:64")
	n.put("vlans", bpfVlanKey{Device: out, Outer: 10}, second)
	n.put("vlans", bpfVlanKey{Device: out, Outer: 10, Inner: 20}, second)
	n.put("next_hops", uint32(9), bpfNextHop{Ifindex: out, Vlan: 30, Saddr: be32(nodeAddr), Saddr6: words(families[1].node), Dmac: otherMAC, Smac: nodeMAC})
	n.putBackend(f, 9, f.remotePod, 8080, 9, 0)
	n.table(9, 0, []uint32{9})
	n.putFrontend(f, f.vip, portHop, packet.ProtoTCP, bpfFrontend{Set: 9})
	n.put("announced", bpfAnnouncedKey{Addr: be32(otherVIP), Ifindex: second}, bpfAnnounced{Generation: 1, Mac: secondMAC})

	// The FIB finds the way by the VLAN device; from XDP that is its carrier, with the tag.
	n.put("devices", second%uint32(bpfMaxDevicesMAX_DEVICES), bpfDevice{Ifindex: second, Mac: secondMAC, Mtu: 1500, Carrier: out, Vlan: 10})
	inVLAN, gateway := netip.MustParseAddr("172.22.0.9"), netip.MustParseAddr("192.168.77.1")
	here, pods := netip.MustParsePrefix("192.168.77.100/24"), netip.MustParsePrefix("172.22.0.0/16")
	if f.v6 {
		inVLAN, gateway = netip.MustParseAddr("fd00:22::9"), netip.MustParseAddr("fd00:77::1")
		here, pods = netip.MustParsePrefix("fd00:77::100/64"), netip.MustParsePrefix("fd00:22::/32")
		writeSysctl(n.t, "net/ipv6/conf/second/addr_gen_mode", "1")
		writeSysctl(n.t, "net/ipv6/conf/second/disable_ipv6", "0")
	}
	for _, err := range []error{
		netlink.AddrAdd(n.second, &netlink.Addr{IPNet: ipnet(here), Flags: unix.IFA_F_NODAD}),
		netlink.RouteAdd(&netlink.Route{Dst: ipnet(pods), Gw: gateway.AsSlice(), LinkIndex: int(second)}),
		netlink.NeighSet(&netlink.Neigh{LinkIndex: int(second), State: unix.NUD_PERMANENT, IP: gateway.AsSlice(), HardwareAddr: strangeMAC[:]}),
	} {
		if err != nil {
			n.t.Fatal(err)
		}
	}
	n.putBackend(f, 10, inVLAN, 8080, 33, 0)
	n.table(10, 0, []uint32{10})
	n.putFrontend(f, f.vip, portByVLAN, packet.ProtoTCP, bpfFrontend{Set: 10})
	n.putFrontend(f, f.vip, portSNATByVLAN, packet.ProtoTCP, bpfFrontend{Set: 10, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT)})

	tag, inner := packet.VLAN{TCI: 0x6000 | 10}, packet.VLAN{TCI: 20}
	tagged := func(tags []packet.Layer, dst packet.MAC, l ...packet.Layer) []byte {
		return concat([]packet.Layer{packet.Ethernet{Dst: dst, Src: routerMAC}}, tags, l)
	}
	one, two := []packet.Layer{tag}, []packet.Layer{packet.VLAN{TPID: packet.TypeQinQ, TCI: 10}, inner}
	ip, podIP := f.ip(f.client, f.vip, 63), f.ip(f.client, f.localPod, 63)
	tcp := func(port uint16) packet.TCP { return packet.TCP{SrcPort: 1, DstPort: port} }
	carried := func(to netip.Addr, port uint16) packet.Layer {
		return outer(f.node, to, flowHash(f, 1, port, packet.ProtoTCP), false)
	}
	ping, pong := packet.ICMP{Type: packet.EchoRequest, ID: 7}, packet.ICMP{Type: packet.EchoReply, ID: 7}
	if f.v6 {
		ping.Type, pong.Type = packet.EchoRequest6, packet.EchoReply6
	}
	translated, becomes := packet.TCP{SrcPort: 62000, DstPort: portSNATByVLAN, Flags: packet.SYN}, packet.TCP{SrcPort: 62000, DstPort: 8080, Flags: packet.SYN}
	byVLAN := packet.Ethernet{Dst: strangeMAC, Src: secondMAC}
	build := packet.Build
	remote := build(toOther, carried(f.remotePod, portIPIP), ip, tcp(portIPIP))
	withTag := build(toOther, packet.VLAN{TCI: 30}, carried(f.remotePod, portHop), ip, tcp(portHop))

	rows := map[string]row{
		"to remote pod":           {tagged(one, secondMAC, ip, tcp(portIPIP)), xdpTX, "forward_remote", remote},
		"two tags":                {tagged(two, secondMAC, ip, tcp(portIPIP)), xdpTX, "forward_remote", remote},
		"next hop has a tag":      {build(fromRouter, ip, tcp(portHop)), xdpTX, "forward_remote", withTag},
		"another tag":             {tagged(one, secondMAC, ip, tcp(portHop)), xdpTX, "forward_remote", withTag},
		"by the FIB, in the VLAN": {tagged(one, secondMAC, ip, tcp(portByVLAN)), xdpTX, "forward_remote", build(byVLAN, packet.VLAN{TCI: 10}, carried(inVLAN, portByVLAN), ip, tcp(portByVLAN))},
		"by the FIB, translated":  {tagged(one, secondMAC, ip, translated), xdpTX, "forward_snat", build(byVLAN, packet.VLAN{TCI: 10}, f.ip(f.node, inVLAN, 62), becomes)},
		"to local pod":            {tagged(one, secondMAC, ip, tcp(portHere)), xdpPass, "forward_local", tagged(one, secondMAC, podIP, tcp(8080))},
		"two tags, to local pod":  {tagged(two, secondMAC, ip, tcp(portHere)), xdpPass, "forward_local", tagged(two, secondMAC, podIP, tcp(8080))},
		"for its priority alone":  {tagged([]packet.Layer{packet.VLAN{TCI: 0xe000}}, nodeMAC, ip, tcp(portIPIP)), xdpTX, "forward_remote", remote},
		"of an unknown VLAN":      {tagged([]packet.Layer{inner}, nodeMAC, ip, tcp(portIPIP)), xdpPass, "not_ours", nil},
		"three tags":              {tagged([]packet.Layer{tag, inner, inner}, secondMAC, ip, tcp(portIPIP)), xdpPass, "not_ours", nil},
		"to another machine":      {tagged(one, otherMAC, ip, tcp(portIPIP)), xdpPass, "not_ours", nil},
		"unserved port":           {tagged(one, secondMAC, ip, tcp(portUnserved)), xdpDrop, "unserved_port", build(packet.Ethernet{Dst: secondMAC, Src: routerMAC}, ip, tcp(portUnserved))},
		"tag cut off":             {tagged(one, secondMAC, ip, tcp(portIPIP))[:17], xdpDrop, "truncated", nil},
		"ping":                    {tagged(two, secondMAC, ip, ping), xdpTX, "icmp_echo_reply", concat([]packet.Layer{packet.Ethernet{Dst: routerMAC, Src: secondMAC}}, two, []packet.Layer{f.ip(f.vip, f.client, 64), pong})},
	}
	if !f.v6 { // neighbour discovery has a test of its own
		who := packet.ARP{SenderMAC: routerMAC, Sender: router, Target: otherVIP}
		rows["arp"] = row{tagged(one, packet.Broadcast, who), xdpTX, "arp_reply",
			build(packet.Ethernet{Dst: routerMAC, Src: secondMAC}, tag, packet.ARP{Op: packet.ARPReply, SenderMAC: secondMAC, Sender: otherVIP, TargetMAC: routerMAC, Target: router})}
		rows["arp without the tag"] = row{build(packet.Ethernet{Dst: packet.Broadcast, Src: routerMAC}, who), xdpPass, "not_ours", nil}
	}
	for name, row := range rows {
		n.sub(name, func(n *node) { n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out) })
	}
}

// tc balances as XDP does, and brings packets into pods of this node as well.
func TestTCBalance(t *testing.T) {
	n, f := newNode(t), families[0]
	n.addFamily(f)
	n.balancing(f)
	toOther := packet.Ethernet{Dst: otherMAC, Src: nodeMAC}
	remote := toVIP(packet.TCP{SrcPort: 1025, DstPort: portRemote, Flags: packet.SYN, Options: packet.MSS(536)}, packet.Payload("data"))
	udp := toVIP(packet.UDP{SrcPort: 1025, DstPort: 54}, packet.Payload("odd"))
	older := toVIP(packet.TCP{SrcPort: 1, DstPort: portMoved})
	local := toVIP(packet.TCP{SrcPort: 1025, DstPort: portLocal, Flags: packet.SYN}, packet.Payload("hi!"))
	delivered := []packet.Layer{packet.Ethernet{Dst: podMAC, Src: podHostMAC}, packet.IPv4{TTL: 62, TOS: 0xb9, Src: client, Dst: localPod},
		packet.TCP{SrcPort: 1025, DstPort: 8080, Flags: packet.SYN}, packet.Payload("hi!")}
	tunnel := []packet.Layer{packet.Ethernet{Dst: nodeMAC, Src: otherMAC}, packet.IPv4{Src: otherNode, Dst: localPod}}
	for name, row := range map[string]row{
		"to remote pod":    {packet.Build(remote...), tcRedirect, "forward_remote", inIPIP(toOther, remotePod, remote)},
		"udp":              {packet.Build(udp...), tcRedirect, "forward_remote", inIPIP(toOther, remotePod, udp)},
		"of an older flow": {packet.Build(older...), tcRedirect, "forward_previous", inIPIP(toOther, f.pod(idOld), older)},
		"to local pod":     {packet.Build(local...), tcRedirect, "forward_local", packet.Build(delivered...)},
		"out of a tunnel":  {packet.Build(append(tunnel, local[1:]...)...), tcRedirect, "decap", packet.Build(delivered...)},
		"no backends":      {packet.Build(toVIP(packet.TCP{DstPort: portEmpty})...), tcDrop, "no_backend", nil},
		"unserved port":    {packet.Build(toVIP(packet.TCP{DstPort: portUnserved})...), tcDrop, "unserved_port", nil},
		"not a vip":        {packet.Build(with(local, 1, packet.IPv4{Src: client, Dst: nodeAddr})...), tcNext, "not_ours", nil},
		"to another host":  {packet.Build(with(remote, 0, packet.Ethernet{Dst: otherMAC, Src: routerMAC})...), tcNext, "not_ours", nil},
		"arp":              {packet.Build(ask(vip)...), tcRedirect, "arp_reply", answerTo(router)},
		"ping": {packet.Build(toVIP(packet.ICMP{Type: packet.EchoRequest, ID: 7})...), tcRedirect, "icmp_echo_reply",
			packet.Build(packet.Ethernet{Dst: routerMAC, Src: nodeMAC}, packet.IPv4{TTL: 64, TOS: 0xb9, Src: vip, Dst: client}, packet.ICMP{ID: 7})},
	} {
		n.sub(name, func(n *node) { n.expect(kindTCBalance, n.out, row.in, row.action, row.reason, row.out) })
	}
}
