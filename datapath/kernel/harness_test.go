package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The addresses of the test node's world. The node is 192.168.10.100 on out.
var (
	nodeAddr   = netip.MustParseAddr("192.168.10.100")
	otherNode  = netip.MustParseAddr("192.168.10.101")
	router     = netip.MustParseAddr("192.168.10.200")
	client     = netip.MustParseAddr("10.10.1.200") // behind router
	vip        = netip.MustParseAddr("192.168.10.211")
	otherVIP   = netip.MustParseAddr("192.168.10.212") // announced, but by another node
	localPod   = netip.MustParseAddr("172.20.0.5")
	remotePod  = netip.MustParseAddr("172.20.1.7")
	lostPod    = netip.MustParseAddr("172.21.0.1") // no route
	routerMAC  = packet.ParseMAC("02:00:00:00:00:c8")
	nodeMAC    = packet.ParseMAC("02:00:00:00:00:64")
	otherMAC   = packet.ParseMAC("02:00:00:00:00:65")
	strangeMAC = packet.ParseMAC("02:00:00:00:00:99")
	podMAC     = packet.ParseMAC("02:00:00:00:05:01")
	podHostMAC = packet.ParseMAC("02:00:00:00:05:02")
)

// The VIP's ports.
const (
	portLocal      = 80 // and UDP 53, on the pod's 8080 and 5353
	portRemote     = 81 // and UDP 54
	portEmpty      = 82 // no backends
	portUnresolved = 83 // the next hop is the FIB's to find
	portElsewhere  = 84 // the next hop is on another device
	portNoRoute    = 85 // the FIB does not know the pod
	portNoTable    = 86 // the set says it has slots, and there is no table
	portUnserved   = 99
)

// node is a Kernel with a world around it: maps filled, devices up.
type node struct {
	t testing.TB
	host
	*Kernel
	out, second, pod netlink.Link
	// inTC says that packets are balanced in tc: kindXDP stands for that then, with
	// XDP's actions (tc_rows_test.go).
	inTC bool
	// written is what was written into the shared Kernel; nil: this is another.
	written *written
}

// newNode makes a node of the shared Kernel, in a namespace of its own.
func newNode(t testing.TB) *node {
	t.Helper()
	h := newNetwork(t)
	k := sharedFor(t)
	return h.node(t, k.Kernel, &k.written)
}

// nodeWith makes a node of a Kernel of its own.
func nodeWith(t testing.TB, h host, cfg Config) *node {
	t.Helper()
	return h.node(t, openWith(t, worldConfig(cfg)), nil)
}

// node makes the world around a Kernel.
func (h host) node(t testing.TB, k *Kernel, w *written) *node {
	t.Helper()
	n := &node{t: t, host: h, Kernel: k, written: w}
	n.out = n.addDevice("out", nodeMAC)
	n.second = n.addDevice("second", packet.ParseMAC("02:00:00:00:01:64"))
	n.pod = n.addDevice("pod", podHostMAC)
	n.network()
	for _, dev := range []string{"out", "second"} {
		if _, err := n.Attach(dev); err != nil {
			t.Fatal(err)
		}
	}
	n.fill()
	return n
}

func (n *node) addDevice(name string, mac packet.MAC) netlink.Link {
	n.t.Helper()
	dev := addVeth(n.t, name, name+"-peer")
	if err := netlink.LinkSetHardwareAddr(dev, mac[:]); err != nil {
		n.t.Fatal(err)
	}
	return dev
}

// network gives the namespace the addresses, routes and neighbours of the world.
func (n *node) network() {
	n.t.Helper()
	writeSysctl(n.t, "net/ipv4/ip_forward", "1")
	out := n.out.Attrs().Index
	addr := &netlink.Addr{IPNet: ipnet(netip.PrefixFrom(nodeAddr, 24))}
	if err := netlink.AddrAdd(n.out, addr); err != nil {
		n.t.Fatal(err)
	}
	for dst, via := range map[netip.Prefix]netip.Addr{
		netip.MustParsePrefix("10.10.0.0/16"):  router,
		netip.MustParsePrefix("172.20.1.0/24"): otherNode,
	} {
		if err := netlink.RouteAdd(&netlink.Route{Dst: ipnet(dst), Gw: via.AsSlice(), LinkIndex: out}); err != nil {
			n.t.Fatal(err)
		}
	}
	for addr, mac := range map[netip.Addr]packet.MAC{router: routerMAC, otherNode: otherMAC} {
		neigh := &netlink.Neigh{LinkIndex: out, State: unix.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac[:]}
		if err := netlink.NeighSet(neigh); err != nil {
			n.t.Fatal(err)
		}
	}
}

// fill writes the maps as package datapath would.
func (n *node) fill() {
	n.t.Helper()
	out, second := uint32(n.out.Attrs().Index), uint32(n.second.Attrs().Index)
	n.put("next_hops", uint32(1), bpfNextHop{Ifindex: out, Saddr: be32(nodeAddr), Dmac: otherMAC, Smac: nodeMAC})
	n.put("next_hops", uint32(2), bpfNextHop{})
	n.put("next_hops", uint32(3), bpfNextHop{Ifindex: second, Saddr: be32(nodeAddr), Dmac: otherMAC, Smac: nodeMAC})
	for id, b := range map[uint32]bpfBackend{
		1: {Addr: be32(localPod), Port: be16(8080), Flags: uint8(bpfBackendFlagsBACKEND_LOCAL)},
		2: {Addr: be32(localPod), Port: be16(5353), Flags: uint8(bpfBackendFlagsBACKEND_LOCAL)},
		3: {Addr: be32(remotePod), Port: be16(8080), NextHop: 1},
		4: {Addr: be32(remotePod), Port: be16(8080), NextHop: 2},
		5: {Addr: be32(remotePod), Port: be16(8080), NextHop: 3},
		6: {Addr: be32(lostPod), Port: be16(8080), NextHop: 2},
	} {
		n.put("backends", id, b)
		n.table(id, 0, []uint32{id}) // set id has the one backend id
	}
	n.put("sets", uint32(7), bpfBackendSet{})
	n.put("sets", uint32(8), bpfBackendSet{Size: [4]uint32{5, 5, 5}})
	n.put("frontends", bpfFrontendKey{Addr: be32(vip)}, bpfFrontend{})
	for _, f := range []struct {
		port  uint16
		proto uint8
		set   uint32
	}{
		{portLocal, packet.ProtoTCP, 1}, {53, packet.ProtoUDP, 2},
		{portRemote, packet.ProtoTCP, 3}, {54, packet.ProtoUDP, 3},
		{portUnresolved, packet.ProtoTCP, 4}, {portElsewhere, packet.ProtoTCP, 5},
		{portNoRoute, packet.ProtoTCP, 6}, {portEmpty, packet.ProtoTCP, 7}, {portNoTable, packet.ProtoTCP, 8},
	} {
		n.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(f.port), Proto: f.proto}, bpfFrontend{Set: f.set})
	}
	n.put("local_targets", bpfLocalKey{Vip: be32(vip), Pod: be32(localPod), Port: be16(portLocal), Proto: packet.ProtoTCP}, bpfLocalTarget{Port: be16(8080)})
	n.put("local_targets", bpfLocalKey{Vip: be32(vip), Pod: be32(localPod), Port: be16(53), Proto: packet.ProtoUDP}, bpfLocalTarget{Port: be16(5353)})
	n.put("endpoints", be32(localPod), bpfEndpoint{Ifindex: uint32(n.pod.Attrs().Index), PodMac: podMAC, HostMac: podHostMAC})
	n.put("announced", bpfAnnouncedKey{Addr: be32(vip), Ifindex: out}, bpfAnnounced{Generation: 1, Mac: nodeMAC})
	n.put("cluster_macs", bpfMacKey{Mac: otherMAC}, uint32(1))
	n.renew(3600)
}

// renew makes the node's right to announce end in that many seconds.
func (n *node) renew(seconds int64) {
	n.t.Helper()
	n.put("announcer", uint32(0), bpfAnnouncer{ValidUntil: uint64(bootTime(n.t) + seconds*1e9)})
}

// table makes ids one of the three Maglev tables of a set, and the active one.
func (n *node) table(set, which uint32, ids []uint32) {
	n.t.Helper()
	name, spec := "tables", &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: uint32(len(ids)+2) / 3, Flags: unix.BPF_F_INNER_MAP}
	if small := n.specs["tables_"+strconv.Itoa(len(ids))]; small != nil {
		name, spec = small.Name, small.InnerMap
	}
	inner := n.written.table(name, 4*set+which, spec)
	if inner == nil {
		var err error
		if inner, err = ebpf.NewMap(spec); err != nil {
			n.t.Fatal(err)
		}
		n.put(name, 4*set+which, inner)
		if !n.written.keep(name, 4*set+which, inner) {
			defer inner.Close()
		}
	}
	if err := fillTable(inner, ids); err != nil {
		n.t.Fatal(err)
	}
	s := bpfBackendSet{Look: which}
	s.Size[which] = uint32(len(ids))
	n.put("sets", set, s)
}

// fillTable writes a Maglev table in the form of the inner map.
func fillTable(inner *ebpf.Map, ids []uint32) error {
	if inner.ValueSize() != 8 {
		return inner.Put(uint32(0), smallTable(ids))
	}
	words := make([]uint64, inner.MaxEntries())
	for i, id := range ids {
		words[i/3] |= uint64(id) << (i % 3 * 21)
	}
	_, err := inner.BatchUpdate(numbersTo(inner.MaxEntries()), words, nil)
	return err
}

// smallTable is a struct small_table.
func smallTable(ids []uint32) []byte {
	var list []uint32
	var slots []byte
	for _, id := range ids {
		backend := id &^ uint32(bpfSlotSLOT_MOVED)
		at := slices.Index(list, backend)
		if at < 0 {
			at = len(list)
			list = append(list, backend)
		}
		if id != backend {
			at |= int(bpfSmallSlotSMALL_MOVED)
		}
		slots = append(slots, byte(at))
	}
	value := make([]byte, 4*bpfSmallSlotSMALL_BACKENDS)
	for i, id := range list {
		binary.NativeEndian.PutUint32(value[4*i:], id)
	}
	return append(value, slots...)
}

func (n *node) put(name string, key, value any) {
	n.t.Helper()
	if err := n.maps[name].Put(key, value); err != nil {
		n.t.Fatalf("put into %s: %v", name, err)
	}
	n.written.note(n.maps[name], name, key)
	if strings.HasPrefix(name, "frontends") {
		n.newEdition()
	}
}

// newEdition is what userspace does after a change of frontends.
func (n *node) newEdition() {
	n.t.Helper()
	if err := n.nextEdition(); err != nil {
		n.t.Fatal(err)
	}
}

// clearFlows forgets all flows.
func (n *node) clearFlows() {
	n.t.Helper()
	for _, name := range []string{"flows", "half_open"} {
		for key := range n.flows(name) {
			if err := n.maps[name].Delete(key); err != nil {
				n.t.Fatal(err)
			}
		}
	}
}

// flows returns a flow table without the times.
func (n *node) flows(name string) map[bpfFlowKey]bpfFlow {
	n.t.Helper()
	all := map[bpfFlowKey]bpfFlow{}
	var key bpfFlowKey
	var value bpfFlow
	it := n.maps[name].Iterate()
	for it.Next(&key, &value) {
		value.Seen = 0
		all[key] = value
	}
	if err := it.Err(); err != nil {
		n.t.Fatal(err)
	}
	return all
}

// What programs return.
const (
	xdpDrop, xdpPass, xdpTX, xdpRedirect = 1, 2, 3, 4

	tcNext     = 0xffffffff // TC_ACT_UNSPEC
	tcDrop     = 2
	tcRedirect = 7
)

// result of one packet through one program.
type result struct {
	action uint32
	hook   string
	reason string
	bytes  uint64
	out    []byte
}

// program is Kernel.program, which has to succeed.
func (n *node) program(kind string) *ebpf.Program {
	n.t.Helper()
	program, err := n.Kernel.program(kind)
	if err != nil {
		n.t.Fatal(err)
	}
	return program
}

// run sends a frame into a program as if it came in on dev.
func (n *node) run(kind string, dev netlink.Link, frame []byte) result {
	n.t.Helper()
	if kind == kindXDP && n.inTC {
		return asInXDP(n.run(kindTCBalance, dev, frame))
	}
	options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: skbContext(dev)}
	if kind == kindXDP {
		options.Context = xdpContext(dev, frame)
	}
	before := n.counts()
	action, err := n.program(kind).Run(&options)
	if err != nil {
		n.t.Fatalf("run %s on %x: %v", kind, frame, err)
	}
	r := result{action: action, out: options.DataOut}
	for at, now := range n.counts() {
		then := before[at]
		if now == then {
			continue
		}
		if r.reason != "" || now.Packets != then.Packets+1 {
			n.t.Errorf("one packet was counted as %s %s and as %s %s", r.hook, r.reason, at.hook, at.reason)
		}
		r.hook, r.reason, r.bytes = at.hook, at.reason, now.Bytes-then.Bytes
	}
	hook := kind
	if kind == kindTCBalance { // it stands in for the other
		hook = kindTCOutside
	}
	if r.hook != hook || r.bytes != uint64(len(frame)) {
		n.t.Errorf("%s counted %d bytes for %q %q, want %d", kind, r.bytes, r.hook, r.reason, len(frame))
	}
	return r
}

// runOptions are for XDP on out, without the counting of run.
func runOptions(n *node, frame []byte) *ebpf.RunOptions {
	return &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: xdpContext(n.out, frame)}
}

// xdpContext is a struct xdp_md.
func xdpContext(dev netlink.Link, frame []byte) []byte {
	context := make([]byte, 24)
	binary.NativeEndian.PutUint32(context[4:], uint32(len(frame)))         // data_end
	binary.NativeEndian.PutUint32(context[12:], uint32(dev.Attrs().Index)) // ingress_ifindex
	return context
}

// skbContext is a struct __sk_buff.
func skbContext(dev netlink.Link) []byte {
	context := make([]byte, 192)
	binary.NativeEndian.PutUint32(context[40:], uint32(dev.Attrs().Index)) // ifindex
	return context
}

type countKey struct{ hook, reason string }

func (n *node) counts() map[countKey]bpfCount {
	n.t.Helper()
	verdicts, err := n.Verdicts()
	if err != nil {
		n.t.Fatal(err)
	}
	counts := map[countKey]bpfCount{}
	for _, v := range verdicts {
		counts[countKey{v.Hook, v.Reason}] = bpfCount{Packets: v.Packets, Bytes: v.Bytes}
	}
	return counts
}

// expect runs a frame and compares all that comes of it. Without out the frame
// has to come out as it went in.
func (n *node) expect(kind string, dev netlink.Link, in []byte, action uint32, reason string, out []byte) {
	n.t.Helper()
	if out == nil {
		out = in
	}
	r := n.run(kind, dev, in)
	if kind == kindXDP && n.inTC {
		action, reason, out = n.wantInTC(dev, action, reason, out)
	}
	if r.action != action || r.reason != reason {
		n.t.Errorf("%s: action %d for %q, want %d for %q, of\n%s", kind, int32(r.action), r.reason, int32(action), reason, packet.String(in))
	}
	if d := packet.Diff(out, r.out); d != "" {
		n.t.Errorf("%s: packet is not as wanted:\n%s", kind, d)
	}
}

// sub makes a subtest, in the node's namespace.
func (n *node) sub(name string, test func(n *node)) {
	n.t.Helper()
	n.t.(*testing.T).Run(name, func(t *testing.T) {
		enter(t, n.net)
		in := *n
		in.t = t
		test(&in)
	})
}

func bootTime(t testing.TB) int64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano()
}

func be16(p uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, p))
}

// with returns the layers with one replaced.
func with(layers []packet.Layer, at int, layer packet.Layer) []packet.Layer {
	layers = slices.Clone(layers)
	layers[at] = layer
	return layers
}
