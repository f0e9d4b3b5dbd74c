package kernel

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/state"
	"github.com/seamark-lb/seamark/testlab/packet"
)

// wireFlow is a flow of a client, and the pod that has it.
type wireFlow struct {
	client netip.AddrPort
	seen   netip.AddrPort // whom the pod takes for the client
	proto  state.Protocol
	pod    netip.Addr
	idle   bool // sends nothing until it is woken
	lost   bool // a packet of it went to another pod while its own lived, or came from another client to that
}

// churn is one Service on a wire, whose backends change under its flows.
type churn struct {
	*wire
	rand     *rand.Rand
	vip      netip.Addr
	port     uint16
	number   int
	weights  map[netip.Addr]uint16 // of the ready pods
	draining map[netip.Addr]bool
	unused   []netip.Addr
	flows    []*wireFlow
	clients  int
	protos   []state.Protocol // of its clients
	changing bool             // not all nodes have heard of the last change
	mode     state.Forwarding
	dispatch state.Dispatch
}

const (
	wireNodes = 3
	wirePods  = 4 // of each node
)

var wireProtos = []state.Protocol{state.TCP, state.UDP, state.SCTP}

// begin returns a Service with so many ready pods.
func begin(w *wire, number, ready int, seed uint64) *churn {
	c := &churn{wire: w, rand: rand.New(rand.NewPCG(seed, uint64(number))), number: number,
		vip: w.address(100 + number), port: uint16(8000 + number),
		weights: map[netip.Addr]uint16{}, draining: map[netip.Addr]bool{}, protos: wireProtos,
		mode: state.ForwardDSR, dispatch: state.DispatchIPIP}
	for i := range wireNodes * wirePods {
		c.unused = append(c.unused, w.pod(i%wireNodes, i/wireNodes))
	}
	c.rand.Shuffle(len(c.unused), func(i, j int) { c.unused[i], c.unused[j] = c.unused[j], c.unused[i] })
	for range ready {
		c.add()
	}
	for _, n := range w.nodes {
		c.update(n, c.rows())
	}
	return c
}

// podPort is what the pods listen on.
func (c *churn) podPort() uint16 { return c.port + 1000 }

// rows are what every node is told.
func (c *churn) rows() []state.Frontend {
	backend := func(pod netip.Addr) state.Backend {
		return state.Backend{Addr: pod, Port: c.podPort(), Node: c.nodeOf(pod).name, Ready: c.weights[pod] != 0,
			Serving: true, Terminating: c.draining[pod], Weight: c.weights[pod]}
	}
	var rows []state.Frontend
	for _, proto := range wireProtos {
		row := state.Frontend{Addr: c.vip, Port: c.port, Protocol: proto, PortName: proto.String(), Kind: state.KindLoadBalancer,
			Service: state.ObjectName{Namespace: "default", Name: fmt.Sprint("s", c.number)}, Forwarding: c.mode, Dispatch: c.dispatch}
		for _, pod := range sortedAddrs(c.weights) {
			row.Backends = append(row.Backends, backend(pod))
		}
		for _, pod := range sortedAddrs(c.draining) {
			row.Draining = append(row.Draining, backend(pod))
		}
		row.Inside = row.Backends
		rows = append(rows, row)
	}
	return rows
}

func sortedAddrs[V any](of map[netip.Addr]V) []netip.Addr {
	var addrs []netip.Addr
	for a := range of {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

func oneOf[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// The changes. Each says whether there was anything to change.

func (c *churn) add() bool {
	if len(c.unused) == 0 {
		return false
	}
	c.weights[c.unused[0]] = 1
	c.unused = c.unused[1:]
	return true
}

// remove makes a pod drain: it keeps its flows.
func (c *churn) remove() bool {
	if len(c.weights) < 3 {
		return false
	}
	pod := oneOf(c.rand, sortedAddrs(c.weights))
	delete(c.weights, pod)
	c.draining[pod] = true
	return true
}

// bury ends a draining pod, and its flows.
func (c *churn) bury() bool {
	if len(c.draining) == 0 {
		return false
	}
	pod := oneOf(c.rand, sortedAddrs(c.draining))
	delete(c.draining, pod)
	c.unused = append(c.unused, pod)
	c.flows = slices.DeleteFunc(c.flows, func(f *wireFlow) bool { return f.pod == pod && !f.lost })
	return true
}

func (c *churn) weigh() bool {
	pod := oneOf(c.rand, sortedAddrs(c.weights))
	c.weights[pod] = c.weights[pod]%5 + 1 + uint16(c.rand.IntN(3))
	return true
}

func (c *churn) anything() bool {
	changes := []func() bool{c.add, c.remove, c.bury, c.weigh}
	for !oneOf(c.rand, changes)() {
	}
	return true
}

func (c *churn) frontend() netip.AddrPort { return netip.AddrPortFrom(c.vip, c.port) }

// frame is a packet of the flow: the first, or a later one, to the VIP; or the pod's
// answer to one.
func (c *churn) frame(f *wireFlow, first, answer bool) []byte {
	from, to := f.client, c.frontend()
	if answer {
		from, to = netip.AddrPortFrom(f.pod, c.podPort()), f.seen
	}
	sport, dport := from.Port(), to.Port()
	var l4 packet.Layer = packet.UDP{SrcPort: sport, DstPort: dport}
	switch {
	case f.proto == state.TCP && first && answer:
		l4 = packet.TCP{SrcPort: sport, DstPort: dport, Flags: packet.SYN | packet.ACK}
	case f.proto == state.TCP && first:
		l4 = packet.TCP{SrcPort: sport, DstPort: dport, Flags: packet.SYN}
	case f.proto == state.TCP:
		l4 = packet.TCP{SrcPort: sport, DstPort: dport, Ack: 1}
	case f.proto == state.SCTP && first && !answer:
		l4 = packet.SCTP{SrcPort: sport, DstPort: dport, Chunk: packet.ChunkInit}
	case f.proto == state.SCTP:
		l4 = packet.SCTP{SrcPort: sport, DstPort: dport, Tag: 1, Chunk: packet.ChunkData}
	}
	return c.family.packet(fromRouter, from.Addr(), to.Addr(), 64, l4, packet.Payload("x"))
}

// open begins so many flows. One in idle sends nothing after its handshake.
func (c *churn) open(count, idle int) {
	c.t.Helper()
	for range count {
		c.clients++
		f := &wireFlow{proto: oneOf(c.rand, c.protos), idle: c.clients%idle == 0,
			client: netip.AddrPortFrom(wireAddr(c.family.client, c.number, c.clients>>14), uint16(1024+c.clients&0x3fff))}
		f.pod, f.seen = c.send(c.frame(f, true, false))
		if c.changing && !f.pod.IsValid() {
			continue // the pod's own node has not heard of it: the client tries again
		}
		if c.weights[f.pod] == 0 && !(c.changing && c.draining[f.pod]) {
			c.t.Fatalf("a new %s flow went to %s, want one of %v; dropped: %v", f.proto, f.pod, c.weights, c.drops())
		}
		c.answer(c.frame(f, true, true), f.client, c.frontend())
		c.flows = append(c.flows, f)
		c.talk(f)
	}
}

// talk has the client send a packet. A UDP flow may have another pod when its own
// drains; until that pod's node has heard of it, what is sent there is dropped.
func (c *churn) talk(f *wireFlow) {
	c.t.Helper()
	if f.lost {
		return
	}
	got, seen := c.send(c.frame(f, false, false))
	switch {
	case got == f.pod && seen == f.seen:
	case f.proto == state.UDP && c.draining[f.pod] && got.IsValid():
		f.pod = got
		c.answer(c.frame(f, false, true), f.client, c.frontend())
	case f.proto == state.UDP && c.draining[f.pod] && c.changing:
	default:
		f.lost = true
	}
}

// traffic has so many flows that are not idle send a packet each, and some begin.
func (c *churn) traffic(count int) {
	c.t.Helper()
	for range count {
		if f := oneOf(c.rand, c.flows); !f.idle {
			c.talk(f)
		}
	}
	c.open(count/10, 4)
}

// change makes a change known to the nodes one by one, with packets under way; at
// half time the ingress node becomes ingress. Then there are at least so many
// flows again.
func (c *churn) change(how func() bool, ingress, flows int) {
	c.t.Helper()
	if !how() {
		return
	}
	c.changing = true
	for i, at := range c.rand.Perm(len(c.nodes)) {
		if i == len(c.nodes)/2 {
			c.ingress = ingress
		}
		c.update(c.nodes[at], c.rows())
		c.traffic(100)
	}
	c.changing = false
	c.traffic(500)
	c.open(max(flows-len(c.flows), 0), 3)
}

// lookup is what a node's maps say of a frontend.
func (c *churn) lookup(n *wireNode, proto state.Protocol) (set uint32, look datapath.Look, active []uint32) {
	c.t.Helper()
	f, ok, err := n.maps.Frontends.Lookup(datapath.FrontendKey{Addr: c.vip, Port: c.port, Proto: proto})
	c.must(err)
	s, found, err := n.maps.Sets.Lookup(f.Set)
	c.must(err)
	if !ok || !found {
		c.t.Fatalf("%s does not serve %s", n.name, c.vip)
	}
	active, err = n.maps.Tables.Read(4*f.Set+s.Look.Active(), s.Size[s.Look.Active()])
	c.must(err)
	return f.Set, s.Look, active
}

func slotOf(active []uint32, client, vip netip.AddrPort, proto state.Protocol) uint32 {
	return active[MaglevSlot(FlowHash(client, vip, uint8(proto)), uint32(len(active)))]
}

// tally counts the flows that were lost, and those whose slot has moved on one of the
// nodes; it fails the test for one that is lost in spite of its slot.
func (c *churn) tally(nodes ...int) (lost, moved int) {
	c.t.Helper()
	tables := map[[2]int][]uint32{}
	for _, n := range nodes {
		for _, proto := range wireProtos {
			_, look, active := c.lookup(c.nodes[n], proto)
			if look.Moving() {
				tables[[2]int{n, int(proto)}] = active
			}
		}
	}
	for _, f := range c.flows {
		marked := false
		for _, n := range nodes {
			if table := tables[[2]int{n, int(f.proto)}]; table != nil {
				marked = marked || slotOf(table, f.client, c.frontend(), f.proto)&datapath.SlotMoved != 0
			}
		}
		if marked {
			moved++
		}
		if f.lost {
			lost++
		}
		if f.lost && !marked {
			c.t.Errorf("a %s flow of %s was lost, and its slot has not moved", f.proto, f.client)
		}
	}
	return lost, moved
}

// wake has every flow send.
func (c *churn) wake() {
	c.t.Helper()
	for range 2 {
		for _, f := range c.flows {
			c.talk(f)
		}
	}
}

// end leaves nothing of the Service, nor of its flows' pins.
func (c *churn) end() {
	c.t.Helper()
	for _, n := range c.nodes {
		pins, err := n.maps.Pins.All()
		c.must(err)
		for tuple := range pins {
			c.must(n.maps.Pins.Delete(tuple))
		}
		for _, err := range n.target.DeleteAll(context.Background(), c.rows()) {
			c.must(err)
		}
	}
	c.ingress = 0
}

// churnSeed makes each run of the tests the same: a change is judged by itself.
const churnSeed = 1

// fillPins leaves a node no room for pins.
func (c *churn) fillPins(n *wireNode) {
	c.t.Helper()
	for i, err := 0, error(nil); err == nil; i++ {
		key := datapath.Tuple{Proto: state.TCP, Dst: netip.AddrPortFrom(wireAddr(c.family.router, i>>16, 1), 1),
			Src: netip.AddrPortFrom(c.family.router, uint16(i))}
		err = n.maps.Pins.Update(key, datapath.Pin{Backend: 1})
	}
}

// onEachWire runs a test on a wire of each family.
func onEachWire(t *testing.T, test func(t *testing.T, f family)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}

// A client's packets reach the pod that has its flow, whatever becomes of the
// others. What is lost after a change of the ingress node had its pin on the old one.
func TestFlowsKeepTheirBackends(t *testing.T) { onEachWire(t, flowsKeepTheirBackends) }

func flowsKeepTheirBackends(t *testing.T, f family) {
	w := newWire(t, f, wireNodes, wirePods, Sizes{Flows: 1 << 17, HalfOpen: 1 << 16, Pins: 1 << 16, NAT: 1024, Affinity: 1024, Fragments: 1024})
	const seed = churnSeed
	var table strings.Builder
	fmt.Fprintf(&table, "seed %d\n%-26s %-9s %-7s %7s %7s %7s\n", seed, "backends", "ingress", "chance", "flows", "moved", "lost")
	number := 0
	for _, kind := range []struct {
		name    string
		how     func(*churn) bool
		flows   int
		changes int
		ready   int
		full    bool
	}{
		{"added", (*churn).add, 2000, 8, 4, false},
		{"removed", (*churn).remove, 2000, 8, 12, false},
		{"weights changed", (*churn).weigh, 2000, 8, 6, false},
		{"all, in random order", (*churn).anything, 10000, 16, 6, false},
		{"all, and pins full", (*churn).anything, 2000, 8, 6, true},
	} {
		if emulated() && kind.changes != 16 {
			continue // what each does alone is seen where packets do not take a millisecond
		}
		for _, ingress := range []int{0, 1} {
			for _, chance := range []bool{true, false} {
				w.chance = chance
				c := begin(w, number, kind.ready, seed)
				number++
				flows := kind.flows
				if f.v6 || emulated() { // what the families have in common, IPv4 has shown
					flows /= 4
				}
				c.open(flows, 3)
				if kind.full {
					c.fillPins(w.nodes[0])
				}
				for i := range kind.changes {
					to := 0
					if i >= kind.changes/2 {
						to = ingress
					}
					c.change(func() bool { return kind.how(c) }, to, flows)
				}
				c.wake()
				lost, moved := c.tally(0, ingress)
				fmt.Fprintf(&table, "%-26s %-9s %-7s %7d %6.1f%% %7d\n", kind.name, []string{"one", "changes"}[ingress],
					map[bool]string{true: "on", false: "off"}[chance], len(c.flows), 100*float64(moved)/float64(len(c.flows)), lost)
				if ingress == 0 && chance && !kind.full && lost != 0 {
					t.Errorf("backends %s: %d flows lost on one ingress node, want none", kind.name, lost)
				}
				c.end()
			}
		}
	}
	t.Log(table.String())
}

// closeWindow ends the flows that hold the window of changes open, and lets it close.
func (c *churn) closeWindow() {
	c.t.Helper()
	n := c.nodes[c.ingress]
	ended := map[netip.AddrPort]bool{}
	for _, proto := range wireProtos {
		set, _, active := c.lookup(n, proto)
		pins, err := n.maps.Pins.All()
		c.must(err)
		for tuple, pin := range pins {
			if pin.Set == set && pin.Backend != slotOf(active, tuple.Src, tuple.Dst, proto)&^datapath.SlotMoved {
				ended[tuple.Src] = true
				c.must(n.maps.Pins.Delete(tuple))
			}
		}
	}
	c.flows = slices.DeleteFunc(c.flows, func(f *wireFlow) bool { return ended[f.client] })
	c.now = c.now.Add(datapath.DefaultWindow + time.Minute)
	for _, n := range c.nodes {
		c.must(n.target.Prune(context.Background(), c.rows()))
		for _, proto := range wireProtos {
			if _, look, _ := c.lookup(n, proto); look.Moving() {
				c.t.Fatalf("%s: the window of %s is still open", n.name, proto)
			}
		}
	}
}

// Flows that sleep while the window of changes closes find their pods again, also
// when their slots come back to these.
func TestFlowsSleepThroughWindows(t *testing.T) { onEachWire(t, flowsSleepThroughWindows) }

func flowsSleepThroughWindows(t *testing.T, f family) {
	w := newWire(t, f, wireNodes, wirePods, Sizes{Flows: 1 << 16, HalfOpen: 1 << 15, Pins: 1 << 14, NAT: 1024, Affinity: 1024, Fragments: 1024})
	const seed = churnSeed
	var table strings.Builder
	fmt.Fprintf(&table, "seed %d\n%-40s %-7s %7s %7s\n", seed, "slept through", "chance", "flows", "lost")
	for number, chance := range []bool{true, false} {
		w.chance = chance
		c := begin(w, number, 5, seed)
		c.protos = []state.Protocol{state.TCP, state.SCTP} // others have no second chance
		c.open(map[bool]int{false: 4000, true: 1500}[f.v6 || emulated()], 2)
		report := func(what string) {
			lost := 0
			for _, f := range c.flows {
				if f.lost {
					lost++
				}
			}
			fmt.Fprintf(&table, "%-40s %-7v %7d %7d\n", what, map[bool]string{true: "on", false: "off"}[chance], len(c.flows), lost)
			if chance && lost != 0 {
				t.Errorf("%s: %d flows lost, want none", what, lost)
			}
			if !chance && lost == 0 {
				t.Errorf("%s: no flow was lost without a second chance: none needed it", what)
			}
		}
		change := func() {
			for _, n := range c.nodes {
				c.update(n, c.rows())
			}
		}
		added := c.unused[0]
		c.add()
		change()
		c.traffic(2000)
		c.closeWindow()
		for i, f := range c.flows {
			if i%2 == 0 {
				c.talk(f)
			}
		}
		report("a window (A, B)")
		delete(c.weights, added)
		c.draining[added] = true
		change()
		c.wake()
		report("a window, and a change back (A, B, A)")
		c.end()
	}
	t.Log(table.String())
}

// Established flows, and those that begin meanwhile, go on when the way of
// forwarding changes under them: each pod goes on seeing the same client.
func TestFlowsKeepTheirWay(t *testing.T) { onEachWire(t, flowsKeepTheirWay) }

func flowsKeepTheirWay(t *testing.T, f family) {
	w := newWire(t, f, wireNodes, wirePods, Sizes{Flows: 1 << 15, HalfOpen: 1 << 15, Pins: 1 << 14, NAT: 1 << 15, Affinity: 1024, Fragments: 1024})
	const seed = churnSeed
	var table strings.Builder
	fmt.Fprintf(&table, "seed %d\n%-12s %7s %11s %7s\n", seed, "switched to", "flows", "translated", "lost")
	w.chance = true
	c := begin(w, 0, 6, seed)
	c.protos = []state.Protocol{state.TCP, state.SCTP} // the others' packets go by the mode of the day
	c.open(1000, 3)
	for _, to := range []struct {
		mode     state.Forwarding
		dispatch state.Dispatch
	}{
		{state.ForwardDSR, state.DispatchGeneve},
		{state.ForwardSNAT, ""},
		{state.ForwardDSR, state.DispatchIPIP},
		{state.ForwardSNAT, ""},
		{state.ForwardDSR, state.DispatchGeneve},
		{state.ForwardDSR, state.DispatchIPIP},
	} {
		c.change(func() bool {
			c.mode, c.dispatch = to.mode, to.dispatch
			return true
		}, 0, len(c.flows)+300)
		c.wake()
		lost, translated := 0, 0
		for _, f := range c.flows {
			if f.lost {
				lost++
				continue
			}
			c.answer(c.frame(f, false, true), f.client, c.frontend())
			if f.seen != f.client {
				translated++
			}
		}
		fmt.Fprintf(&table, "%-12s %7d %11d %7d\n", strings.TrimSpace(string(to.mode)+" "+string(to.dispatch)), len(c.flows), translated, lost)
		if lost != 0 {
			t.Errorf("switched to %s %s: %d flows lost, want none", to.mode, to.dispatch, lost)
		}
		if to.mode == state.ForwardSNAT && translated == 0 {
			t.Error("no new flow is translated")
		}
	}
	t.Log(table.String())
}
