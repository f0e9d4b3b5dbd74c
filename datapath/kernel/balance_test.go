package kernel

import (
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Backends on the other node, and sets of them.
const (
	idNew, idOld, idThird = 21, 22, 23

	setMoved, setAffine = 31, 32

	portMoved, portAffine, portSources, portHidden = 90, 91, 92, 93
)

var newPod, oldPod, thirdPod = netip.MustParseAddr("172.20.1.21"), netip.MustParseAddr("172.20.1.22"), netip.MustParseAddr("172.20.1.23")

const (
	moved  = uint32(bpfSlotSLOT_MOVED)
	moving = uint32(bpfSetLookSET_MOVING)
)

// balancing adds frontends whose slots alone do not say the backend.
func (n *node) balancing() {
	n.t.Helper()
	for id, addr := range map[uint32]netip.Addr{idNew: newPod, idOld: oldPod, idThird: thirdPod} {
		n.put("backends", id, bpfBackend{Addr: be32(addr), Port: be16(8080), NextHop: 1})
	}
	n.move(idNew|moved, moving)
	n.table(setAffine, 0, []uint32{idNew, idOld, idThird})
	n.put("sets", uint32(setAffine), bpfBackendSet{Size: [4]uint32{3}, Affinity: 1000})
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
		for port, f := range map[uint16]bpfFrontend{
			portMoved:   {Set: setMoved, Service: 5},
			portAffine:  {Set: setAffine, Service: 6, Flags: uint32(bpfFrontendFlagsFRONTEND_AFFINITY)},
			portSources: {Set: setMoved, Service: 7, Flags: uint32(bpfFrontendFlagsFRONTEND_SOURCES)},
			portHidden:  {Set: setMoved, Service: 8, Flags: uint32(bpfFrontendFlagsFRONTEND_INSIDE)},
		} {
			n.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(port), Proto: proto}, f)
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

// goes sends a client's packet and looks which backend it went to, and why.
func (n *node) goes(l4 packet.Layer, pod netip.Addr, reason string) {
	n.t.Helper()
	in := toVIP(l4)
	n.expect(kindXDP, n.out, packet.Build(in...), xdpTX, reason, inIPIP(packet.Ethernet{Dst: otherMAC, Src: nodeMAC}, pod, in))
}

// pin returns the backend that a flow of the client's is pinned to, and its flags.
func (n *node) pin(proto uint8, from, to uint16) (backend, flags uint32) {
	n.t.Helper()
	key := bpfTuple{Saddr: be32(client), Daddr: be32(vip), Sport: be16(from), Dport: be16(to), Proto: proto}
	var pin bpfPin
	if err := n.maps["pins"].Lookup(key, &pin); err != nil {
		return 0, 0
	}
	return pin.Backend, pin.Flags
}

func (n *node) pinned(proto uint8, from, to uint16, backend, flags uint32) {
	n.t.Helper()
	if b, f := n.pin(proto, from, to); b != backend || f != flags {
		n.t.Errorf("port %d is pinned to %d, flags %d; want %d, flags %d", from, b, f, backend, flags)
	}
}

func TestMovedSlots(t *testing.T) {
	n := newNode(t)
	n.balancing()
	const closing = uint32(bpfFlowFlagsFLOW_REPLIED | bpfFlowFlagsFLOW_CLOSING)
	tcp := func(from uint16, flags uint8) packet.TCP {
		return packet.TCP{SrcPort: from, DstPort: portMoved, Flags: flags}
	}
	udp := func(from uint16) packet.UDP { return packet.UDP{SrcPort: from, DstPort: portMoved} }
	sctp := func(from uint16, chunk uint8) packet.SCTP {
		return packet.SCTP{SrcPort: from, DstPort: portMoved, Chunk: chunk}
	}
	n.sub("older flow", func(n *node) {
		n.goes(tcp(1, packet.ACK), oldPod, "forward_previous")
		n.pinned(packet.ProtoTCP, 1, portMoved, idOld, 0)
		n.goes(tcp(1, packet.ACK), oldPod, "forward_pinned")
		n.goes(tcp(1, packet.FIN|packet.ACK), oldPod, "forward_pinned")
		n.pinned(packet.ProtoTCP, 1, portMoved, idOld, closing)
	})
	n.sub("new flow, with the ports of an old one", func(n *node) {
		n.goes(tcp(1, packet.SYN), newPod, "forward_remote")
		n.pinned(packet.ProtoTCP, 1, portMoved, idNew, 0)
		n.goes(tcp(1, packet.ACK), newPod, "forward_pinned")
	})
	n.sub("SYN-ACK begins nothing", func(n *node) {
		n.goes(tcp(2, packet.SYN|packet.ACK), oldPod, "forward_previous")
	})
	n.sub("RST is not remembered", func(n *node) {
		n.goes(tcp(3, packet.RST), oldPod, "forward_previous")
		n.pinned(packet.ProtoTCP, 3, portMoved, 0, 0)
	})
	n.sub("udp", func(n *node) {
		n.goes(udp(1), oldPod, "forward_previous")
		n.pinned(packet.ProtoUDP, 1, portMoved, idOld, 0)
		n.goes(udp(1), oldPod, "forward_pinned")
	})
	n.sub("sctp", func(n *node) {
		n.goes(sctp(1, packet.ChunkInit), newPod, "forward_remote")
		n.goes(sctp(1, packet.ChunkData), newPod, "forward_pinned")
		n.goes(sctp(2, packet.ChunkData), oldPod, "forward_previous")
	})
	n.sub("previous drains", func(n *node) {
		n.put("backends", uint32(idOld), bpfBackend{Addr: be32(oldPod), Port: be16(8080), NextHop: 1, Flags: uint8(bpfBackendFlagsBACKEND_DRAINING)})
		n.goes(tcp(4, packet.ACK), oldPod, "forward_previous")
		n.goes(udp(4), newPod, "forward_remote")
		n.pinned(packet.ProtoUDP, 4, portMoved, idNew, 0)
		n.goes(udp(1), oldPod, "forward_pinned")
	})
	n.sub("previous is gone", func(n *node) {
		n.put("backends", uint32(idOld), bpfBackend{})
		defer n.put("backends", uint32(idOld), bpfBackend{Addr: be32(oldPod), Port: be16(8080), NextHop: 1})
		n.goes(tcp(5, packet.ACK), newPod, "forward_remote")
		n.pinned(packet.ProtoTCP, 5, portMoved, 0, 0)
		n.goes(udp(1), newPod, "forward_remote") // whose pin leads nowhere
		n.pinned(packet.ProtoUDP, 1, portMoved, idNew, 0)
	})
	n.sub("slot has not moved", func(n *node) {
		n.move(idNew, moving)
		defer n.move(idNew|moved, moving)
		n.goes(tcp(6, packet.ACK), newPod, "forward_remote")
		n.goes(tcp(6, packet.SYN), newPod, "forward_remote")
		n.pinned(packet.ProtoTCP, 6, portMoved, 0, 0)
	})
	n.sub("window is over", func(n *node) {
		n.move(idNew|moved, 0)
		defer n.move(idNew|moved, moving)
		n.goes(tcp(7, packet.ACK), newPod, "forward_remote")
		n.pinned(packet.ProtoTCP, 7, portMoved, 0, 0)
	})
	n.sub("no room for pins", func(n *node) {
		room := int(n.maps["pins"].MaxEntries())
		keys, pins := make([]bpfTuple, room), make([]bpfPin, room)
		for i := range keys {
			keys[i] = bpfTuple{Saddr: uint32(i), Proto: 1}
		}
		// What there is already takes some of the room.
		if _, err := n.maps["pins"].BatchUpdate(keys, pins, nil); err == nil {
			n.t.Fatal("more pins than there is room for")
		}
		n.goes(tcp(8, packet.SYN), oldPod, "forward_previous")
		n.goes(tcp(8, packet.ACK), oldPod, "forward_previous")
		n.pinned(packet.ProtoTCP, 8, portMoved, 0, 0)
		n.put("backends", uint32(idOld), bpfBackend{Addr: be32(oldPod), Port: be16(8080), NextHop: 1, Flags: uint8(bpfBackendFlagsBACKEND_DRAINING)})
		n.goes(tcp(9, packet.SYN), newPod, "forward_remote")
	})
}

func TestAffinity(t *testing.T) {
	n := newNode(t)
	n.balancing()
	pods := map[uint32]netip.Addr{idNew: newPod, idOld: oldPod, idThird: thirdPod}
	key := bpfAffinityKey{Client: be32(client), Service: 6}
	tcp := func(from uint16, flags uint8) packet.TCP {
		return packet.TCP{SrcPort: from, DstPort: portAffine, Flags: flags}
	}
	n.run(kindXDP, n.out, packet.Build(toVIP(tcp(1, packet.SYN))...))
	var last bpfAffinity
	if err := n.maps["affinity"].Lookup(key, &last); err != nil {
		t.Fatal(err)
	}
	home := last.Backend
	n.sub("all connections of a client", func(n *node) {
		for port := range uint16(20) { // of which a third would go there by chance
			n.goes(tcp(100+port, packet.SYN), pods[home], "forward_remote")
			n.goes(tcp(100+port, packet.ACK), pods[home], "forward_pinned")
			n.goes(tcp(200+port, packet.ACK), pods[home], "forward_remote")
			n.goes(packet.UDP{SrcPort: port, DstPort: portAffine}, pods[home], "forward_remote")
		}
	})
	slot := func(from uint16) uint32 {
		return []uint32{idNew, idOld, idThird}[MaglevSlot(FlowHash(netip.AddrPortFrom(client, from), netip.AddrPortFrom(vip, portAffine), packet.ProtoTCP), 3)]
	}
	elsewhere := uint16(1000)
	for slot(elsewhere) == home {
		elsewhere++
	}
	n.sub("time is over", func(n *node) {
		old := last
		old.Seen -= 1001
		n.put("affinity", key, old)
		n.goes(tcp(elsewhere, packet.SYN), pods[slot(elsewhere)], "forward_remote")
		n.put("affinity", key, last)
	})
	n.sub("its backend drains", func(n *node) {
		n.put("backends", home, bpfBackend{Addr: be32(pods[home]), Port: be16(8080), NextHop: 1, Flags: uint8(bpfBackendFlagsBACKEND_DRAINING)})
		n.goes(tcp(elsewhere, packet.SYN), pods[slot(elsewhere)], "forward_pinned")
		n.goes(tcp(100, packet.ACK), pods[home], "forward_pinned")
		n.goes(tcp(2, packet.SYN), pods[slot(elsewhere)], "forward_remote") // the client's new one
	})
}

func TestSourcesAndInside(t *testing.T) {
	n := newNode(t)
	n.balancing()
	in := toVIP(packet.TCP{SrcPort: 1, DstPort: portSources, Flags: packet.SYN})
	n.expect(kindXDP, n.out, packet.Build(in...), xdpDrop, "source_range", nil)
	n.put("sources", bpfSourceKey{Prefixlen: 32 + 16, Service: 8, Addr: be32(client)}, uint32(0))
	n.expect(kindXDP, n.out, packet.Build(in...), xdpDrop, "source_range", nil)
	n.put("sources", bpfSourceKey{Prefixlen: 32 + 16, Service: 7, Addr: be32(netip.MustParseAddr("10.10.0.0"))}, uint32(0))
	n.goes(packet.TCP{SrcPort: 1, DstPort: portSources, Flags: packet.SYN}, newPod, "forward_remote")
	n.expect(kindXDP, n.out, packet.Build(toVIP(packet.TCP{DstPort: portHidden})...), xdpPass, "not_ours", nil)
}

func TestCounts(t *testing.T) {
	n := newNode(t)
	n.balancing()
	in := toVIP(packet.TCP{SrcPort: 1, DstPort: portMoved, Flags: packet.SYN})
	size := uint64(len(packet.Build(in[1:]...)))
	counters := map[string]uint32{"service_counts": 5, "backend_counts": idNew}
	before := map[string]bpfCount{}
	for name, at := range counters {
		before[name] = n.counted(name, at)
	}
	for range 3 {
		n.run(kindXDP, n.out, packet.Build(in...))
	}
	for name, at := range counters {
		now, then := n.counted(name, at), before[name]
		got := bpfCount{Packets: now.Packets - then.Packets, Bytes: now.Bytes - then.Bytes}
		if want := (bpfCount{Packets: 3, Bytes: 3 * size}); got != want {
			t.Errorf("%s[%d] rose by %+v, want %+v", name, at, got, want)
		}
	}
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

func TestVLAN(t *testing.T) {
	n := newNode(t)
	out, second := uint32(n.out.Attrs().Index), uint32(n.second.Attrs().Index)
	secondMAC := packet.ParseMAC("02:00:00:00:01:64")
	n.put("vlans", bpfVlanKey{Device: out, Outer: 10}, second)
	n.put("vlans", bpfVlanKey{Device: out, Outer: 10, Inner: 20}, second)
	n.put("next_hops", uint32(9), bpfNextHop{Ifindex: out, Vlan: 30, Saddr: be32(nodeAddr), Dmac: otherMAC, Smac: nodeMAC})
	n.put("backends", uint32(9), bpfBackend{Addr: be32(remotePod), Port: be16(8080), NextHop: 9})
	n.table(9, 0, []uint32{9})
	n.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(94), Proto: packet.ProtoTCP}, bpfFrontend{Set: 9})
	n.put("announced", bpfAnnouncedKey{Addr: be32(otherVIP), Ifindex: second}, bpfAnnounced{Generation: 1, Mac: secondMAC})

	// The FIB finds the way by the VLAN device; from XDP that is its carrier, with the tag.
	n.put("devices", second%uint32(bpfMaxDevicesMAX_DEVICES), bpfDevice{Ifindex: second, Mac: secondMAC, Mtu: 1500, Carrier: out, Vlan: 10})
	inVLAN, gateway := netip.MustParseAddr("172.22.0.9"), netip.MustParseAddr("192.168.77.1")
	for _, err := range []error{
		netlink.AddrAdd(n.second, &netlink.Addr{IPNet: ipnet(netip.MustParsePrefix("192.168.77.100/24"))}),
		netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.MustParsePrefix("172.22.0.0/16")), Gw: gateway.AsSlice(), LinkIndex: int(second)}),
		netlink.NeighSet(&netlink.Neigh{LinkIndex: int(second), State: unix.NUD_PERMANENT, IP: gateway.AsSlice(), HardwareAddr: strangeMAC[:]}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	n.put("backends", uint32(10), bpfBackend{Addr: be32(inVLAN), Port: be16(8080), NextHop: 2})
	n.table(10, 0, []uint32{10})
	n.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(95), Proto: packet.ProtoTCP}, bpfFrontend{Set: 10})
	n.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(96), Proto: packet.ProtoTCP}, bpfFrontend{Set: 10, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT)})
	byFIB, translated := packet.TCP{SrcPort: 1, DstPort: 95}, packet.TCP{SrcPort: 62000, DstPort: 96, Flags: packet.SYN}

	tag, inner := packet.VLAN{TCI: 0x6000 | 10}, packet.VLAN{TCI: 20}
	tagged := func(tags []packet.Layer, dst packet.MAC, l ...packet.Layer) []packet.Layer {
		return append(append([]packet.Layer{packet.Ethernet{Dst: dst, Src: routerMAC}}, tags...), l...)
	}
	one, two := []packet.Layer{tag}, []packet.Layer{packet.VLAN{TPID: packet.TypeQinQ, TCI: 10}, inner}
	ip := packet.IPv4{TTL: 63, Src: client, Dst: vip}
	remote, local, hop := packet.TCP{SrcPort: 1, DstPort: portRemote}, packet.TCP{SrcPort: 1, DstPort: portLocal}, packet.TCP{SrcPort: 1, DstPort: 94}
	ping, reply := packet.ICMP{Type: packet.EchoRequest, ID: 7}, packet.ICMP{Type: packet.EchoReply, ID: 7}
	toPod := packet.TCP{SrcPort: 1, DstPort: 8080}
	podIP := packet.IPv4{TTL: 63, Src: client, Dst: localPod}
	outer := packet.IPv4{Fragment: packet.DontFragment, Src: nodeAddr, Dst: remotePod}
	toOther := packet.Ethernet{Dst: otherMAC, Src: nodeMAC}
	who := packet.ARP{SenderMAC: routerMAC, Sender: router, Target: otherVIP}
	build := packet.Build

	for name, row := range map[string]row{
		"to remote pod":      {build(tagged(one, secondMAC, ip, remote)...), xdpTX, "forward_remote", build(toOther, outer, ip, remote)},
		"two tags":           {build(tagged(two, secondMAC, ip, remote)...), xdpTX, "forward_remote", build(toOther, outer, ip, remote)},
		"next hop has a tag": {build(fromRouter, ip, hop), xdpTX, "forward_remote", build(toOther, packet.VLAN{TCI: 30}, outer, ip, hop)},
		"by the FIB, in the VLAN": {build(tagged(one, secondMAC, ip, byFIB)...), xdpTX, "forward_remote",
			build(packet.Ethernet{Dst: strangeMAC, Src: secondMAC}, packet.VLAN{TCI: 10}, packet.IPv4{Fragment: packet.DontFragment, Src: nodeAddr, Dst: inVLAN}, ip, byFIB)},
		"by the FIB, translated": {build(tagged(one, secondMAC, ip, translated)...), xdpTX, "forward_snat",
			build(packet.Ethernet{Dst: strangeMAC, Src: secondMAC}, packet.VLAN{TCI: 10}, packet.IPv4{TTL: 62, Src: nodeAddr, Dst: inVLAN}, packet.TCP{SrcPort: 62000, DstPort: 8080, Flags: packet.SYN})},
		"another tag":            {build(tagged(one, secondMAC, ip, hop)...), xdpTX, "forward_remote", build(toOther, packet.VLAN{TCI: 30}, outer, ip, hop)},
		"to local pod":           {build(tagged(one, secondMAC, ip, local)...), xdpPass, "forward_local", build(tagged(one, secondMAC, podIP, toPod)...)},
		"two tags, to local pod": {build(tagged(two, secondMAC, ip, local)...), xdpPass, "forward_local", build(tagged(two, secondMAC, podIP, toPod)...)},
		"for its priority alone": {build(tagged([]packet.Layer{packet.VLAN{TCI: 0xe000}}, nodeMAC, ip, remote)...), xdpTX, "forward_remote", build(toOther, outer, ip, remote)},
		"of an unknown VLAN":     {build(tagged([]packet.Layer{inner}, nodeMAC, ip, remote)...), xdpPass, "not_ours", nil},
		"three tags":             {build(tagged([]packet.Layer{tag, inner, inner}, secondMAC, ip, remote)...), xdpPass, "not_ours", nil},
		"to another machine":     {build(tagged(one, otherMAC, ip, remote)...), xdpPass, "not_ours", nil},
		"unserved port":          {build(tagged(one, secondMAC, ip, packet.TCP{DstPort: portUnserved})...), xdpDrop, "unserved_port", build(packet.Ethernet{Dst: secondMAC, Src: routerMAC}, ip, packet.TCP{DstPort: portUnserved})},
		"tag cut off":            {build(tagged(one, secondMAC, ip, remote)...)[:17], xdpDrop, "truncated", nil},
		"ping": {build(tagged(two, secondMAC, ip, ping)...), xdpTX, "icmp_echo_reply",
			build(append(append([]packet.Layer{packet.Ethernet{Dst: routerMAC, Src: secondMAC}}, two...), packet.IPv4{TTL: 64, Src: vip, Dst: client}, reply)...)},
		"arp": {build(tagged(one, packet.Broadcast, who)...), xdpTX, "arp_reply",
			build(packet.Ethernet{Dst: routerMAC, Src: secondMAC}, tag, packet.ARP{Op: packet.ARPReply, SenderMAC: secondMAC, Sender: otherVIP, TargetMAC: routerMAC, Target: router})},
		"arp without the tag": {build(packet.Ethernet{Dst: packet.Broadcast, Src: routerMAC}, who), xdpPass, "not_ours", nil},
	} {
		n.sub(name, func(n *node) { n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out) })
	}
}

// tc balances as XDP does, and brings packets into pods of this node as well.
func TestTCBalance(t *testing.T) {
	n := newNode(t)
	n.balancing()
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
		"of an older flow": {packet.Build(older...), tcRedirect, "forward_previous", inIPIP(toOther, oldPod, older)},
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
