package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"testing"

	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/kernel"
	"github.com/seamark-lb/seamark/state"
	"golang.org/x/sys/unix"
)

// What is served, by Seamark and by the router beside it: each service has its own
// address, in the /16 of how it is served, and its pods.
const (
	services = 1000
	inUse    = 100 // the services that packets are for
	backends = 10
	maxFlows = 1 << 20
)

// way is one way of serving: of each there are that many services.
type way struct {
	name       string
	vips       netip.Addr // of the first service; the others follow
	pods       netip.Addr // likewise, each service's backends in a row
	tc, local  bool       // balanced in tc; to pods of this node
	forwarding state.Forwarding
	dispatch   state.Dispatch
	bar        float64 // of its path
}

var allWays = []way{
	{name: "DSR, IPIP", forwarding: state.ForwardDSR, dispatch: state.DispatchIPIP, bar: 8},
	{name: "DSR, Geneve", forwarding: state.ForwardDSR, dispatch: state.DispatchGeneve},
	{name: "SNAT", forwarding: state.ForwardSNAT},
	{name: "to a local pod", local: true, forwarding: state.ForwardDSR, dispatch: state.DispatchIPIP},
	{name: "tc: DSR, IPIP", tc: true, forwarding: state.ForwardDSR, dispatch: state.DispatchIPIP, bar: 2.5},
	{name: "tc: SNAT", tc: true, forwarding: state.ForwardSNAT},
	{name: "tc: to a local pod", tc: true, local: true, forwarding: state.ForwardDSR, dispatch: state.DispatchIPIP},
}

// ways are all ways, each with addresses of its own.
func ways() []way {
	all := slices.Clone(allWays)
	for i := range all {
		all[i].vips = netip.AddrFrom4([4]byte{10, 96 + byte(i)})
		all[i].pods = netip.AddrFrom4([4]byte{172, 16 + byte(i)})
	}
	return all
}

// pod is the address of a service's backend.
func (w way) pod(service, backend int) netip.Addr {
	return plus(w.pods, uint32(service*backends+backend))
}

// frontends are what the daemon would have decided.
func (w way) frontends() []state.Frontend {
	rows := make([]state.Frontend, services)
	for s := range rows {
		row := state.Frontend{
			Addr: plus(w.vips, uint32(s)), Port: 80, Protocol: state.TCP, Kind: state.KindLoadBalancer,
			Service: state.ObjectName{Namespace: w.vips.String(), Name: fmt.Sprint(s)}, Forwarding: w.forwarding, Dispatch: w.dispatch,
		}
		node := "other"
		if w.local {
			node = "this"
		}
		for b := range backends {
			row.Backends = append(row.Backends, state.Backend{Addr: w.pod(s, b), Port: 8080, Node: node, Ready: true})
		}
		row.Inside = row.Backends
		rows[s] = row
	}
	return rows
}

// node is Seamark on a machine with two devices, of which one has its packets
// balanced in tc, and with one pod's veth, which stands for all pods. The far ends
// of the devices are the traffic's.
type node struct {
	namespace
	xdp, tc, pod cable
	maps         datapath.Maps
}

func newNode(tb testing.TB, g *traffic) *node {
	tb.Helper()
	n := &node{namespace: newNamespace(tb)}
	podNS := newNamespace(tb)
	n.xdp = connect(n.namespace, g.net, "eth0", netip.MustParsePrefix("192.168.10.0/24"))
	n.tc = connect(n.namespace, g.net, "eth1", netip.MustParsePrefix("192.168.11.0/24"))
	n.pod = connect(n.namespace, podNS, "pod", netip.MustParsePrefix("192.168.12.0/24"))
	n.route(netip.PrefixFrom(firstClient, 12), netip.MustParseAddr("192.168.10.2"))
	podNS.route(netip.PrefixFrom(firstClient, 12), netip.MustParseAddr("192.168.12.1"))
	g.net.do(func() {
		g.sinkXDP(g.net, "eth0")
		g.sinkTC(g.net, "eth1")
	})
	podNS.do(func() { g.sinkTC(podNS, "pod") })
	n.load(g)
	n.fill()
	return n
}

// load loads the programs as the daemon does, and attaches them.
func (n *node) load(g *traffic) {
	n.tb.Helper()
	bpffs, err := mountNowhere("bpf")
	must(n.tb, err)
	n.do(func() {
		k, err := kernel.Open(kernel.Config{
			BPFFS: bpffs, RunDir: n.tb.TempDir(), NodeAddr: netip.MustParseAddr("192.168.10.1"), MSSClamp: 1440,
			Sizes: kernel.Sizes{Flows: 2 * maxFlows, NAT: 2 * maxFlows, Endpoints: 4 * services * backends},
			Modes: kernel.Modes{Of: []kernel.DeviceMode{{Devices: regexp.MustCompile("^eth1$"), Mode: kernel.ModeTC}}},
			Log:   slog.New(slog.DiscardHandler),
		})
		must(n.tb, err)
		n.tb.Cleanup(func() { k.Close() })
		n.maps, err = datapath.NewKernelMaps(k.Maps())
		must(n.tb, err)
		n.attachXDP("eth1", g.objects.TrafficPass)
		for device, want := range map[string]string{"eth0": "XDP native, tcx", "eth1": "tcx alone (as configured)"} {
			at, err := k.Attach(device)
			must(n.tb, err)
			if at.String() != want {
				n.tb.Fatalf("the programs are on %s as %q, want %q", device, at, want)
			}
		}
		must(n.tb, k.AttachPod("pod"))
	})
}

// fill fills the maps as the daemon does.
func (n *node) fill() {
	n.tb.Helper()
	for index, c := range map[uint32]cable{1: n.xdp, 2: n.tc} {
		near, far := c.near.Attrs(), c.far.Attrs()
		must(n.tb, n.maps.NextHops.Update(index, datapath.NextHopEntry{
			Ifindex: uint32(near.Index), MTU: 1500, Dmac: datapath.MAC(far.HardwareAddr), Smac: datapath.MAC(near.HardwareAddr),
			Saddr: [4]byte{192, 168, 10, 1}, Node: [4]byte{192, 168, 10, 2},
		}))
	}
	target := datapath.NewFrontendTarget(n.maps, hops{}, "this", slog.New(slog.DiscardHandler))
	pod := datapath.EndpointEntry{Ifindex: uint32(n.pod.near.Attrs().Index),
		PodMAC: datapath.MAC(n.pod.far.Attrs().HardwareAddr), HostMAC: datapath.MAC(n.pod.near.Attrs().HardwareAddr)}
	for _, w := range ways() {
		rows := w.frontends()
		must(n.tb, errors.Join(target.UpdateAll(context.Background(), rows)...))
		if !w.local {
			continue
		}
		for _, row := range rows {
			for _, b := range row.Backends {
				must(n.tb, n.maps.Endpoints.Update(b.Addr, pod))
			}
		}
	}
}

// target is where packets for a way are sent.
func (n *node) target(g *traffic, w way) target {
	c := n.xdp
	if w.tc {
		c = n.tc
	}
	return target{generator: g.objects.TrafficSend, device: c.far, to: c.near, vips: w.vips}
}

// connections counts the connections of a way that both sides have spoken in; nil:
// none are kept.
func (n *node) connections(w way) func() int {
	switch {
	case w.local:
		return func() (count int) {
			must(n.tb, n.maps.Flows.Each(func(k datapath.FlowKey, _ datapath.FlowEntry) bool {
				count += w.has(k.Pod)
				return true
			}))
			return count
		}
	case w.forwarding == state.ForwardSNAT:
		return func() (count int) {
			must(n.tb, n.maps.NATIn.Each(func(t datapath.Tuple, e datapath.NATEntry) bool {
				if e.Flags&datapath.NATReplied != 0 {
					count += w.has(t.Src.Addr())
				}
				return true
			}))
			return count
		}
	}
	return nil
}

// has is 1 for a pod of the way, and 0 for others.
func (w way) has(pod netip.Addr) int {
	if netip.PrefixFrom(w.pods, 16).Contains(pod) {
		return 1
	}
	return 0
}

// hops are the ways to pods of other nodes: by the device of how they are served.
type hops struct{}

func (hops) Index(addr netip.Addr, _ datapath.NodeAddrs, _ uint32) uint32 {
	for _, w := range ways() {
		if w.tc && w.has(addr) == 1 {
			return 2
		}
	}
	return 1
}

func (hops) Keep(map[netip.Addr]bool) {}

// mountNowhere mounts a filesystem of its own that has no place among the others,
// and goes with the process, and returns a path to it.
func mountNowhere(kind string) (string, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("open filesystem %s: %w", kind, err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return "", fmt.Errorf("create filesystem %s: %w", kind, err)
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("mount filesystem %s: %w", kind, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", root), nil
}
