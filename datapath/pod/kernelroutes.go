package pod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/state"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ProtocolBGP is the routing protocol number (rtnetlink) of what is in the kernel
// because of BGP: KernelRoutes and the rules for them. No one else's are touched.
const ProtocolBGP netlink.RouteProtocol = 0x55

// Metrics of KernelRoutes in the main table. Whatever else has a route to the same
// prefix goes before: direct routes to nodes (IPv6's have 1024), and a person's.
const (
	metricLearned     = 2000
	metricUnreachable = 1 << 20
)

// KernelRouteTable is the kernel as a target of KernelRoutes. Learned and
// unreachable ones are in the main table, blackholes in tables of their own
// (blackholes.go). A route of someone else's with the same metric is left alone:
// the row fails for as long as it is there.
type KernelRouteTable struct{}

var (
	_ state.Target[state.KernelRoute]  = KernelRouteTable{}
	_ state.Batcher[state.KernelRoute] = KernelRouteTable{}
)

// Update installs the route.
func (t KernelRouteTable) Update(ctx context.Context, row state.KernelRoute) error {
	return t.UpdateAll(ctx, []state.KernelRoute{row})[0]
}

// UpdateAll installs the routes, reading the tables once for all of them.
func (KernelRouteTable) UpdateAll(_ context.Context, rows []state.KernelRoute) []error {
	errs := make([]error, len(rows))
	held, err := bgpHeld()
	for i, row := range rows {
		want, wrong := kernelRouteOf(row)
		switch {
		case err != nil:
			errs[i] = err
		case wrong != nil:
			errs[i] = fmt.Errorf("add route %s: %w", row.Dst, wrong)
		default:
			errs[i] = held.install(row.Dst, want)
		}
	}
	return errs
}

// Delete removes the route.
func (t KernelRouteTable) Delete(ctx context.Context, row state.KernelRoute) error {
	return t.DeleteAll(ctx, []state.KernelRoute{row})[0]
}

// DeleteAll removes the routes.
func (KernelRouteTable) DeleteAll(_ context.Context, rows []state.KernelRoute) []error {
	errs := make([]error, len(rows))
	for i, row := range rows {
		errs[i] = remove(placeOf(row)) // by whatever way it goes now
	}
	return errs
}

// Prune removes what of ours the kernel holds beyond the wanted.
func (KernelRouteTable) Prune(_ context.Context, wanted []state.KernelRoute) error {
	keep := map[place]bool{}
	lengths := map[rulesFor]bool{}
	for _, row := range wanted {
		at := placeIn(row.Dst, placeOf(row))
		keep[at] = true
		if row.Kind == state.RouteBlackhole {
			lengths[rulesFor{row.Dst.Addr().Is6(), row.Dst.Bits()}] = true
		}
	}
	held, err := bgpHeld()
	if err != nil {
		return err
	}
	var errs []error
	for at, routes := range held.routes {
		for _, route := range routes {
			if route.Protocol == ProtocolBGP && !keep[at] {
				errs = append(errs, remove(&route))
			}
		}
	}
	return errors.Join(append(errs, held.pruneRules(lengths))...)
}

// place is where in the kernel a route is: nobody else can have the same.
type place struct {
	dst    netip.Prefix
	table  int
	metric int
}

func placeIn(dst netip.Prefix, route *netlink.Route) place {
	return place{dst, route.Table, route.Priority}
}

// placeOf is the row's route without a way.
func placeOf(row state.KernelRoute) *netlink.Route {
	route := &netlink.Route{Dst: ipNet(row.Dst), Protocol: ProtocolBGP, Table: unix.RT_TABLE_MAIN}
	switch row.Kind {
	case state.RouteUnreachable:
		route.Type, route.Priority = unix.RTN_UNREACHABLE, metricUnreachable
	case state.RouteBlackhole:
		route.Type, route.Priority, route.Table = unix.RTN_BLACKHOLE, metricUnreachable, blackholeTable(row.Dst.Bits())
	default:
		route.Type, route.Priority = unix.RTN_UNICAST, metricLearned
	}
	return route
}

// kernelRouteOf is the row as the kernel has it.
func kernelRouteOf(row state.KernelRoute) (*netlink.Route, error) {
	route := placeOf(row)
	if row.Kind != state.RouteLearned {
		return route, nil
	}
	for _, h := range row.NextHops {
		device, err := net.InterfaceByName(h.Device)
		if err != nil {
			return nil, fmt.Errorf("find device %s: %w", h.Device, err)
		}
		hop := &netlink.NexthopInfo{LinkIndex: device.Index}
		if h.Via.Is6() && row.Dst.Addr().Is4() { // RFC 5549
			hop.Via = &netlink.Via{AddrFamily: unix.AF_INET6, Addr: h.Via.AsSlice()}
		} else {
			hop.Gw = h.Via.AsSlice()
		}
		route.MultiPath = append(route.MultiPath, hop)
	}
	if len(route.MultiPath) == 1 {
		hop := route.MultiPath[0]
		route.LinkIndex, route.Gw, route.Via, route.MultiPath = hop.LinkIndex, hop.Gw, hop.Via, nil
	}
	return route, nil
}

// kernelHeld is what the kernel's tables of KernelRoutes hold.
type kernelHeld struct {
	routes map[place][]netlink.Route
	rules  []netlink.Rule
}

func bgpHeld() (*kernelHeld, error) {
	held := &kernelHeld{routes: map[place][]netlink.Route{}}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC} // of every table
		routes, err := whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, all, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, route := range routes {
			if dst, ok := prefixOf(route.Dst); ok {
				at := placeIn(dst, &route)
				held.routes[at] = append(held.routes[at], route)
			}
		}
		rules, err := whole(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, rule := range rules {
			if rule.Protocol == uint8(ProtocolBGP) {
				rule.Family = family
				held.rules = append(held.rules, rule)
			}
		}
	}
	return held, nil
}

func (k *kernelHeld) install(dst netip.Prefix, want *netlink.Route) error {
	if want.Type == unix.RTN_BLACKHOLE {
		if err := k.haveRules(rulesFor{dst.Addr().Is6(), dst.Bits()}); err != nil {
			return err
		}
	}
	ours := false
	for _, route := range k.routes[placeIn(dst, want)] {
		if route.Protocol != ProtocolBGP {
			return fmt.Errorf("add route %s: one of protocol %s with metric %d is there, which is not Seamark's: remove it with 'ip route del %s proto %d'",
				dst, route.Protocol, route.Priority, dst, int(route.Protocol))
		}
		if route.Type == want.Type && slices.Equal(hopsOf(&route), hopsOf(want)) {
			return nil
		}
		ours = true
	}
	if ours { // by another way: replaced in one step, so that no packet finds none
		if err := netlink.RouteReplace(want); err != nil {
			return fmt.Errorf("replace route %s: %w", dst, err)
		}
		return nil
	}
	if err := netlink.RouteAdd(want); err != nil {
		return fmt.Errorf("add route %s: %w", dst, err)
	}
	return nil
}

// kernelHop is a next hop as it is compared.
type kernelHop struct {
	via    string
	device int
}

// hopsOf are the next hops of a route, in order.
func hopsOf(route *netlink.Route) []kernelHop {
	var hops []kernelHop
	add := func(device int, gw net.IP, via netlink.Destination) {
		if addr := gatewayOf(gw, via); addr != nil {
			hops = append(hops, kernelHop{addr.String(), device})
		}
	}
	add(route.LinkIndex, route.Gw, route.Via)
	for _, hop := range route.MultiPath {
		add(hop.LinkIndex, hop.Gw, hop.Via)
	}
	slices.SortFunc(hops, func(a, b kernelHop) int {
		return slices.Compare([]string{a.via, fmt.Sprint(a.device)}, []string{b.via, fmt.Sprint(b.device)})
	})
	return hops
}
