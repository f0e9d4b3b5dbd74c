package kernel

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// family is the addresses of the test node's world in IPv4 or IPv6.
type family struct {
	name                                string
	v6                                  bool
	node, otherNode, router             netip.Addr
	client, vip, clusterIP              netip.Addr
	localPod, remotePod, hairpin, unmet netip.Addr // unmet: on the segment, MAC unknown
}

var families = []family{
	{
		name: "ipv4", node: nodeAddr, otherNode: otherNode, router: router,
		client: client, vip: vip, clusterIP: netip.MustParseAddr("10.96.0.10"),
		localPod: localPod, remotePod: remotePod, hairpin: netip.MustParseAddr("169.254.77.1"), unmet: netip.MustParseAddr("192.168.10.77"),
	},
	{
		name: "ipv6", v6: true,
		node: netip.MustParseAddr("fd00:10::100"), otherNode: netip.MustParseAddr("fd00:10::101"), router: netip.MustParseAddr("fd00:10::200"),
		client: netip.MustParseAddr("fd00:aa::200"), vip: netip.MustParseAddr("fd00:10::211"), clusterIP: netip.MustParseAddr("fd00:96::10"),
		localPod: netip.MustParseAddr("fd00:20::5"), remotePod: netip.MustParseAddr("fd00:20:1::7"),
		hairpin: netip.MustParseAddr("fd5e:aa4d:4b77::1"), unmet: netip.MustParseAddr("fd00:10::77"),
	},
}

// packet builds a packet of the family.
func (f family) packet(eth packet.Ethernet, src, dst netip.Addr, hops uint8, l4 ...packet.Layer) []byte {
	var ip packet.Layer = packet.IPv4{TOS: 2, TTL: hops, Src: src, Dst: dst}
	if f.v6 {
		ip = packet.IPv6{TrafficClass: 2, FlowLabel: 0x12345, HopLimit: hops, Src: src, Dst: dst}
	}
	return packet.Build(append([]packet.Layer{eth, ip}, l4...)...)
}

func (f family) table(name string) string {
	if f.v6 {
		return name + "6"
	}
	return name
}

// The VIP's ports that are translated, or were: TCP, and UDP on the same.
const (
	portSNAT        = 180
	portSNATByFIB   = 181 // the next hop is the FIB's to find
	portNowSNAT     = 182 // without translation before
	portSNATBefore  = 183 // with translation before
	portSNATNowhere = 184 // no way to the backend
	portSNATSmall   = 185 // a next hop with an MTU of 1300
)

// addFamily gives the node's world the addresses and the frontends of a family.
func (n *node) addFamily(f family) {
	n.t.Helper()
	if f.v6 {
		n.enableIPv6(f)
	}
	out := uint32(n.out.Attrs().Index)
	n.put("next_hops", uint32(20), bpfNextHop{Ifindex: out, Saddr: be32(nodeAddr), Saddr6: words(families[1].node), Dmac: otherMAC, Smac: nodeMAC})
	n.put("next_hops", uint32(21), bpfNextHop{})
	n.put("next_hops", uint32(22), bpfNextHop{Ifindex: out, Mtu: 1300, Saddr: be32(nodeAddr), Saddr6: words(families[1].node), Dmac: otherMAC, Smac: nodeMAC})
	lost := lostPod
	if f.v6 {
		lost = netip.MustParseAddr("fd00:bad::1")
	}
	for id, b := range map[uint32]struct {
		addr netip.Addr
		hop  uint32
	}{20: {f.remotePod, 20}, 21: {f.remotePod, 21}, 22: {lost, 21}, 23: {f.remotePod, 22}} {
		n.putBackend(f, id, b.addr, 8080, b.hop, 0)
		n.table(id, 0, []uint32{id})
	}
	n.putFrontend(f, f.vip, 0, 0, bpfFrontend{Flags: uint32(bpfFrontendFlagsFRONTEND_VIP)})
	for port, row := range map[uint16]bpfFrontend{
		portSNAT:        {Set: 20, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT)},
		portSNATByFIB:   {Set: 21, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT)},
		portNowSNAT:     {Set: 20, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT | bpfFrontendFlagsFRONTEND_SWITCHED)},
		portSNATBefore:  {Set: 20, Flags: uint32(bpfFrontendFlagsFRONTEND_SWITCHED)},
		portSNATNowhere: {Set: 22, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT)},
		portSNATSmall:   {Set: 23, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT)},
	} {
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
			n.putFrontend(f, f.vip, port, proto, row)
		}
	}
}

// enableIPv6 gives the world IPv6, without packets of the kernel's own.
func (n *node) enableIPv6(f family) {
	n.t.Helper()
	must := func(err error) {
		n.t.Helper()
		if err != nil {
			n.t.Fatal(err)
		}
	}
	writeSysctl(n.t, "net/ipv6/conf/all/forwarding", "1")
	for _, key := range []string{"addr_gen_mode", "disable_ipv6"} {
		writeSysctl(n.t, "net/ipv6/conf/out/"+key, map[string]string{"addr_gen_mode": "1", "disable_ipv6": "0"}[key])
	}
	writeSysctl(n.t, "net/ipv6/conf/lo/disable_ipv6", "0")
	must(netlink.AddrAdd(n.out, &netlink.Addr{IPNet: ipnet(netip.PrefixFrom(f.node, 64)), Flags: unix.IFA_F_NODAD}))
	for dst, via := range map[string]netip.Addr{"fd00:aa::/32": f.router, "fd00:20:1::/48": f.otherNode} {
		must(netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.MustParsePrefix(dst)), Gw: via.AsSlice(), LinkIndex: n.out.Attrs().Index}))
	}
	for addr, mac := range map[netip.Addr]packet.MAC{f.router: routerMAC, f.otherNode: otherMAC} {
		must(netlink.NeighSet(&netlink.Neigh{LinkIndex: n.out.Attrs().Index, State: unix.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac[:]}))
	}
}

func (n *node) putBackend(f family, id uint32, addr netip.Addr, port uint16, hop uint32, flags uint8) {
	n.t.Helper()
	if f.v6 {
		n.put("backends6", id, bpfBackend6{Addr: words(addr), Port: be16(port), NextHop: hop, Flags: flags})
		return
	}
	n.put("backends", id, bpfBackend{Addr: be32(addr), Port: be16(port), NextHop: hop, Flags: flags})
}

func (n *node) putFrontend(f family, addr netip.Addr, port uint16, proto uint8, row bpfFrontend) {
	n.t.Helper()
	if f.v6 {
		n.put("frontends6", bpfFrontendKey6{Addr: words(addr), Port: be16(port), Proto: proto}, row)
		return
	}
	n.put("frontends", bpfFrontendKey{Addr: be32(addr), Port: be16(port), Proto: proto}, row)
}

// natTuple is a tuple of either family, natEntry a nat without its age.
type natTuple struct {
	src, dst netip.AddrPort
	proto    uint8
}

type natEntry struct {
	src, dst netip.AddrPort
	flags    bpfNatFlags
	backend  uint32
}

// natTable reads nat_out or nat_in.
func (n *node) natTable(f family, name string) map[natTuple]natEntry {
	n.t.Helper()
	size := 4
	if f.v6 {
		size = 16
	}
	ends := func(b []byte) (src, dst netip.AddrPort) {
		a, _ := netip.AddrFromSlice(b[:size])
		c, _ := netip.AddrFromSlice(b[size : 2*size])
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[2*size:])), netip.AddrPortFrom(c, binary.BigEndian.Uint16(b[2*size+2:]))
	}
	all := map[natTuple]natEntry{}
	m := n.maps[f.table(name)]
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	it := m.Iterate()
	for it.Next(&key, &value) {
		var k natTuple
		var v natEntry
		k.src, k.dst = ends(key)
		k.proto = key[2*size+4]
		v.src, v.dst = ends(value)
		v.flags = bpfNatFlags(value[2*size+4])
		v.backend = binary.NativeEndian.Uint32(value[2*size+12:])
		all[k] = v
	}
	if err := it.Err(); err != nil {
		n.t.Fatal(err)
	}
	return all
}

// clearNAT forgets all translated flows.
func (n *node) clearNAT(f family) {
	n.t.Helper()
	for _, name := range []string{"nat_out", "nat_in"} {
		m := n.maps[f.table(name)]
		key := make([]byte, m.KeySize())
		for m.NextKey(nil, &key) == nil {
			if err := m.Delete(key); err != nil {
				n.t.Fatal(err)
			}
		}
	}
}

// translation returns what the one flow from the client's port becomes, and
// checks that its pair says the same on both sides.
func (n *node) translation(f family, from natTuple) natEntry {
	n.t.Helper()
	entry, ok := n.natTable(f, "nat_out")[from]
	if !ok {
		n.t.Fatalf("no entry of nat_out for %v", from)
	}
	back, ok := n.natTable(f, "nat_in")[natTuple{entry.dst, entry.src, from.proto}]
	if !ok || back.src != from.dst || back.dst != from.src || back.backend != entry.backend {
		n.t.Fatalf("nat_out has %v, nat_in %v (%v)", entry, back, ok)
	}
	return entry
}

// inEachFamily runs a test in a world of each family.
func inEachFamily(t *testing.T, test func(n *node, f family)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			n := newNode(t)
			n.addFamily(f)
			test(n, f)
		})
	}
}

// atEachHookInEachFamily is inEachFamily with packets balanced in XDP, and in tc.
func atEachHookInEachFamily(t *testing.T, test func(n *node, f family)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			atEachHook(t, func(n *node) {
				n.addFamily(f)
				test(n, f)
			})
		})
	}
}
