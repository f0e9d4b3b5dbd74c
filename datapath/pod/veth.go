package pod

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strings"

	"github.com/seamark-lb/seamark/state"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// gateway is what every pod has its default route through. No host has the
// address: a permanent neighbour entry in the pod says that it is the veth's
// host end.
var gateway = netip.AddrFrom4([4]byte{169, 254, 1, 1})

// ProtocolPod is the routing protocol number (rtnetlink) of the /32 routes to
// this node's pods.
const ProtocolPod netlink.RouteProtocol = 0x54

// aliasPrefix begins the ifalias of every veth made here; the network's name
// and containerID/interface follow.
const aliasPrefix = "seamark-cni "

var podDeviceName = regexp.MustCompile(`^sm[0-9a-f]{12}$`)

// IsPodDevice says whether a host device of that name is the host end of a
// pod's veth made by seamark-cni.
func IsPodDevice(name string) bool { return podDeviceName.MatchString(name) }

// identity is what follows from an attachment's key alone: the same attachment
// has the same device name and MACs whenever it is wired. The MACs are set
// when the veth is made, so that no udev policy changes them afterwards.
func identity(containerID, ifname string) (hostDevice, podMAC, hostMAC string) {
	sum := sha256.Sum256([]byte(containerID + "/" + ifname))
	mac := func(b []byte) string {
		m := net.HardwareAddr(append([]byte(nil), b...))
		m[0] = m[0]&^1 | 2 // unicast, locally administered
		return m.String()
	}
	return fmt.Sprintf("sm%x", sum[:6]), mac(sum[6:12]), mac(sum[12:18])
}

// veth is a pod's attachment, for the kernel.
type veth struct {
	state.Endpoint
	Network string // name of the CNI network
	MTU     int    // bytes
}

func (v veth) alias() string {
	return aliasPrefix + v.Network + " " + v.RowKey()
}

// networkOf reads a link's alias back; false when the link is none of ours.
func networkOf(link netlink.Link) (network string, ok bool) {
	rest, ok := strings.CutPrefix(link.Attrs().Alias, aliasPrefix)
	if !ok || link.Type() != "veth" || !IsPodDevice(link.Attrs().Name) {
		return "", false
	}
	network, _, ok = strings.Cut(rest, " ")
	return network, ok
}

// openNetns opens the network namespace at path, and refuses the node's own.
func openNetns(path string) (netns.NsHandle, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return 0, fmt.Errorf("open network namespace: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(ns), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		ns.Close()
		return 0, fmt.Errorf("open network namespace: %s is a file of another kind", path)
	}
	// Not /proc/self: the main thread may be in another one for a moment,
	// on behalf of netlink.NewHandleAt.
	runtime.LockOSThread()
	own, err := netns.Get()
	runtime.UnlockOSThread()
	if err != nil {
		ns.Close()
		return 0, fmt.Errorf("open the node's network namespace: %w", err)
	}
	defer own.Close()
	if own.Equal(ns) {
		ns.Close()
		return 0, fmt.Errorf("open network namespace: %s is the node's own", path)
	}
	return ns, nil
}

// connect makes the veth, with its pod end in ns, and everything that goes
// with it on both sides. When it fails it leaves nothing behind.
func (v veth) connect(ns netns.NsHandle) (err error) {
	podMAC, err := net.ParseMAC(v.PodMAC)
	if err != nil {
		return fmt.Errorf("parse pod MAC: %w", err)
	}
	hostMAC, err := net.ParseMAC(v.HostMAC)
	if err != nil {
		return fmt.Errorf("parse host MAC: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = v.HostDevice, v.MTU, hostMAC
	link := netlink.NewVeth(attrs)
	link.PeerName, link.PeerHardwareAddr, link.PeerNamespace = v.Interface, podMAC, netlink.NsFd(ns)
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("create veth %s with %s in the pod: %w", v.HostDevice, v.Interface, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, disconnect(v.HostDevice))
		}
	}()
	if err := netlink.LinkSetAlias(link, v.alias()); err != nil {
		return fmt.Errorf("set alias of %s: %w", v.HostDevice, err)
	}
	if err := v.connectPod(ns, hostMAC); err != nil {
		return err
	}
	return v.connectHost()
}

// connectPod configures the pod's end.
func (v veth) connectPod(ns netns.NsHandle, hostMAC net.HardwareAddr) error {
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer pod.Close()
	if lo, err := pod.LinkByName("lo"); err != nil {
		return fmt.Errorf("find lo in the pod: %w", err)
	} else if err := pod.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up in the pod: %w", err)
	}
	link, err := pod.LinkByName(v.Interface)
	if err != nil {
		return fmt.Errorf("find %s in the pod: %w", v.Interface, err)
	}
	index := link.Attrs().Index
	if err := pod.AddrAdd(link, &netlink.Addr{IPNet: ipNet(host(v.Addr))}); err != nil {
		return fmt.Errorf("add %s to %s in the pod: %w", v.Addr, v.Interface, err)
	}
	if err := pod.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up in the pod: %w", v.Interface, err)
	}
	if err := pod.NeighSet(permanent(index, gateway, hostMAC)); err != nil {
		return fmt.Errorf("add neighbour %s in the pod: %w", gateway, err)
	}
	for _, route := range v.podRoutes(index) {
		if err := pod.RouteAdd(&route); err != nil {
			return fmt.Errorf("add route %s in the pod: %w", route.Dst, err)
		}
	}
	return nil
}

// podRoutes are the pod's: the gateway on the link, everything else through it.
func (v veth) podRoutes(index int) []netlink.Route {
	return []netlink.Route{
		{LinkIndex: index, Dst: ipNet(host(gateway)), Scope: netlink.SCOPE_LINK},
		{LinkIndex: index, Dst: ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0)), Gw: gateway.AsSlice()},
	}
}

// connectHost configures the host's end. It may be called again at any time.
func (v veth) connectHost() error {
	link, err := netlink.LinkByName(v.HostDevice)
	if err != nil {
		return fmt.Errorf("find %s: %w", v.HostDevice, err)
	}
	podMAC, err := net.ParseMAC(v.PodMAC)
	if err != nil {
		return fmt.Errorf("parse pod MAC: %w", err)
	}
	// A pod answers a VIP's client from the VIP: no reverse-path filter on its
	// veth may look for a way back to that.
	if err := setSysctl("net/ipv4/conf/"+v.HostDevice+"/rp_filter", "0"); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", v.HostDevice, err)
	}
	index := link.Attrs().Index
	if err := netlink.NeighSet(permanent(index, v.Addr, podMAC)); err != nil {
		return fmt.Errorf("add neighbour %s on %s: %w", v.Addr, v.HostDevice, err)
	}
	route := v.hostRoute(index)
	if held, err := v.heldRoute(); err != nil {
		return err
	} else if held != nil && held.LinkIndex != index {
		return fmt.Errorf("add route %s dev %s: a route to it by another device is there: remove it with 'ip route del %s'",
			v.Addr, v.HostDevice, route.Dst)
	}
	if err := netlink.RouteReplace(&route); err != nil {
		return fmt.Errorf("add route %s dev %s: %w", v.Addr, v.HostDevice, err)
	}
	return nil
}

func (v veth) hostRoute(index int) netlink.Route {
	return netlink.Route{LinkIndex: index, Dst: ipNet(host(v.Addr)), Scope: netlink.SCOPE_LINK, Protocol: ProtocolPod}
}

// heldRoute is the route to the pod's very address that the host has, or nil.
func (v veth) heldRoute() (*netlink.Route, error) {
	// A lookup, not a dump: the node may hold a full BGP table.
	routes, err := netlink.RouteGetWithOptions(v.Addr.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up route to %s: %w", v.Addr, err)
	}
	for _, route := range routes {
		if p, ok := prefixOf(route.Dst); ok && p == host(v.Addr) {
			return &route, nil
		}
	}
	return nil, nil
}

func permanent(index int, ip netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac}
}

// disconnect removes the veth; its other end, its addresses, neighbours and
// routes go with it. A veth that is gone is no error.
func disconnect(hostDevice string) error {
	link, err := netlink.LinkByName(hostDevice)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", hostDevice, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", hostDevice, err)
	}
	return nil
}

func isNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

// check returns the first thing in which the kernel differs from v.
func (v veth) check(ns netns.NsHandle) error {
	if err := v.checkHost(); err != nil {
		return err
	}
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer pod.Close()
	link, err := pod.LinkByName(v.Interface)
	if err != nil {
		return fmt.Errorf("find %s in the pod: %w", v.Interface, err)
	}
	attrs := link.Attrs()
	if attrs.HardwareAddr.String() != v.PodMAC {
		return fmt.Errorf("%s in the pod has MAC %s, not %s", v.Interface, attrs.HardwareAddr, v.PodMAC)
	}
	if attrs.Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s in the pod is down", v.Interface)
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return pod.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses of %s in the pod: %w", v.Interface, err)
	}
	if !containsPrefix(addrs, host(v.Addr)) {
		return fmt.Errorf("%s in the pod does not have %s", v.Interface, host(v.Addr))
	}
	for _, want := range v.podRoutes(attrs.Index) {
		found, err := whole(func() ([]netlink.Route, error) {
			return pod.RouteListFiltered(netlink.FAMILY_V4, &want,
				netlink.RT_FILTER_DST|netlink.RT_FILTER_OIF|netlink.RT_FILTER_GW)
		})
		if err != nil {
			return fmt.Errorf("list routes of the pod: %w", err)
		}
		if len(found) == 0 {
			return fmt.Errorf("the pod has no route to %s by %s", want.Dst, v.Interface)
		}
	}
	neighbours, err := whole(func() ([]netlink.Neigh, error) { return pod.NeighList(attrs.Index, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list neighbours of the pod: %w", err)
	}
	for _, n := range neighbours {
		if n.IP.Equal(gateway.AsSlice()) && n.State == netlink.NUD_PERMANENT && n.HardwareAddr.String() == v.HostMAC {
			return nil
		}
	}
	return fmt.Errorf("the pod has no permanent neighbour %s at %s", gateway, v.HostMAC)
}

// checkHost is check for the host's side alone.
func (v veth) checkHost() error {
	link, err := netlink.LinkByName(v.HostDevice)
	if err != nil {
		return fmt.Errorf("find %s: %w", v.HostDevice, err)
	}
	attrs := link.Attrs()
	if link.Type() != "veth" || attrs.HardwareAddr.String() != v.HostMAC {
		return fmt.Errorf("%s is a %s with MAC %s, not the pod's veth with %s", v.HostDevice, link.Type(), attrs.HardwareAddr, v.HostMAC)
	}
	if attrs.Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s is down", v.HostDevice)
	}
	held, err := v.heldRoute()
	if err != nil {
		return err
	}
	if held == nil || held.LinkIndex != attrs.Index {
		return fmt.Errorf("the host has no route to %s by %s", v.Addr, v.HostDevice)
	}
	return nil
}

func containsPrefix(addrs []netlink.Addr, want netip.Prefix) bool {
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && p == want {
			return true
		}
	}
	return false
}

// setSysctl writes a value under /proc/sys of the network namespace this runs
// in, if it is another than the one there.
func setSysctl(name, value string) error {
	path := "/proc/sys/" + name
	if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}
