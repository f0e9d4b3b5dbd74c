package kernel

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/state"
	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
)

// wireNode is a node on a wire: the programs over maps of their own, and the
// target that fills these.
type wireNode struct {
	name   string
	mac    packet.MAC
	addr   netip.Addr             // of the wire's family
	xdp    map[bool]*ebpf.Program // by whether packets are handed on
	pod    *ebpf.Program
	kernel *Kernel // for its verdicts
	maps   datapath.Maps
	target *datapath.FrontendTarget
}

// wire is nodes that send each other frames: what one's program sends, another's
// gets. Frames of clients come in at the ingress node.
type wire struct {
	t       testing.TB
	family  family
	device  netlink.Link // of all nodes, both ways
	nodes   []*wireNode
	ingress int
	chance  bool // packets are handed on
	now     time.Time
	buffer  []byte
}

// wireHops leads to each pod's node; see wirePod.
type wireHops struct{}

func (wireHops) Index(pod netip.Addr, _ datapath.NodeAddrs, _ uint32) uint32 {
	return uint32(nodeOfPod(pod)) + 1
}

func (wireHops) Keep(map[netip.Addr]bool) {}

// wireAddr is an address with a number: of IPv4 its last two bytes, 172.20.0.0 for
// instance, and of IPv6 the third word and the last.
func wireAddr(of netip.Addr, a, b int) netip.Addr {
	bytes := of.AsSlice()
	if of.Is4() {
		bytes[2], bytes[3] = byte(a), byte(b)
	} else {
		bytes[4], bytes[5], bytes[14], bytes[15] = byte(a>>8), byte(a), byte(b>>8), byte(b)
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// pod is a pod of the node with that index; nodeOfPod is its node's.
func (w *wire) pod(node, pod int) netip.Addr { return wireAddr(w.family.localPod, node, pod+1) }

func nodeOfPod(pod netip.Addr) int {
	if pod.Is4() {
		return int(pod.As4()[2])
	}
	return int(pod.As16()[5])
}

// newWire returns a wire of nodes with so many pods each. The routes to clients are
// those of the test's namespace: to 10.10.0.0/16 and fd00:aa::/32.
func newWire(t testing.TB, f family, nodes, pods int, sizes Sizes) *wire {
	t.Helper()
	world := &node{t: t, host: newHost(t)}
	world.out = world.addDevice("out", nodeMAC)
	world.network()
	if f.v6 {
		world.enableIPv6(f)
	}
	w := &wire{t: t, family: f, device: world.out, now: time.Now(), buffer: make([]byte, 512)}
	for i := range nodes {
		w.nodes = append(w.nodes, w.join(i, sizes))
	}
	// A program is run as if on a device only if there is one on it.
	attached, err := link.AttachXDP(link.XDPOptions{Program: w.nodes[0].xdp[true], Interface: w.device.Attrs().Index, Flags: link.XDPGenericMode})
	w.must(err)
	t.Cleanup(func() { attached.Close() })
	for i, n := range w.nodes {
		for other, to := range w.nodes {
			hop := datapath.NextHopEntry{Ifindex: w.ifindex(), MTU: 1500, Dmac: datapath.MAC(to.mac), Smac: datapath.MAC(n.mac)}
			if f.v6 {
				hop.Saddr6, hop.Node6 = n.addr.As16(), to.addr.As16()
			} else {
				hop.Saddr, hop.Node = n.addr.As4(), to.addr.As4()
			}
			w.must(n.maps.NextHops.Update(uint32(other)+1, hop))
		}
		for pod := range pods {
			w.must(n.maps.Endpoints.Update(w.pod(i, pod), datapath.EndpointEntry{
				Ifindex: w.ifindex(), PodMAC: datapath.MAC(podMAC), HostMAC: datapath.MAC(podHostMAC)}))
		}
	}
	return w
}

func (w *wire) ifindex() uint32 { return uint32(w.device.Attrs().Index) }

func (w *wire) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// address is one of the segment's, with that last byte.
func (w *wire) address(last int) netip.Addr {
	bytes := w.family.node.AsSlice()
	bytes[len(bytes)-1] = byte(last)
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

func (w *wire) join(index int, sizes Sizes) *wireNode {
	w.t.Helper()
	n := &wireNode{
		name: fmt.Sprintf("node%d", index),
		mac:  packet.MAC{2, 0, 0, 0, 1, byte(index)},
		addr: w.address(index + 1),
		xdp:  map[bool]*ebpf.Program{},
	}
	loaded := w.load(n, sizes, true, nil)
	n.xdp[true], n.pod = loaded.Programs["seamark_xdp"], loaded.Programs["seamark_tc_pod"]
	n.xdp[false] = w.load(n, sizes, false, loaded.Maps).Programs["seamark_xdp"]
	w.must(loaded.Maps["devices"].Put(w.ifindex()%uint32(bpfMaxDevicesMAX_DEVICES), bpfDevice{Ifindex: w.ifindex(), Mac: n.mac, Mtu: 1500}))
	spec, err := loadBpf()
	w.must(err)
	n.kernel = &Kernel{cfg: Config{NodeAddr: n.addr}, maps: loaded.Maps}
	if w.family.v6 {
		n.kernel.cfg = Config{NodeAddr6: n.addr}
	}
	w.must(n.kernel.firstNodeAddrs())
	n.kernel.reasons, err = reasonNames(spec)
	w.must(err)
	n.maps, err = datapath.NewKernelMaps(loaded.Maps)
	w.must(err)
	n.target = datapath.NewFrontendTarget(n.maps, wireHops{}, n.name, slog.New(slog.DiscardHandler))
	n.target.Hash = FlowHash
	n.target.Now = func() time.Time { return w.now }
	return n
}

// load loads the programs over maps, or, with none, over new ones.
func (w *wire) load(n *wireNode, sizes Sizes, chance bool, maps map[string]*ebpf.Map) *ebpf.Collection {
	w.t.Helper()
	spec, err := (&Kernel{cfg: Config{Sizes: sizes}}).spec()
	w.must(err)
	for name := range spec.Programs {
		if name != "seamark_xdp" && (name != "seamark_tc_pod" || !chance) {
			delete(spec.Programs, name)
		}
	}
	if !chance {
		w.must(spec.Variables["second_chance"].Set(uint8(0)))
	}
	shared := map[string]*ebpf.Map{}
	for name, m := range maps {
		if spec.Maps[name] != nil && spec.Maps[name].Pinning == ebpf.PinNone && name[0] != '.' {
			shared[name] = m
		}
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	w.must(err)
	w.t.Cleanup(loaded.Close)
	return loaded
}

// update makes a node serve the rows.
func (w *wire) update(n *wireNode, rows []state.Frontend) {
	w.t.Helper()
	for _, err := range n.target.UpdateAll(context.Background(), rows) {
		w.must(err)
	}
}

// run sends a frame into one of a node's programs.
func (w *wire) run(p *ebpf.Program, frame []byte) (action uint32, out []byte) {
	w.t.Helper()
	options := ebpf.RunOptions{Data: frame, DataOut: w.buffer, Context: skbContext(w.device)}
	if p.Type() == ebpf.XDP {
		options.Context = xdpContext(w.device, frame)
	}
	action, err := p.Run(&options)
	if err != nil {
		w.t.Fatalf("run %s on %x: %v", p, frame, err)
	}
	return action, options.DataOut
}

// ends are where a frame is from, and where it goes.
func ends(frame []byte) (from, to netip.AddrPort) {
	src, size := 26, 4
	if binary.BigEndian.Uint16(frame[12:]) == packet.TypeIPv6 {
		src, size = 22, 16
	}
	end := func(addr, port int) netip.AddrPort {
		a, _ := netip.AddrFromSlice(frame[addr : addr+size])
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(frame[port:]))
	}
	return end(src, src+2*size), end(src+size, src+2*size+2)
}

// send sends a client's frame to the ingress node, and follows it to the pod that
// gets it, and whom that one takes for the client; zeros: it is dropped.
func (w *wire) send(frame []byte) (pod netip.Addr, client netip.AddrPort) {
	w.t.Helper()
	frame = slices.Clone(frame)
	at := w.nodes[w.ingress]
	for range 4 {
		copy(frame, at.mac[:])
		action, out := w.run(at.xdp[w.chance], frame)
		switch action {
		case xdpPass:
			from, to := ends(out)
			if w.nodeOf(to.Addr()) != at {
				w.t.Fatalf("%s passed a packet to %s on:\n%s", at.name, to, packet.String(out))
			}
			return to.Addr(), from
		case xdpTX:
			frame = slices.Clone(out)
			next := slices.IndexFunc(w.nodes, func(n *wireNode) bool { return n.mac == packet.MAC(out[:6]) })
			if next < 0 || w.nodes[next] == at {
				w.t.Fatalf("%s sent a frame to no other node:\n%s", at.name, packet.String(out))
			}
			at = w.nodes[next]
		case xdpDrop:
			return pod, client
		default:
			w.t.Fatalf("%s: action %d", at.name, action)
		}
	}
	w.t.Fatalf("a packet goes round:\n%s", packet.String(frame))
	return pod, client
}

// nodeOf returns the node of a pod; nil: it is no pod.
func (w *wire) nodeOf(pod netip.Addr) *wireNode {
	of := nodeOfPod(pod)
	if of >= len(w.nodes) || wireAddr(pod, 0, 0) != wireAddr(w.family.localPod, 0, 0) {
		return nil
	}
	return w.nodes[of]
}

// answer sends a pod's frame, which has to come to the client from vip: straight,
// or, when it is to a node, by way of that.
func (w *wire) answer(frame []byte, client, vip netip.AddrPort) {
	w.t.Helper()
	pod, to := ends(frame)
	action, out := w.run(w.nodeOf(pod.Addr()).pod, frame)
	if ingress := w.nodes[w.ingress]; action == tcNext && to.Addr() == ingress.addr {
		frame = slices.Clone(out)
		copy(frame, ingress.mac[:])
		if action, out = w.run(ingress.xdp[w.chance], frame); action == xdpTX {
			action = tcRedirect
		}
	}
	if from, to := ends(out); action != tcRedirect || from != vip || to != client {
		w.t.Fatalf("the answer of %s: action %d, from %s to %s, want from %s to %s", pod, int32(action), from, to, vip, client)
	}
}

// drops are why nodes have dropped packets, for a message.
func (w *wire) drops() (why []string) {
	w.t.Helper()
	for _, n := range w.nodes {
		verdicts, err := n.kernel.Verdicts()
		w.must(err)
		for _, v := range verdicts {
			if v.Dropped {
				why = append(why, fmt.Sprintf("%s %s: %d", n.name, v.Reason, v.Packets))
			}
		}
	}
	return why
}
