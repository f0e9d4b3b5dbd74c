package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// wire is two network namespaces without names, gone with their last user,
// and a veth between them: w1 has eth1, the router has eth1 too.
type wire struct {
	w1, router netns.NsHandle
	onW1       *netlink.Handle
	onRouter   *netlink.Handle
}

func newWire(t *testing.T) *wire {
	t.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root and no -short: makes network namespaces")
	}
	w := &wire{w1: newNamespace(t), router: newNamespace(t)}
	for ns, handle := range map[netns.NsHandle]**netlink.Handle{w.w1: &w.onW1, w.router: &w.onRouter} {
		h, err := netlink.NewHandleAt(ns)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.Close)
		*handle = h
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}, PeerName: "eth1", PeerNamespace: netlink.NsFd(w.router)}
	if err := w.onW1.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for handle, addr := range map[*netlink.Handle]string{w.onW1: "192.168.10.101/24", w.onRouter: "192.168.10.200/24"} {
		w.change(t, handle, func(eth1 netlink.Link) error {
			ip, err := netlink.ParseAddr(addr)
			return errors.Join(err, handle.AddrAdd(eth1, ip), handle.LinkSetUp(eth1))
		})
	}
	return w
}

func (w *wire) change(t *testing.T, handle *netlink.Handle, do func(eth1 netlink.Link) error) {
	t.Helper()
	eth1, err := handle.LinkByName("eth1")
	if err == nil {
		err = do(eth1)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newNamespace makes a namespace and leaves the thread where it was.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	ns, err := netns.New()
	if err := errors.Join(err, netns.Set(home)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// The real resolver follows routes, neighbours and devices of a real kernel.
func TestNextHopsFollowTheKernel(t *testing.T) {
	w := newWire(t)
	resolver, err := OpenResolver(w.w1)
	if err != nil {
		t.Fatal(err)
	}
	defer resolver.Close()
	fake := NewFakeMaps()
	n := NewNextHops(fake.Maps, resolver, discard)
	n.Every = 500 * time.Millisecond
	target := NewFrontendTarget(fake.Maps, n, "w1", discard)
	row := frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.2:80@w0")
	if err := target.Update(context.Background(), row); err != nil {
		t.Fatal(err)
	}
	id := backendID(t, fake.Maps, "172.20.0.2:80")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx, target.RewriteNextHops) }()

	present := func() (uint32, NextHopEntry) {
		b, _, _ := fake.Backends.Lookup(id)
		return b.NextHop, hopEntry(t, fake.Maps, b.NextHop)
	}
	wait := func(what string, is func(index uint32, h NextHopEntry) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !is(present()); {
			if time.Now().After(deadline) {
				index, h := present()
				t.Fatalf("%s: next hop %d %+v", what, index, h)
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	mac := func(h *netlink.Handle) MAC {
		link, err := h.LinkByName("eth1")
		if err != nil {
			t.Fatal(err)
		}
		return MAC(link.Attrs().HardwareAddr)
	}
	if index, _ := present(); index != 0 {
		t.Errorf("next hop %d without a route", index)
	}
	pods := &net.IPNet{IP: net.IPv4(172, 20, 0, 0).To4(), Mask: net.CIDRMask(24, 32)}
	w.change(t, w.onW1, func(eth1 netlink.Link) error {
		return w.onW1.RouteAdd(&netlink.Route{LinkIndex: eth1.Attrs().Index, Dst: pods, Gw: net.IPv4(192, 168, 10, 200)})
	})
	wait("route and ARP", func(index uint32, h NextHopEntry) bool {
		return index != 0 && h.Dmac == mac(w.onRouter) && h.Smac == mac(w.onW1) && h.Saddr.Addr() == netip.MustParseAddr("192.168.10.101")
	})
	// The router gets another MAC and says so.
	w.change(t, w.onRouter, func(eth1 netlink.Link) error {
		return w.onRouter.LinkSetHardwareAddr(eth1, net.HardwareAddr{2, 0, 0, 0, 0, 0x77})
	})
	w.change(t, w.onW1, func(eth1 netlink.Link) error {
		return w.onW1.NeighSet(&netlink.Neigh{LinkIndex: eth1.Attrs().Index, IP: net.IPv4(192, 168, 10, 200),
			State: netlink.NUD_STALE, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 0x77}})
	})
	wait("new MAC", func(_ uint32, h NextHopEntry) bool { return h.Dmac == MAC{2, 0, 0, 0, 0, 0x77} })
	// What is stale is probed, so that it is confirmed.
	wait("confirmed", func(uint32, NextHopEntry) bool {
		macs, err := resolver.MACs()
		if err != nil {
			t.Fatal(err)
		}
		for key, n := range macs.Neighbours {
			if key.Addr.String() == "192.168.10.200" && n.Fresh {
				return true
			}
		}
		return false
	})
	// The device goes down: the FIB is asked again.
	w.change(t, w.onW1, w.onW1.LinkSetDown)
	wait("link down", func(_ uint32, h NextHopEntry) bool { return h == NextHopEntry{} })

	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestResolverKnowsNoWay(t *testing.T) {
	w := newWire(t)
	resolver, err := OpenResolver(w.w1)
	if err != nil {
		t.Fatal(err)
	}
	defer resolver.Close()
	w.change(t, w.onW1, func(netlink.Link) error {
		_, dst, err := net.ParseCIDR("10.9.0.0/16")
		return errors.Join(err, w.onW1.RouteAdd(&netlink.Route{Dst: dst, Type: 6 /* RTN_BLACKHOLE */}))
	})
	for addr, want := range map[string]string{
		"192.168.10.200": "192.168.10.200 192.168.10.101", // on link
		"192.168.10.101": "invalid IP invalid IP",         // itself
		"10.9.0.1":       "invalid IP invalid IP",         // blackhole
		"10.8.0.1":       "invalid IP invalid IP",         // no route
	} {
		hop, err := resolver.Route(netip.MustParseAddr(addr))
		if got := fmt.Sprint(hop.Gateway, " ", hop.Source); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", addr, got, err, want)
		}
	}
}

// What leaves by a VLAN leaves by the device below it, if that is the wire.
func TestWayOut(t *testing.T) {
	hw := func(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }
	attrs := func(index, parent int, mac net.HardwareAddr, up bool) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Index, a.ParentIndex, a.HardwareAddr, a.MTU = index, parent, mac, 1500
		if up {
			a.RawFlags = unix.IFF_UP
		}
		return a
	}
	vlan := func(parent int, protocol netlink.VlanProtocol) netlink.Link {
		return &netlink.Vlan{LinkAttrs: attrs(9, parent, hw(9), true), VlanId: 30, VlanProtocol: protocol}
	}
	devices := map[int]netlink.Link{}
	for _, link := range []netlink.Link{
		&netlink.Device{LinkAttrs: attrs(2, 0, hw(2), true)},
		&netlink.Veth{LinkAttrs: attrs(3, 7, hw(3), true)},
		&netlink.Bridge{LinkAttrs: attrs(4, 0, hw(4), true)},
		netlink.NewLinkBond(attrs(5, 0, hw(5), true)),
		&netlink.Device{LinkAttrs: attrs(6, 0, hw(6), false)},
	} {
		devices[link.Attrs().Index] = link
	}
	elsewhere := vlan(2, netlink.VLAN_PROTOCOL_8021Q)
	elsewhere.Attrs().NetNsID = 0 // its parent is in another namespace
	for _, c := range []struct {
		what string
		link netlink.Link
		want Link
	}{
		{"a device", devices[2], Link{MAC: MAC(hw(2)), MTU: 1500, Ifindex: 2}},
		{"a veth", devices[3], Link{MAC: MAC(hw(3)), MTU: 1500, Ifindex: 3}},
		{"a bridge", devices[4], Link{MAC: MAC(hw(4)), MTU: 1500, Ifindex: 4}},
		{"one that is down", devices[6], Link{}},
		{"one without a MAC", &netlink.Iptun{LinkAttrs: attrs(8, 0, net.HardwareAddr{10, 0, 0, 1}, true)}, Link{}},
		{"loopback", &netlink.Device{LinkAttrs: attrs(1, 0, make(net.HardwareAddr, 6), true)}, Link{}},
		{"a VLAN on a device", vlan(2, netlink.VLAN_PROTOCOL_8021Q), Link{MAC: MAC(hw(9)), MTU: 1500, Ifindex: 2, VLAN: 30}},
		{"a VLAN on a veth", vlan(3, netlink.VLAN_PROTOCOL_8021Q), Link{MAC: MAC(hw(9)), MTU: 1500, Ifindex: 3, VLAN: 30}},
		{"a VLAN on a bridge", vlan(4, netlink.VLAN_PROTOCOL_8021Q), Link{}},
		{"a VLAN on a bond", vlan(5, netlink.VLAN_PROTOCOL_8021Q), Link{}},
		{"a VLAN on one that is down", vlan(6, netlink.VLAN_PROTOCOL_8021Q), Link{}},
		{"a VLAN on nothing", vlan(77, netlink.VLAN_PROTOCOL_8021Q), Link{}},
		{"a service VLAN (802.1ad)", vlan(2, netlink.VLAN_PROTOCOL_8021AD), Link{}},
		{"a VLAN from another namespace", elsewhere, Link{}},
	} {
		if got, ok := wayOut(c.link, devices); got != c.want || ok != (c.want != Link{}) {
			t.Errorf("%s: %+v, %t; want %+v", c.what, got, ok, c.want)
		}
	}
}

// IPv6 as the kernel has it: a router's link-local address, ND, the route's MTU.
func TestResolverSeesIPv6(t *testing.T) {
	w := newWire(t)
	resolver, err := OpenResolver(w.w1)
	if err != nil {
		t.Fatal(err)
	}
	defer resolver.Close()
	router := netip.MustParseAddr("fe80::200")
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 0x77}
	w.change(t, w.onW1, func(eth1 netlink.Link) error {
		ip, err := netlink.ParseAddr("fd00:10::101/64")
		if err != nil {
			return err
		}
		ip.Flags = unix.IFA_F_NODAD
		_, pods, err := net.ParseCIDR("fd00:20::/64")
		index := eth1.Attrs().Index
		return errors.Join(err, w.onW1.AddrAdd(eth1, ip),
			w.onW1.RouteAdd(&netlink.Route{LinkIndex: index, Dst: pods, Gw: router.AsSlice(), MTU: 1400}),
			w.onW1.NeighSet(&netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V6, IP: router.AsSlice(), State: netlink.NUD_REACHABLE, HardwareAddr: mac}))
	})
	hop, err := resolver.Route(netip.MustParseAddr("fd00:20::7"))
	if err != nil || hop.Gateway != router || hop.Source != netip.MustParseAddr("fd00:10::101") || hop.MTU != 1400 {
		t.Errorf("route: %+v, %v", hop, err)
	}
	macs, err := resolver.MACs()
	if err != nil {
		t.Fatal(err)
	}
	if got := macs.entry(hop); got.Dmac != MAC(mac) || got.Saddr6.Addr() != hop.Source || got.MTU != 1400 || got.Ifindex != uint32(hop.Ifindex) {
		t.Errorf("next hop: %+v", got)
	}
	// IPv4 by the router's IPv6 address (RFC 5549).
	w.change(t, w.onW1, func(eth1 netlink.Link) error {
		_, pods, err := net.ParseCIDR("172.20.0.0/16")
		return errors.Join(err, w.onW1.RouteAdd(&netlink.Route{LinkIndex: eth1.Attrs().Index, Dst: pods,
			Via: &netlink.Via{AddrFamily: unix.AF_INET6, Addr: router.AsSlice()}}))
	})
	over6, err := resolver.Route(netip.MustParseAddr("172.20.0.7"))
	if err != nil || over6.Gateway != router || over6.Source != netip.MustParseAddr("192.168.10.101") {
		t.Errorf("IPv4 by IPv6: %+v, %v", over6, err)
	}
	if got := macs.entry(over6); got.Dmac != MAC(mac) || got.Saddr.Addr() != over6.Source {
		t.Errorf("next hop of IPv4 by IPv6: %+v", got)
	}
	if hop, err := resolver.Route(netip.MustParseAddr("fd00:99::1")); err != nil || hop.leads() {
		t.Errorf("no route: %+v, %v", hop, err)
	}
	if err := resolver.Probe(hop); err != nil {
		t.Errorf("probe: %v", err)
	}
}
