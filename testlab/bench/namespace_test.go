package bench

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace without a name: it goes with the process.
type namespace struct {
	tb     testing.TB
	handle netns.NsHandle
}

func newNamespace(tb testing.TB) namespace {
	tb.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := netns.Get()
	must(tb, err)
	defer before.Close()
	made, err := netns.New() // and enters it
	must(tb, err)
	tb.Cleanup(func() { made.Close() })
	must(tb, netns.Set(before))
	n := namespace{tb, made}
	n.do(func() {
		// Nothing but the benchmark's own packets, and those by any way.
		for path, value := range map[string]string{
			"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1",
			"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0", "ipv4/ip_forward": "1",
		} {
			must(tb, os.WriteFile(filepath.Join("/proc/sys/net", path), []byte(value), 0))
		}
		must(tb, netlink.LinkSetUp(n.dev("lo")))
	})
	return n
}

// enter moves the thread into the namespace.
func (n namespace) enter() {
	n.tb.Helper()
	must(n.tb, netns.Set(n.handle))
}

// do runs f in the namespace.
func (n namespace) do(f func()) {
	n.tb.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := netns.Get()
	must(n.tb, err)
	defer before.Close()
	defer netns.Set(before)
	n.enter()
	f()
}

// dev is a device of the namespace that the thread is in.
func (n namespace) dev(name string) netlink.Link {
	n.tb.Helper()
	dev, err := netlink.LinkByName(name)
	must(n.tb, err)
	return dev
}

// attachXDP puts a program into the driver of a device.
func (n namespace) attachXDP(device string, program *ebpf.Program) {
	n.tb.Helper()
	l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: n.dev(device).Attrs().Index, Flags: link.XDPDriverMode})
	must(n.tb, err)
	n.tb.Cleanup(func() { l.Close() })
}

// cable is the two ends of a veth, with an address each, that know each other's MAC.
type cable struct{ near, far netlink.Link }

// connect lays a cable. The network is near's; far has its second address.
func connect(near, far namespace, name string, network netip.Prefix) cable {
	near.tb.Helper()
	var c cable
	near.do(func() {
		must(near.tb, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name, PeerNamespace: netlink.NsFd(far.handle)}))
		c.near = near.dev(name)
	})
	far.do(func() { c.far = far.dev(name) })
	addr := network.Addr().Next()
	near.settle(c.near, netip.PrefixFrom(addr, network.Bits()), addr.Next(), c.far.Attrs().HardwareAddr)
	far.settle(c.far, netip.PrefixFrom(addr.Next(), network.Bits()), addr, c.near.Attrs().HardwareAddr)
	return c
}

// settle gives a device its address, and its neighbour's MAC.
func (n namespace) settle(dev netlink.Link, own netip.Prefix, other netip.Addr, mac net.HardwareAddr) {
	n.tb.Helper()
	n.do(func() {
		must(n.tb, netlink.AddrAdd(dev, &netlink.Addr{IPNet: ipNet(own)}))
		must(n.tb, netlink.LinkSetUp(dev))
		must(n.tb, netlink.NeighSet(&netlink.Neigh{LinkIndex: dev.Attrs().Index, State: unix.NUD_PERMANENT, IP: other.AsSlice(), HardwareAddr: mac}))
	})
}

// route makes the namespace reach a network by a neighbour.
func (n namespace) route(to netip.Prefix, via netip.Addr) {
	n.tb.Helper()
	n.do(func() { must(n.tb, netlink.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()})) })
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
