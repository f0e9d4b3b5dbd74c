package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/seamark-lb/seamark/state"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Devices keeps the Devices table as the kernel has its links, addresses and
// default routes, and marks it synced after the first list.
type Devices struct {
	DB     *state.DB
	Writer *state.Writer
	Log    *slog.Logger
	// Resync is the time between lists when the kernel reports nothing; 30 s when 0.
	Resync time.Duration
}

// retryList is how soon a failed list is tried again.
const retryList = time.Second

// Run follows the kernel until ctx ends. It returns an error when it cannot
// subscribe to the kernel's notifications.
func (d *Devices) Run(ctx context.Context) error {
	// One socket for all. What a notification says means no more than "list
	// again", so one that is lost (ENOBUFS) or that comes out of order costs
	// nothing.
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("subscribe to links, addresses and routes: %w", err)
	}
	changed := make(chan struct{}, 1)
	failed := make(chan error, 1)
	ended := make(chan struct{})
	go func() { defer close(ended); failed <- notify(sock, changed) }()
	defer func() { sock.Close(); <-ended }()

	resync := d.Resync
	if resync == 0 {
		resync = 30 * time.Second
	}
	for {
		wait := resync
		if err := d.list(); err != nil {
			d.Log.Warn("list devices", "err", err, "retry", retryList)
			wait = retryList
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case err := <-failed:
			timer.Stop()
			return fmt.Errorf("receive links, addresses and routes: %w", err)
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// notify passes on that something came, until the socket is closed.
func notify(sock *nl.NetlinkSocket, changed chan<- struct{}) error {
	for {
		messages, _, err := sock.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err == nil && !slices.ContainsFunc(messages, matters) {
			continue
		}
		select {
		case changed <- struct{}{}:
		default: // a list is due already
		}
	}
}

// matters is false for routes other than default ones: there may be a million,
// and they change with every pod.
func matters(m syscall.NetlinkMessage) bool {
	if m.Header.Type != unix.RTM_NEWROUTE && m.Header.Type != unix.RTM_DELROUTE {
		return true
	}
	return len(m.Data) >= unix.SizeofRtMsg && nl.DeserializeRtMsg(m.Data).Dst_len == 0
}

func (d *Devices) list() error {
	devices, err := listDevices()
	if err != nil {
		return err
	}
	d.Writer.Update(func(tx *state.Tx) {
		d.DB.Devices.Replace(tx, devices, sameDevice)
		d.DB.Devices.MarkSynced(tx)
	})
	return nil
}

func sameDevice(a, b state.Device) bool {
	return a.Name == b.Name && a.Index == b.Index && a.MAC == b.MAC && a.Up == b.Up &&
		a.Type == b.Type && slices.Equal(a.Prefixes, b.Prefixes) && slices.Equal(a.Gateways, b.Gateways)
}

// loopback is the Type of lo, which the kernel does not give one.
const loopback = "loopback"

func listDevices() ([]state.Device, error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	devices := make([]state.Device, 0, len(links))
	at := make(map[int]int, len(links)) // of a link's index in devices
	for _, link := range links {
		attrs := link.Attrs()
		kind := link.Type()
		if attrs.Flags&net.FlagLoopback != 0 {
			kind = loopback
		}
		at[attrs.Index] = len(devices)
		devices = append(devices, state.Device{
			Name:  attrs.Name,
			Index: attrs.Index,
			MAC:   attrs.HardwareAddr.String(),
			Up:    attrs.RawFlags&unix.IFF_UP != 0 && attrs.RawFlags&unix.IFF_LOWER_UP != 0,
			Type:  kind,
		})
	}
	for _, addr := range addrs {
		i, ok := at[addr.LinkIndex]
		p, valid := prefixOf(addr.IPNet)
		if ok && valid { // a link that came between the two lists is in the next
			devices[i].Prefixes = append(devices[i].Prefixes, p)
		}
	}
	hops, err := defaultHops()
	if err != nil {
		return nil, err
	}
	for _, hop := range hops {
		gateway, valid := netip.AddrFromSlice(hop.Gw)
		if i, ok := at[hop.LinkIndex]; ok && valid {
			devices[i].Gateways = append(devices[i].Gateways, gateway.Unmap())
		}
	}
	for i := range devices {
		slices.SortFunc(devices[i].Gateways, netip.Addr.Compare)
		devices[i].Gateways = slices.Compact(devices[i].Gateways)
	}
	return devices, nil
}

// defaultHops are the next hops of the main table's default routes, of both families.
func defaultHops() ([]netlink.NexthopInfo, error) {
	var hops []netlink.NexthopInfo
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Table: unix.RT_TABLE_MAIN} // and Dst nil: the default routes
		routes, err := whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		})
		if err != nil {
			return nil, fmt.Errorf("list default routes: %w", err)
		}
		for _, route := range routes {
			hops = append(hops, netlink.NexthopInfo{LinkIndex: route.LinkIndex, Gw: gatewayOf(route.Gw, route.Via)})
			for _, hop := range route.MultiPath {
				hops = append(hops, netlink.NexthopInfo{LinkIndex: hop.LinkIndex, Gw: gatewayOf(hop.Gw, hop.Via)})
			}
		}
	}
	return hops, nil
}

// gatewayOf is the next hop's address, nil when the destination is on the link.
// That of an IPv4 route may be of IPv6 (RFC 5549).
func gatewayOf(gw net.IP, via netlink.Destination) net.IP {
	if v, ok := via.(*netlink.Via); ok && len(gw) == 0 {
		return v.Addr
	}
	return gw
}

// whole lists again when the kernel's tables changed under the dump.
func whole[T any](list func() ([]T, error)) ([]T, error) {
	const tries = 10
	for i := 1; ; i++ {
		rows, err := list()
		if i < tries && errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		return rows, err
	}
}
