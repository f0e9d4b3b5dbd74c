package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NetlinkResolver is the Resolver of a network namespace.
type NetlinkResolver struct {
	handle *netlink.Handle
	ns     netns.NsHandle
}

// OpenResolver opens the resolver of the namespace, which stays the caller's
// to close; netns.None() is that of the calling thread.
func OpenResolver(ns netns.NsHandle) (*NetlinkResolver, error) {
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &NetlinkResolver{handle, ns}, nil
}

// Close closes the resolver.
func (r *NetlinkResolver) Close() { r.handle.Close() }

// Route returns the way to addr.
func (r *NetlinkResolver) Route(addr netip.Addr) (Hop, error) {
	routes, err := r.handle.RouteGet(addr.AsSlice())
	for _, none := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EINVAL, unix.EACCES} {
		if errors.Is(err, none) {
			return Hop{}, nil // no route, unreachable, blackhole, prohibit
		}
	}
	if err != nil {
		return Hop{}, err
	}
	if len(routes) == 0 || routes[0].Type != unix.RTN_UNICAST {
		return Hop{}, nil
	}
	source, ok := netip.AddrFromSlice(routes[0].Src)
	if !ok {
		return Hop{}, nil
	}
	hop := Hop{Gateway: addr, Ifindex: routes[0].LinkIndex, Source: source.Unmap(), MTU: routes[0].MTU}
	if gw, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		hop.Gateway = gw.Unmap()
	}
	if via, ok := routes[0].Via.(*netlink.Via); ok { // IPv4 by a router's IPv6 address (RFC 5549)
		hop.Gateway, _ = netip.AddrFromSlice(via.Addr)
	}
	return hop, nil
}

// The states in which a neighbour's MAC is good, and those in which the
// kernel would not ask again by itself.
const (
	neighbourValid = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT | unix.NUD_NOARP
	neighbourFresh = unix.NUD_REACHABLE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT | unix.NUD_NOARP
)

// MACs returns the devices' and the neighbours' link-layer addresses.
func (r *NetlinkResolver) MACs() (MACs, error) {
	macs := MACs{Devices: map[int]Link{}, Neighbours: map[NeighbourKey]Neighbour{}}
	links, err := r.handle.LinkList()
	if err != nil {
		return macs, fmt.Errorf("list devices: %w", err)
	}
	devices := map[int]netlink.Link{}
	for _, link := range links {
		devices[link.Attrs().Index] = link
	}
	for index, link := range devices {
		if below, ok := wayOut(link, devices); ok {
			macs.Devices[index] = below
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		neighbours, err := r.handle.NeighList(0, family)
		if err != nil {
			return macs, fmt.Errorf("list neighbours: %w", err)
		}
		for _, n := range neighbours {
			addr, ok := netip.AddrFromSlice(n.IP)
			if !ok {
				continue
			}
			known := Neighbour{Fresh: n.State&neighbourFresh != 0}
			if mac, err := macFrom(n.HardwareAddr); err == nil && n.State&neighbourValid != 0 {
				known.MAC = mac
			}
			macs.Neighbours[NeighbourKey{addr.Unmap(), n.LinkIndex}] = known
		}
	}
	return macs, nil
}

// wayOut returns how frames leave by the device; false when it is down, has no
// MAC of its own, or is a VLAN on something that BPF cannot send tagged frames
// by: only what is below a physical device or a veth is certain to be the wire.
func wayOut(link netlink.Link, devices map[int]netlink.Link) (Link, bool) {
	attrs := link.Attrs()
	mac, err := macFrom(attrs.HardwareAddr)
	if err != nil || mac == (MAC{}) || attrs.RawFlags&unix.IFF_UP == 0 {
		return Link{}, false
	}
	out := Link{MAC: mac, MTU: attrs.MTU, Ifindex: attrs.Index}
	vlan, ok := link.(*netlink.Vlan)
	if !ok {
		return out, true
	}
	parent, ok := devices[attrs.ParentIndex]
	if !ok || vlan.VlanProtocol != netlink.VLAN_PROTOCOL_8021Q || attrs.NetNsID >= 0 ||
		parent.Attrs().RawFlags&unix.IFF_UP == 0 || parent.Type() != "device" && parent.Type() != "veth" {
		return Link{}, false
	}
	out.Ifindex, out.VLAN = attrs.ParentIndex, uint16(vlan.VlanId)
	return out, true
}

// Probe makes the kernel send ARP or ND as if it had a packet for the gateway.
func (r *NetlinkResolver) Probe(hop Hop) error {
	family := netlink.FAMILY_V4
	if hop.Gateway.Is6() {
		family = netlink.FAMILY_V6
	}
	return r.handle.NeighSet(&netlink.Neigh{LinkIndex: hop.Ifindex, Family: family,
		Flags: netlink.NTF_USE, IP: hop.Gateway.AsSlice()})
}

// Watch calls changed after every change of routes, addresses, devices and neighbours.
func (r *NetlinkResolver) Watch(ctx context.Context, changed func(routes bool)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := ctx.Done()
	failed := func(err error) { cancel(err) }
	routes := make(chan netlink.RouteUpdate)
	links := make(chan netlink.LinkUpdate)
	addrs := make(chan netlink.AddrUpdate)
	neighbours := make(chan netlink.NeighUpdate)
	ns := r.ns
	err := firstError(
		func() error {
			return netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{Namespace: &ns, ErrorCallback: failed})
		},
		func() error {
			return netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{Namespace: &ns, ErrorCallback: failed})
		},
		func() error {
			return netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{Namespace: &ns, ErrorCallback: failed})
		},
		func() error {
			return netlink.NeighSubscribeWithOptions(neighbours, done, netlink.NeighSubscribeOptions{Namespace: &ns, ErrorCallback: failed})
		},
	)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	// A channel that closes has lost its socket; the error callback has said why.
	for {
		ok := true
		select {
		case <-done:
			return context.Cause(ctx)
		case _, ok = <-routes:
			changed(true)
		case _, ok = <-links:
			changed(true)
		case _, ok = <-addrs:
			changed(true)
		case _, ok = <-neighbours:
			changed(false)
		}
		if !ok {
			cancel(errors.New("subscription closed"))
			return context.Cause(ctx)
		}
	}
}
