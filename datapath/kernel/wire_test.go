package kernel

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/state"
	"github.com/seamark-lb/seamark/testlab/packet"
)

// loopback is the index of lo in every namespace: the device of the wire's
// frames, both ways.
const loopback = 1

// wireNode is a node on a wire: the programs over maps of their own, and the
// target that fills these.
type wireNode struct {
	name   string
	mac    packet.MAC
	addr   netip.Addr
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
	nodes   []*wireNode
	ingress int
	chance  bool // packets are handed on
	now     time.Time
	buffer  []byte
}

// wireHops leads to each pod's node; see wirePod.
type wireHops struct{}

func (wireHops) Index(addr netip.Addr, _ datapath.NodeAddrs, _ uint32) uint32 {
	return uint32(addr.As4()[2]) + 1
}

func (wireHops) Keep(map[netip.Addr]bool) {}

// wirePod is a pod of the node with that index.
func wirePod(node, pod int) netip.Addr {
	return netip.AddrFrom4([4]byte{172, 20, byte(node), byte(pod + 1)})
}

// newWire returns a wire of nodes with so many pods each. The routes to clients in
// 10.10.0.0/16 are those of the test's namespace.
func newWire(t testing.TB, nodes, pods int, sizes Sizes) *wire {
	t.Helper()
	world := &node{t: t, host: newHost(t)}
	world.out = world.addDevice("out", nodeMAC)
	world.network()
	w := &wire{t: t, now: time.Now(), buffer: make([]byte, 512)}
	for i := range nodes {
		w.nodes = append(w.nodes, w.join(i, sizes))
	}
	for i, n := range w.nodes {
		for other, to := range w.nodes {
			w.must(n.maps.NextHops.Update(uint32(other)+1, datapath.NextHopEntry{
				Ifindex: loopback, MTU: 1500, Dmac: datapath.MAC(to.mac), Smac: datapath.MAC(n.mac), Saddr: n.addr.As4(), Node: to.addr.As4()}))
		}
		for pod := range pods {
			w.must(n.maps.Endpoints.Update(wirePod(i, pod), datapath.EndpointEntry{
				Ifindex: loopback, PodMAC: datapath.MAC(podMAC), HostMAC: datapath.MAC(podHostMAC)}))
		}
	}
	return w
}

func (w *wire) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) join(index int, sizes Sizes) *wireNode {
	w.t.Helper()
	n := &wireNode{
		name: fmt.Sprintf("node%d", index),
		mac:  packet.MAC{2, 0, 0, 0, 1, byte(index)},
		addr: netip.AddrFrom4([4]byte{192, 168, 10, byte(index + 1)}),
		xdp:  map[bool]*ebpf.Program{},
	}
	loaded := w.load(n, sizes, true, nil)
	n.xdp[true], n.pod = loaded.Programs["seamark_xdp"], loaded.Programs["seamark_tc_pod"]
	n.xdp[false] = w.load(n, sizes, false, loaded.Maps).Programs["seamark_xdp"]
	w.must(loaded.Maps["devices"].Put(uint32(loopback), bpfDevice{Ifindex: loopback, Mac: n.mac, Mtu: 1500}))
	spec, err := loadBpf()
	w.must(err)
	n.kernel = &Kernel{maps: loaded.Maps}
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
	spec, err := (&Kernel{cfg: Config{NodeAddr: n.addr, Sizes: sizes}}).spec()
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
	options := ebpf.RunOptions{Data: frame, DataOut: w.buffer}
	action, err := p.Run(&options)
	if err != nil {
		w.t.Fatalf("run %s on %x: %v", p, frame, err)
	}
	return action, options.DataOut
}

// send sends a client's frame to the ingress node, and follows it to the pod that
// gets it; the zero Addr: it is dropped.
func (w *wire) send(frame []byte) netip.Addr {
	w.t.Helper()
	frame = slices.Clone(frame)
	at := w.nodes[w.ingress]
	for range 4 {
		copy(frame, at.mac[:])
		action, out := w.run(at.xdp[w.chance], frame)
		switch action {
		case xdpPass:
			to := netip.AddrFrom4([4]byte(out[30:34]))
			if w.nodeOf(to) != at {
				w.t.Fatalf("%s passed a packet to %s on:\n%s", at.name, to, packet.String(out))
			}
			return to
		case xdpTX:
			frame = slices.Clone(out)
			next := slices.IndexFunc(w.nodes, func(n *wireNode) bool { return n.mac == packet.MAC(out[:6]) })
			if next < 0 || w.nodes[next] == at {
				w.t.Fatalf("%s sent a frame to no other node:\n%s", at.name, packet.String(out))
			}
			at = w.nodes[next]
		case xdpDrop:
			return netip.Addr{}
		default:
			w.t.Fatalf("%s: action %d", at.name, action)
		}
	}
	w.t.Fatalf("a packet goes round:\n%s", packet.String(frame))
	return netip.Addr{}
}

// nodeOf returns the node of a pod; nil: it is no pod.
func (w *wire) nodeOf(pod netip.Addr) *wireNode {
	if a := pod.As4(); a[0] == 172 && int(a[2]) < len(w.nodes) {
		return w.nodes[a[2]]
	}
	return nil
}

// answer sends a pod's frame, which has to go out to the client from vip.
func (w *wire) answer(pod netip.Addr, frame []byte, vip netip.Addr) {
	w.t.Helper()
	action, out := w.run(w.nodeOf(pod).pod, frame)
	if from := netip.AddrFrom4([4]byte(out[26:30])); action != tcRedirect || from != vip {
		w.t.Fatalf("the answer of %s: action %d, from %s, want from %s", pod, int32(action), from, vip)
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
