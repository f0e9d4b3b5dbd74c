package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/state"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ProtocolNode is the routing protocol number (rtnetlink) of the routes to
// other nodes' pods. No one else's are touched.
const ProtocolNode netlink.RouteProtocol = 0x53

// Routes decides which routes this node needs to the pods of others: for each
// node on the same L2, which is one whose InternalIP lies in a connected
// prefix of a device that is up, its pod CIDRs via that InternalIP. To nodes
// elsewhere there is none from here. A CIDR that two nodes claim goes to the
// first by name; one that overlaps this node's own goes nowhere.
func Routes(db *state.DB, snap state.Snapshot, node string) []state.Route {
	own, _ := db.Nodes.Get(snap, node)
	var connected []netip.Prefix
	for d := range db.Devices.All(snap) {
		if !d.Up || d.Type == loopback || IsPodDevice(d.Name) {
			continue
		}
		for _, p := range d.Prefixes {
			if !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() {
				connected = append(connected, p)
			}
		}
	}
	neighbour := func(a netip.Addr) bool {
		on := false
		for _, p := range connected {
			if p.Addr() == a {
				return false // it is this node's
			}
			on = on || p.Contains(a)
		}
		return on
	}

	routes := map[netip.Prefix]state.Route{}
	for other := range db.Nodes.All(snap) {
		if other.Name == node {
			continue
		}
		for _, cidr := range other.PodCIDRs {
			cidr = cidr.Masked()
			i := slices.IndexFunc(other.Addrs, func(a netip.Addr) bool { return a.Is4() == cidr.Addr().Is4() && neighbour(a) })
			if i < 0 || slices.ContainsFunc(own.PodCIDRs, cidr.Overlaps) {
				continue
			}
			if _, taken := routes[cidr]; !taken {
				routes[cidr] = state.Route{Dst: cidr, Via: other.Addrs[i], Node: other.Name}
			}
		}
	}
	return slices.SortedFunc(maps.Values(routes), func(a, b state.Route) int { return a.Dst.Compare(b.Dst) })
}

// RouteTable is the kernel's main routing table as a target of Routes rows.
// A route of someone else's to the same destination is left alone: the row
// fails for as long as it is there.
type RouteTable struct{}

var (
	_ state.Target[state.Route]  = RouteTable{}
	_ state.Batcher[state.Route] = RouteTable{}
)

// Update installs the route.
func (t RouteTable) Update(ctx context.Context, row state.Route) error {
	return t.UpdateAll(ctx, []state.Route{row})[0]
}

// UpdateAll installs the routes, reading the table once for all of them.
func (RouteTable) UpdateAll(_ context.Context, rows []state.Route) []error {
	errs := make([]error, len(rows))
	held, err := mainTable()
	for i, row := range rows {
		if err != nil {
			errs[i] = err
			continue
		}
		errs[i] = install(row, held[row.Dst])
	}
	return errs
}

func install(row state.Route, held []netlink.Route) error {
	want := kernelRoute(row)
	ours := false
	for _, route := range held {
		if route.Protocol == ProtocolBGP {
			continue // beside it, with a metric that puts it behind
		}
		if route.Protocol != ProtocolNode {
			return foreign(row, route)
		}
		if route.Gw.Equal(want.Gw) {
			return nil
		}
		ours = true
	}
	if ours { // by another way: replaced in one step, so that no packet finds none
		if err := netlink.RouteReplace(want); err != nil {
			return fmt.Errorf("replace route %s via %s: %w", row.Dst, row.Via, err)
		}
		return nil
	}
	if err := netlink.RouteAdd(want); err != nil {
		return fmt.Errorf("add route %s via %s: %w", row.Dst, row.Via, err)
	}
	return nil
}

func foreign(row state.Route, route netlink.Route) error {
	by := "directly"
	if route.Gw != nil {
		by = "via " + route.Gw.String()
	}
	return fmt.Errorf("add route %s via %s: one %s of protocol %s is there, which is not Seamark's: leave node %s's pods to it, or remove it with 'ip route del %s proto %d'",
		row.Dst, row.Via, by, route.Protocol, row.Node, row.Dst, int(route.Protocol))
}

// Delete removes the route.
func (RouteTable) Delete(_ context.Context, row state.Route) error {
	want := kernelRoute(row)
	want.Gw = nil // by whatever way it goes now
	return remove(want)
}

// DeleteAll removes the routes.
func (t RouteTable) DeleteAll(ctx context.Context, rows []state.Route) []error {
	errs := make([]error, len(rows))
	for i, row := range rows {
		errs[i] = t.Delete(ctx, row)
	}
	return errs
}

// Prune removes the routes of ours that the kernel holds beyond the wanted.
func (RouteTable) Prune(_ context.Context, wanted []state.Route) error {
	keep := make(map[netip.Prefix]bool, len(wanted))
	for _, row := range wanted {
		keep[row.Dst] = true
	}
	held, err := mainTable()
	if err != nil {
		return err
	}
	var errs []error
	for dst, routes := range held {
		for _, route := range routes {
			if route.Protocol == ProtocolNode && !keep[dst] {
				errs = append(errs, remove(&route))
			}
		}
	}
	return errors.Join(errs...)
}

func kernelRoute(row state.Route) *netlink.Route {
	return &netlink.Route{Dst: ipNet(row.Dst), Gw: row.Via.AsSlice(), Protocol: ProtocolNode, Table: unix.RT_TABLE_MAIN}
}

func remove(route *netlink.Route) error {
	if err := netlink.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route %s: %w", route.Dst, err)
	}
	return nil
}

// mainTable is the kernel's main routing table by destination, both families.
func mainTable() (map[netip.Prefix][]netlink.Route, error) {
	routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	table := make(map[netip.Prefix][]netlink.Route, len(routes))
	for _, route := range routes {
		if dst, ok := prefixOf(route.Dst); ok {
			table[dst] = append(table[dst], route)
		}
	}
	return table, nil
}
