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

// NetlinkResolver is the Resolver of a network namespace. It sees IPv4 only.
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
	if len(routes) == 0 || routes[0].Type != unix.RTN_UNICAST || routes[0].Via != nil {
		return Hop{}, nil
	}
	source, ok := netip.AddrFromSlice(routes[0].Src)
	if !ok {
		return Hop{}, nil
	}
	hop := Hop{Gateway: addr, Ifindex: routes[0].LinkIndex, Source: source.Unmap()}
	if gw, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		hop.Gateway = gw.Unmap()
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
	macs := MACs{Devices: map[int]MAC{}, Neighbours: map[NeighbourKey]Neighbour{}}
	links, err := r.handle.LinkList()
	if err != nil {
		return macs, fmt.Errorf("list devices: %w", err)
	}
	for _, link := range links {
		attrs := link.Attrs()
		if mac, err := macFrom(attrs.HardwareAddr); err == nil && attrs.RawFlags&unix.IFF_UP != 0 {
			macs.Devices[attrs.Index] = mac
		}
	}
	neighbours, err := r.handle.NeighList(0, netlink.FAMILY_V4)
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
	return macs, nil
}

// Probe makes the kernel send ARP as if it had a packet for the gateway.
func (r *NetlinkResolver) Probe(hop Hop) error {
	return r.handle.NeighSet(&netlink.Neigh{LinkIndex: hop.Ifindex, Family: netlink.FAMILY_V4,
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
