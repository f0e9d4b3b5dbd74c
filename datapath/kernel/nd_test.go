package kernel

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab/packet"
)

var (
	ndVIP     = netip.MustParseAddr("2001:db8:a::d3")
	ndOther   = netip.MustParseAddr("2001:db8:a::d4") // of another node
	ndRouter  = netip.MustParseAddr("fe80::c8")
	ndGroup   = netip.MustParseAddr("ff02::1:ff00:d3") // solicited-node, of ndVIP
	allNodes  = netip.MustParseAddr("ff02::1")
	groupMAC  = packet.ParseMAC("33:33:ff:00:00:d3")
	allMAC    = packet.ParseMAC("33:33:00:00:00:01")
	ndNowhere = netip.IPv6Unspecified()
)

// announce6 announces ndVIP on out.
func (n *node) announce6(a bpfAnnounced) bpfAnnouncedKey6 {
	n.t.Helper()
	key := bpfAnnouncedKey6{Addr: be128(ndVIP), Ifindex: uint32(n.out.Attrs().Index)}
	n.put("announced6", key, a)
	return key
}

// solicit is the router's Neighbor Solicitation for an address.
func solicit(target netip.Addr) []packet.Layer {
	return []packet.Layer{packet.Ethernet{Dst: groupMAC, Src: routerMAC}, packet.IPv6{HopLimit: 255, Src: ndRouter, Dst: ndGroup},
		packet.ND{Target: target, Options: packet.SourceMAC(routerMAC)}}
}

// advertise is the answer to a solicitation for ndVIP.
func advertise(mac packet.MAC, to netip.Addr, flags uint32) []packet.Layer {
	return []packet.Layer{packet.Ethernet{Dst: mac, Src: nodeMAC}, packet.IPv6{HopLimit: 255, Src: ndVIP, Dst: to},
		packet.ND{Type: packet.NDAdvertisement, Flags: flags, Target: ndVIP, Options: packet.TargetMAC(nodeMAC)}}
}

var (
	ndAnswer      = packet.Build(advertise(routerMAC, ndRouter, packet.NDSolicited|packet.NDOverride)...)
	ndProbe       = []packet.Layer{packet.Ethernet{Dst: groupMAC, Src: strangeMAC}, packet.IPv6{HopLimit: 255, Src: ndNowhere, Dst: ndGroup}, packet.ND{Target: ndVIP}}
	ndProbeAnswer = packet.Build(advertise(allMAC, allNodes, packet.NDOverride)...)
)

func TestNeighbourDiscovery(t *testing.T) {
	n := newNode(t)
	n.announce6(bpfAnnounced{Generation: 1, Mac: nodeMAC})
	// A VIP that is served: what is not for the responder must not be taken for it.
	n.put("frontends6", bpfFrontendKey6{Addr: be128(ndVIP)}, bpfFrontend{})
	build, ask := packet.Build, solicit(ndVIP)
	eth := func(e packet.Ethernet) []byte { return build(with(ask, 0, e)...) }
	ip := func(ip packet.IPv6) []byte { return build(with(ask, 1, ip)...) }
	nd := func(nd packet.ND) []byte { return build(with(ask, 2, nd)...) }
	mac := packet.SourceMAC(routerMAC)
	nonce := []byte{14, 1, 1, 2, 3, 4, 5, 6} // RFC 3971, section 5.3.2
	many := make([]byte, 0, 80)
	for range 8 {
		many = append(many, nonce...)
	}
	for name, row := range map[string]row{
		"asked":               {build(ask...), xdpTX, "nd_reply", ndAnswer},
		"unicast":             {build(with(with(ask, 0, packet.Ethernet{Dst: nodeMAC, Src: routerMAC}), 1, packet.IPv6{HopLimit: 255, Src: ndRouter, Dst: ndVIP})...), xdpTX, "nd_reply", ndAnswer},
		"without its MAC":     {nd(packet.ND{Target: ndVIP}), xdpTX, "nd_reply", ndAnswer},
		"a nonce before":      {nd(packet.ND{Target: ndVIP, Options: append(append([]byte{}, nonce...), mac...)}), xdpTX, "nd_reply", ndAnswer},
		"a MAC of 14 bytes":   {nd(packet.ND{Target: ndVIP, Options: append([]byte{1, 2}, make([]byte, 14)...)}), xdpTX, "nd_reply", ndAnswer},
		"padded":              {append(nd(packet.ND{Target: ndVIP}), make([]byte, 30)...), xdpTX, "nd_reply", ndAnswer},
		"MAC is not frame's":  {nd(packet.ND{Target: ndVIP, Options: packet.SourceMAC(otherMAC)}), xdpTX, "nd_reply", build(advertise(otherMAC, ndRouter, packet.NDSolicited|packet.NDOverride)...)},
		"probe":               {build(ndProbe...), xdpTX, "nd_reply", ndProbeAnswer},
		"probe with a nonce":  {build(with(ndProbe, 2, packet.ND{Target: ndVIP, Options: nonce})...), xdpTX, "nd_reply", ndProbeAnswer},
		"eight options":       {nd(packet.ND{Target: ndVIP, Options: many}), xdpTX, "nd_reply", ndAnswer},
		"nine options":        {nd(packet.ND{Target: ndVIP, Options: append(many, nonce...)}), xdpPass, "nd_invalid", nil},
		"hop limit 254":       {ip(packet.IPv6{HopLimit: 254, Src: ndRouter, Dst: ndGroup}), xdpPass, "not_ours", nil}, // it was forwarded
		"code 1":              {nd(packet.ND{Code: 1, Target: ndVIP, Options: mac}), xdpPass, "nd_invalid", nil},
		"wrong checksum":      {nd(packet.ND{Target: ndVIP, Options: mac, Checksum: new(uint16(1))}), xdpPass, "nd_invalid", nil},
		"option of length 0":  {nd(packet.ND{Target: ndVIP, Options: []byte{1, 0, 0, 0, 0, 0, 0, 0}}), xdpPass, "nd_invalid", nil},
		"option too long":     {nd(packet.ND{Target: ndVIP, Options: []byte{1, 2, 0, 0, 0, 0, 0, 0}}), xdpPass, "nd_invalid", nil},
		"half an option":      {nd(packet.ND{Target: ndVIP, Options: mac[:4]}), xdpPass, "nd_invalid", nil},
		"too short":           {ip(packet.IPv6{HopLimit: 255, Src: ndRouter, Dst: ndGroup, Length: new(uint16(16))}), xdpPass, "nd_invalid", nil},
		"longer than it is":   {ip(packet.IPv6{HopLimit: 255, Src: ndRouter, Dst: ndGroup, Length: new(uint16(40))}), xdpPass, "nd_invalid", nil},
		"of 264 bytes":        {nd(packet.ND{Target: ndVIP, Options: append([]byte{200, 30}, make([]byte, 238)...)}), xdpPass, "nd_invalid", nil},
		"from a group":        {ip(packet.IPv6{HopLimit: 255, Src: allNodes, Dst: ndGroup}), xdpPass, "nd_invalid", nil},
		"probe with a MAC":    {build(with(ndProbe, 2, packet.ND{Target: ndVIP, Options: mac})...), xdpPass, "nd_invalid", nil},
		"probe to all nodes":  {build(with(ndProbe, 1, packet.IPv6{HopLimit: 255, Src: ndNowhere, Dst: allNodes})...), xdpPass, "nd_invalid", nil},
		"of another address":  {nd(packet.ND{Target: ndOther, Options: mac}), xdpPass, "not_ours", nil},
		"to another's MAC":    {eth(packet.Ethernet{Dst: otherMAC, Src: routerMAC}), xdpPass, "not_ours", nil},
		"MAC of a group":      {nd(packet.ND{Target: ndVIP, Options: packet.SourceMAC(groupMAC)}), xdpPass, "not_ours", nil},
		"a router's":          {nd(packet.ND{Type: 134, Target: ndVIP}), xdpPass, "not_ours", nil},
		"an echo to a group":  {build(with(ask, 2, packet.ICMP{Type: packet.EchoRequest6})...), xdpPass, "not_ours", nil},
		"cut off":             {build(ask...)[:70], xdpPass, "not_ours", nil},
		"behind an extension": {build(ask[0], ask[1], packet.Extension{Kind: packet.KindHopByHop, Body: make([]byte, 6)}, ask[2]), xdpPass, "not_ours", nil},
	} {
		n.sub(name, func(n *node) {
			n.expect(kindXDP, n.out, row.in, row.action, row.reason, row.out)
			action := map[uint32]uint32{xdpTX: tcRedirect, xdpPass: tcNext}[row.action]
			n.expect(kindTCBalance, n.out, row.in, action, row.reason, row.out)
		})
	}
	n.sub("on another device", func(n *node) {
		n.expect(kindXDP, n.second, packet.Build(ask...), xdpPass, "not_ours", nil)
	})
	n.sub("lease has run out", func(n *node) {
		n.renew(-1)
		defer n.renew(3600)
		n.expect(kindXDP, n.out, packet.Build(ask...), xdpPass, "nd_expired", nil)
	})
	n.sub("ping", func(n *node) { // goes on to be answered
		ping := []packet.Layer{packet.Ethernet{Dst: nodeMAC, Src: routerMAC}, packet.IPv6{HopLimit: 255, Src: ndRouter, Dst: ndVIP}, packet.ICMP{Type: packet.EchoRequest6, ID: 9}}
		n.expect(kindXDP, n.out, packet.Build(ping...), xdpTX, "icmp_echo_reply", packet.Build(
			packet.Ethernet{Dst: routerMAC, Src: nodeMAC}, packet.IPv6{HopLimit: 64, Src: ndVIP, Dst: ndRouter}, packet.ICMP{Type: packet.EchoReply6, ID: 9}))
	})
}

// A device of a VLAN has its own addresses; answers have the tags of questions.
func TestNeighbourDiscoveryInVLAN(t *testing.T) {
	n := newNode(t)
	out, second := uint32(n.out.Attrs().Index), uint32(n.second.Attrs().Index)
	n.put("vlans", bpfVlanKey{Device: out, Outer: 10}, second)
	n.put("vlans", bpfVlanKey{Device: out, Outer: 10, Inner: 20}, second)
	n.put("announced6", bpfAnnouncedKey6{Addr: be128(ndVIP), Ifindex: second}, bpfAnnounced{Generation: 1, Mac: nodeMAC})
	ask, answer := solicit(ndVIP), advertise(routerMAC, ndRouter, packet.NDSolicited|packet.NDOverride)
	tag := packet.VLAN{TCI: 0x6000 | 10}
	n.expect(kindXDP, n.out, packet.Build(ask[0], tag, ask[1], ask[2]), xdpTX, "nd_reply", packet.Build(answer[0], tag, answer[1], answer[2]))
	outer, inner := packet.VLAN{TPID: packet.TypeQinQ, TCI: 10}, packet.VLAN{TCI: 20}
	n.expect(kindXDP, n.out, packet.Build(ask[0], outer, inner, ask[1], ask[2]), xdpTX, "nd_reply", packet.Build(answer[0], outer, inner, answer[1], answer[2]))
	n.expect(kindXDP, n.out, packet.Build(ask...), xdpPass, "not_ours", nil)
}

func TestNeighbourDiscoveryClaims(t *testing.T) {
	n := newNode(t)
	key := n.announce6(bpfAnnounced{Generation: 1, Mac: nodeMAC})
	heard := make(chan Claim, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	start := time.Duration(bootTime(t))
	go func() {
		done <- n.WatchClaims(ctx, func(c Claim) {
			if c.At > start { // and not of a test before this one
				heard <- c
			}
		})
	}()
	// claimed runs a frame and wants it told as a claim of mac.
	claimed := func(n *node, in []byte, action uint32, reason string, out []byte, mac packet.MAC, muted bool) {
		n.t.Helper()
		n.expect(kindXDP, n.out, in, action, reason, out)
		select {
		case c := <-heard:
			if c.Addr != ndVIP || c.MAC.String() != mac.String() || c.Muted != muted || c.Ifindex != n.out.Attrs().Index {
				n.t.Errorf("claim = %+v, want %s of %s, muted %v", c, ndVIP, mac, muted)
			}
		case <-time.After(10 * time.Second):
			n.t.Fatal("no claim was told in 10 s")
		}
	}
	claim := func(mac packet.MAC, nd packet.ND) []byte {
		nd.Type, nd.Target = packet.NDAdvertisement, ndVIP
		return packet.Build(packet.Ethernet{Dst: allMAC, Src: mac}, packet.IPv6{HopLimit: 255, Src: ndVIP, Dst: allNodes}, nd)
	}
	n.sub("our own", func(n *node) {
		n.expect(kindXDP, n.out, claim(nodeMAC, packet.ND{Flags: packet.NDOverride, Options: packet.TargetMAC(nodeMAC)}), xdpPass, "not_ours", nil)
		n.expect(kindXDP, n.out, packet.Build(with(ndProbe, 0, packet.Ethernet{Dst: groupMAC, Src: nodeMAC})...), xdpPass, "not_ours", nil)
	})
	n.sub("not valid", func(n *node) {
		n.expect(kindXDP, n.out, claim(otherMAC, packet.ND{Flags: packet.NDSolicited}), xdpPass, "nd_invalid", nil) // to a group
		n.expect(kindXDP, n.out, claim(otherMAC, packet.ND{Checksum: new(uint16(1))}), xdpPass, "nd_invalid", nil)
	})
	n.sub("on another device", func(n *node) {
		n.expect(kindXDP, n.second, claim(otherMAC, packet.ND{}), xdpPass, "not_ours", nil)
	})
	n.sub("a stranger's", func(n *node) {
		first, second, third := packet.MAC{2, 9}, packet.MAC{2, 9, 1}, packet.MAC{2, 9, 2}
		claimed(n, claim(first, packet.ND{Flags: packet.NDOverride}), xdpPass, "nd_claim", nil, first, false)
		claimed(n, claim(first, packet.ND{Options: packet.TargetMAC(second)}), xdpPass, "nd_claim", nil, second, false)
		asks := with(solicit(ndOther), 1, packet.IPv6{HopLimit: 255, Src: ndVIP, Dst: ndGroup})
		claimed(n, packet.Build(with(asks, 2, packet.ND{Target: ndOther, Options: packet.SourceMAC(third)})...), xdpPass, "nd_claim", nil, third, false)
		n.expect(kindXDP, n.out, packet.Build(solicit(ndVIP)...), xdpTX, "nd_reply", ndAnswer)
	})
	n.sub("a stranger's probe", func(n *node) {
		claimed(n, packet.Build(ndProbe...), xdpTX, "nd_reply", ndProbeAnswer, strangeMAC, false)
	})
	n.sub("a cluster node's", func(n *node) {
		claimed(n, claim(otherMAC, packet.ND{Flags: packet.NDOverride, Options: packet.TargetMAC(otherMAC)}), xdpPass, "nd_claim", nil, otherMAC, true)
		n.expect(kindXDP, n.out, packet.Build(solicit(ndVIP)...), xdpPass, "nd_muted", nil)
		n.put("announced6", key, bpfAnnounced{Generation: 2, Mac: nodeMAC})
		n.expect(kindXDP, n.out, packet.Build(solicit(ndVIP)...), xdpTX, "nd_reply", ndAnswer)
	})
	n.sub("a cluster node's probe", func(n *node) { // it asks whether it still has the address
		in := packet.Build(with(ndProbe, 0, packet.Ethernet{Dst: groupMAC, Src: otherMAC})...)
		n.expect(kindXDP, n.out, in, xdpTX, "nd_reply", ndProbeAnswer)
		var a bpfAnnounced
		if err := n.maps["announced6"].Lookup(key, &a); err != nil || a.Muted != 0 || a.ClaimMac == otherMAC {
			t.Errorf("after a question: %+v, %v", a, err)
		}
		n.expect(kindXDP, n.out, packet.Build(solicit(ndVIP)...), xdpTX, "nd_reply", ndAnswer)
	})
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("WatchClaims did not end with its context")
	}
}

// An address that is asked for before it is announced is not answered for, and
// whoever says to have it is noted.
func TestProbedAddress(t *testing.T) {
	n := newNode(t)
	out := uint32(n.out.Attrs().Index)
	probing := bpfAnnounced{Generation: 1, Mac: nodeMAC, Muted: uint8(bpfMutedMUTED_PROBING)}
	key := bpfAnnouncedKey{Addr: be32(vip), Ifindex: out}
	n.put("announced", key, probing)
	key6 := n.announce6(probing)
	n.expect(kindXDP, n.out, packet.Build(ask(vip)...), xdpPass, "arp_muted", nil)
	n.expect(kindXDP, n.out, packet.Build(solicit(ndVIP)...), xdpPass, "nd_muted", nil)
	// What answers our own probes.
	reply := packet.Build(packet.Ethernet{Dst: nodeMAC, Src: strangeMAC},
		packet.ARP{Op: packet.ARPReply, SenderMAC: strangeMAC, Sender: vip, TargetMAC: nodeMAC})
	advertisement := packet.Build(packet.Ethernet{Dst: allMAC, Src: strangeMAC}, packet.IPv6{HopLimit: 255, Src: ndVIP, Dst: allNodes},
		packet.ND{Type: packet.NDAdvertisement, Flags: packet.NDOverride, Target: ndVIP, Options: packet.TargetMAC(strangeMAC)})
	entries := func() [2]bpfAnnounced {
		t.Helper()
		var four, six bpfAnnounced
		if err := errors.Join(n.maps["announced"].Lookup(key, &four), n.maps["announced6"].Lookup(key6, &six)); err != nil {
			t.Fatal(err)
		}
		return [2]bpfAnnounced{four, six}
	}
	n.expect(kindXDP, n.out, reply, xdpPass, "arp_claim", nil)
	n.expect(kindXDP, n.out, advertisement, xdpPass, "nd_claim", nil)
	for _, a := range entries() {
		if a.ClaimMac != strangeMAC || a.Muted != probing.Muted || a.ClaimedAt == 0 {
			t.Errorf("a stranger's claim: %+v", a)
		}
	}
	copy(reply[6:], otherMAC[:])
	copy(reply[22:], otherMAC[:])
	n.expect(kindXDP, n.out, reply, xdpPass, "arp_claim", nil)
	if a := entries()[0]; a.ClaimMac != otherMAC || a.Muted != probing.Muted|uint8(bpfMutedMUTED_CLAIMED) {
		t.Errorf("a cluster node's claim: %+v", a)
	}
}
