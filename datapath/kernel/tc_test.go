package kernel

import (
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestTCOutside(t *testing.T) {
	n := newNode(t)
	for table, key := range map[string]bpfFlowKey{ // as XDP has noted them
		"flows":     {ClientPort: be16(1), PodPort: be16(8080), Proto: packet.ProtoTCP},
		"half_open": {ClientPort: be16(2), PodPort: be16(5353), Proto: packet.ProtoUDP},
	} {
		key.Pod, key.Client = be32(localPod), be32(client)
		n.put(table, key, bpfFlow{Vip: be32(vip), Port: be16(portLocal)})
	}
	in := []packet.Layer{fromRouter, packet.IPv4{TTL: 63, Src: client, Dst: localPod}, packet.TCP{SrcPort: 1, DstPort: 8080}, packet.Payload("x")}
	l4 := func(l packet.Layer) []packet.Layer { return with(in, 2, l) }
	toPod := packet.Ethernet{Dst: podMAC, Src: podHostMAC}
	udp := packet.UDP{SrcPort: 2, DstPort: 5353}
	ip := func(ip packet.IPv4) []byte {
		ip.Src, ip.Dst = client, localPod
		return packet.Build(with(in, 1, ip)...)
	}
	delivered := func(ip packet.IPv4) []byte {
		ip.Src, ip.Dst = client, localPod
		return packet.Build(with(with(in, 1, ip), 0, toPod)...)
	}
	for name, row := range map[string]struct {
		in     []byte
		action uint32
		reason string
		out    []byte
	}{
		"to a pod":         {packet.Build(in...), tcRedirect, "pod_delivered", delivered(packet.IPv4{TTL: 62})},
		"of a new flow":    {packet.Build(l4(udp)...), tcRedirect, "pod_delivered", packet.Build(with(with(l4(udp), 0, toPod), 1, packet.IPv4{TTL: 62, Src: client, Dst: localPod})...)},
		"options":          {ip(packet.IPv4{Options: []byte{1}}), tcRedirect, "pod_delivered", delivered(packet.IPv4{TTL: 63, Options: []byte{1}})},
		"last hop":         {ip(packet.IPv4{TTL: 2}), tcRedirect, "pod_delivered", delivered(packet.IPv4{TTL: 1})},
		"ttl 1":            {ip(packet.IPv4{TTL: 1}), tcDrop, "ttl_expired", nil},
		"ttl 0":            {ip(packet.IPv4{NoTTL: true}), tcDrop, "ttl_expired", nil},
		"of no flow":       {packet.Build(l4(packet.TCP{SrcPort: 3, DstPort: 8080})...), tcNext, "not_ours", nil},
		"flow of udp":      {packet.Build(l4(packet.TCP{SrcPort: 2, DstPort: 5353})...), tcNext, "not_ours", nil},
		"ping":             {packet.Build(l4(packet.ICMP{Type: packet.EchoRequest})...), tcNext, "not_ours", nil},
		"a first fragment": {ip(packet.IPv4{ID: 5, Fragment: packet.MoreFragments}), tcRedirect, "pod_delivered", delivered(packet.IPv4{ID: 5, TTL: 63, Fragment: packet.MoreFragments})},
		"lost its first":   {ip(packet.IPv4{ID: 6, Fragment: 100}), tcNext, "not_ours", nil},
		"version 6":        {ip(packet.IPv4{Version: new(uint8(6))}), tcNext, "not_ours", nil},
		"header too short": {ip(packet.IPv4{HeaderLen: new(uint8(4))}), tcNext, "not_ours", nil},
		"cut off":          {packet.Build(in...)[:40], tcNext, "not_ours", nil},
		"to no pod":        {packet.Build(with(in, 1, packet.IPv4{Src: client, Dst: remotePod})...), tcNext, "not_ours", nil},
		"flooded":          {packet.Build(with(in, 0, packet.Ethernet{Dst: otherMAC, Src: routerMAC})...), tcNext, "not_ours", nil},
		"broadcast":        {packet.Build(with(in, 0, packet.Ethernet{Dst: packet.Broadcast, Src: routerMAC})...), tcNext, "not_ours", nil},
		"arp":              {packet.Build(with(ask(localPod), 0, packet.Ethernet{Dst: nodeMAC, Src: routerMAC})...), tcNext, "not_ours", nil},
	} {
		n.sub(name, func(n *node) { n.expect(kindTCOutside, n.out, row.in, row.action, row.reason, row.out) })
	}
}

func TestTCPod(t *testing.T) {
	n := newNode(t)
	neighbour := netip.MustParseAddr("192.168.10.77") // on the segment, MAC unknown
	banned := netip.MustParseAddr("10.99.0.1")
	if err := netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.PrefixFrom(banned, 32)), Type: unix.RTN_BLACKHOLE}); err != nil {
		t.Fatal(err)
	}
	otherPod := netip.MustParseAddr("172.20.0.6") // on this node
	n.put("endpoints", be32(otherPod), bpfEndpoint{Ifindex: uint32(n.second.Attrs().Index)})
	for _, to := range []netip.Addr{client, neighbour, banned, nodeAddr, otherPod} {
		key := bpfFlowKey{Pod: be32(localPod), Client: be32(to), PodPort: be16(8080), ClientPort: be16(1025), Proto: packet.ProtoTCP}
		n.put("flows", key, bpfFlow{Vip: be32(vip), Port: be16(portLocal)})
		key.Proto, key.PodPort = packet.ProtoUDP, be16(5353)
		n.put("half_open", key, bpfFlow{Vip: be32(vip), Port: be16(53)})
	}
	fromPod := packet.Ethernet{Dst: podHostMAC, Src: podMAC}
	toRouter := packet.Ethernet{Dst: routerMAC, Src: nodeMAC}
	tcp := packet.TCP{SrcPort: 8080, DstPort: 1025, Flags: packet.PSH | packet.ACK}
	udp := packet.UDP{SrcPort: 5353, DstPort: 1025}
	in := func(to netip.Addr, l4 ...packet.Layer) []packet.Layer {
		return append([]packet.Layer{fromPod, packet.IPv4{TOS: 2, Src: localPod, Dst: to}}, l4...)
	}
	out := func(eth packet.Ethernet, to netip.Addr, ttl uint8, l4 ...packet.Layer) []byte {
		return packet.Build(append([]packet.Layer{eth, packet.IPv4{TOS: 2, TTL: ttl, Src: vip, Dst: to}}, l4...)...)
	}
	fromVIP := tcp
	fromVIP.SrcPort = portLocal
	synAck := func(port uint16, options ...[]byte) packet.TCP {
		s := packet.TCP{SrcPort: port, DstPort: 1025, Flags: packet.SYN | packet.ACK}
		for _, o := range options {
			s.Options = append(s.Options, o...)
		}
		return s
	}
	nop, sackOK, timestamps := []byte{1}, []byte{4, 2}, []byte{8, 10, 1, 2, 3, 4, 5, 6, 7, 8}

	for name, row := range map[string]struct {
		in     []byte
		action uint32
		reason string
		out    []byte
	}{
		"tcp":              {packet.Build(in(client, tcp, packet.Payload("odd"))...), tcRedirect, "reply", out(toRouter, client, 63, fromVIP, packet.Payload("odd"))},
		"udp":              {packet.Build(in(client, udp, packet.Payload("odd"))...), tcRedirect, "reply", out(toRouter, client, 63, packet.UDP{SrcPort: 53, DstPort: 1025}, packet.Payload("odd"))},
		"udp, no checksum": {packet.Build(in(client, packet.UDP{SrcPort: 5353, DstPort: 1025, Checksum: new(uint16(0))})...), tcRedirect, "reply", out(toRouter, client, 63, packet.UDP{SrcPort: 53, DstPort: 1025, Checksum: new(uint16(0))})},
		"options": {
			packet.Build(with(in(client, tcp), 1, packet.IPv4{Src: localPod, Dst: client, Options: []byte{1}})...), tcRedirect, "reply",
			packet.Build(toRouter, packet.IPv4{TTL: 63, Src: vip, Dst: client, Options: []byte{1}}, fromVIP)},
		"neighbour not resolved": {packet.Build(in(neighbour, tcp)...), tcRedirect, "reply", out(fromPod, neighbour, 63, fromVIP)},
		"to the node itself":     {packet.Build(in(nodeAddr, tcp)...), tcNext, "reply", out(fromPod, nodeAddr, 64, fromVIP)},
		"to another pod here":    {packet.Build(in(otherPod, tcp)...), tcNext, "reply", out(fromPod, otherPod, 64, fromVIP)},
		"blackhole":              {packet.Build(in(banned, tcp)...), tcDrop, "no_route", out(fromPod, banned, 64, fromVIP)},
		"ttl 1":                  {packet.Build(with(in(client, tcp), 1, packet.IPv4{TTL: 1, Src: localPod, Dst: client})...), tcDrop, "ttl_expired", nil},
		"no flow":                {packet.Build(in(client, packet.TCP{SrcPort: 8080, DstPort: 1026})...), tcNext, "not_ours", nil},
		"flow of tcp, not udp":   {packet.Build(in(client, packet.UDP{SrcPort: 8080, DstPort: 1025})...), tcNext, "not_ours", nil},
		"another pod's address":  {packet.Build(with(in(client, tcp), 1, packet.IPv4{Src: remotePod, Dst: client})...), tcNext, "not_ours", nil},
		"a first fragment":       {packet.Build(with(in(client, tcp), 1, packet.IPv4{ID: 5, Src: localPod, Dst: client, Fragment: packet.MoreFragments})...), tcRedirect, "reply", packet.Build(toRouter, packet.IPv4{ID: 5, TTL: 63, Src: vip, Dst: client, Fragment: packet.MoreFragments}, fromVIP)},
		"a fragment of nothing":  {packet.Build(with(in(client, tcp), 1, packet.IPv4{ID: 6, Src: localPod, Dst: client, Fragment: 1})...), tcNext, "not_ours", nil},
		"ping":                   {packet.Build(in(client, packet.ICMP{Type: packet.EchoRequest})...), tcNext, "not_ours", nil},
		"arp":                    {packet.Build(fromPod, packet.ARP{SenderMAC: podMAC, Sender: localPod, Target: client}), tcNext, "not_ours", nil},

		"mss clamped":           {packet.Build(in(client, synAck(8080, packet.MSS(1460)))...), tcRedirect, "reply", out(toRouter, client, 63, synAck(portLocal, packet.MSS(1440)))},
		"mss at an odd offset":  {packet.Build(in(client, synAck(8080, nop, packet.MSS(1460), nop, sackOK))...), tcRedirect, "reply", out(toRouter, client, 63, synAck(portLocal, nop, packet.MSS(1440), nop, sackOK))},
		"mss last of 40 bytes":  {packet.Build(in(client, synAck(8080, timestamps, timestamps, timestamps, sackOK, sackOK, sackOK, packet.MSS(9000)))...), tcRedirect, "reply", out(toRouter, client, 63, synAck(portLocal, timestamps, timestamps, timestamps, sackOK, sackOK, sackOK, packet.MSS(1440)))},
		"mss small enough":      {packet.Build(in(client, synAck(8080, packet.MSS(1440)))...), tcRedirect, "reply", out(toRouter, client, 63, synAck(portLocal, packet.MSS(1440)))},
		"mss behind the end":    {packet.Build(in(client, synAck(8080, []byte{0, 1, 1, 1}, packet.MSS(1460)))...), tcRedirect, "reply", out(toRouter, client, 63, synAck(portLocal, []byte{0, 1, 1, 1}, packet.MSS(1460)))},
		"no options":            {packet.Build(in(client, synAck(8080))...), tcRedirect, "reply", out(toRouter, client, 63, synAck(portLocal))},
		"option of no length":   {packet.Build(in(client, synAck(8080, []byte{3, 0, 2, 4, 255, 255, 1, 1}))...), tcRedirect, "reply", out(toRouter, client, 63, synAck(portLocal, []byte{3, 0, 2, 4, 255, 255, 1, 1}))},
		"option past the end":   {packet.Build(in(client, synAck(8080, []byte{3, 255, 1, 1}))...), tcRedirect, "reply", out(toRouter, client, 63, synAck(portLocal, []byte{3, 255, 1, 1}))},
		"mss cut off":           {packet.Build(in(client, synAck(8080, []byte{1, 1, 2, 4}))...), tcRedirect, "reply", out(toRouter, client, 63, synAck(portLocal, []byte{1, 1, 2, 4}))},
		"mss without syn stays": {packet.Build(in(client, packet.TCP{SrcPort: 8080, DstPort: 1025, Options: packet.MSS(1460)})...), tcRedirect, "reply", out(toRouter, client, 63, packet.TCP{SrcPort: portLocal, DstPort: 1025, Options: packet.MSS(1460)})},
	} {
		n.sub(name, func(n *node) { n.expect(kindTCPod, n.pod, row.in, row.action, row.reason, row.out) })
	}
	n.sub("frame ends early", func(n *node) { // BPF_PROG_TEST_RUN takes no shorter ones
		whole := packet.Build(in(client, synAck(8080, packet.MSS(1460)))...)
		for size := 34; size < len(whole); size++ {
			n.expect(kindTCPod, n.pod, whole[:size], tcNext, "not_ours", nil)
		}
	})
}
