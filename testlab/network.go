package testlab

import (
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wireName is the namespace that holds the bridges, and the far end of every
// host's cables: what no host can see of its own network.
const wireName = "wire"

func (l *Lab) wire() Namespace { return Namespace{l.Name + "-" + wireName} }

func (l *Lab) namespace(host string) Namespace { return Namespace{l.Name + "-" + host} }

// buildWire makes the bridges. None filters, snoops or waits for STP.
func (l *Lab) buildWire(t Topology) error {
	err := l.wire().create(l.Name, []sysctl{
		{path: "net/ipv6/conf/all/disable_ipv6", value: "1", optional: true},
		{path: "net/ipv6/conf/default/disable_ipv6", value: "1", optional: true},
		{path: "net/bridge/bridge-nf-call-iptables", value: "0", optional: true},
		{path: "net/bridge/bridge-nf-call-ip6tables", value: "0", optional: true},
		{path: "net/bridge/bridge-nf-call-arptables", value: "0", optional: true},
	})
	if err != nil {
		return err
	}
	return l.wire().Do(func() error {
		for _, network := range t.Networks {
			snooping := false
			bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &snooping}
			bridge.Name = network
			if err := netlink.LinkAdd(bridge); err != nil {
				return fmt.Errorf("create bridge %s: %w", network, err)
			}
			if err := netlink.LinkSetUp(bridge); err != nil {
				return fmt.Errorf("set bridge %s up: %w", network, err)
			}
		}
		return nil
	})
}

// buildHost makes a host's namespace, with its cables plugged in, its addresses
// and its routes.
func (l *Lab) buildHost(h HostSpec, noDaemons bool, t Topology) error {
	if err := l.namespace(h.Name).create(l.Name, hostSysctls(h.Role)); err != nil {
		return err
	}
	if err := l.plug(h); err != nil {
		return fmt.Errorf("build host %s: %w", h.Name, err)
	}
	routes := h.Routes
	if noDaemons {
		routes = append(slices.Clone(routes), peerPodRoutes(h, t)...)
	}
	err := l.namespace(h.Name).Do(func() error { return configure(h.Interfaces, routes) })
	if err != nil {
		return fmt.Errorf("build host %s: %w", h.Name, err)
	}
	return nil
}

func hostSysctls(role Role) []sysctl {
	s := []sysctl{
		// Direct server return is asymmetric.
		{path: "net/ipv4/conf/all/rp_filter", value: "0"},
		{path: "net/ipv4/conf/default/rp_filter", value: "0"},
		// An address that is still being checked for duplicates can't be used.
		{path: "net/ipv6/conf/all/accept_dad", value: "0", optional: true},
		{path: "net/ipv6/conf/default/accept_dad", value: "0", optional: true},
	}
	if role == RoleRouter || role == RoleNode {
		s = append(s,
			sysctl{path: "net/ipv4/ip_forward", value: "1"},
			sysctl{path: "net/ipv6/conf/all/forwarding", value: "1", optional: true})
	}
	if role == RoleRouter {
		s = append(s,
			sysctl{path: "net/ipv4/fib_multipath_hash_policy", value: "1"},
			sysctl{path: "net/ipv6/fib_multipath_hash_policy", value: "1", optional: true})
	}
	return s
}

// plug makes a host's interfaces: veths whose far ends are bridge ports.
func (l *Lab) plug(h HostSpec) error {
	host, err := openNS(l.namespace(h.Name))
	if err != nil {
		return err
	}
	defer host.Close()
	return l.wire().Do(func() error {
		pass, err := passProgram()
		if err != nil {
			return err
		}
		defer pass.Close()
		for _, i := range h.Interfaces {
			veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: i.Name, PeerNamespace: netlink.NsFd(host.Fd())}
			veth.Name = portName(h.Name, i.Name)
			veth.PeerHardwareAddr = l.mac(h.Name, i.Name)
			if err := netlink.LinkAdd(veth); err != nil {
				return fmt.Errorf("create interface %s: %w", i.Name, err)
			}
			if err := setUpPort(veth, i.Network, pass); err != nil {
				return fmt.Errorf("plug in interface %s: %w", i.Name, err)
			}
		}
		return nil
	})
}

func setUpPort(port netlink.Link, network string, pass *ebpf.Program) error {
	if err := disableTxChecksum(port.Attrs().Name); err != nil {
		return err
	}
	// A veth receives XDP_TX frames of its peer only while it has an XDP
	// program itself; netlink keeps this one attached until the device goes.
	if err := netlink.LinkSetXdpFdWithFlags(port, pass.FD(), unix.XDP_FLAGS_DRV_MODE); err != nil {
		return fmt.Errorf("attach XDP program: %w", err)
	}
	if network != "" {
		bridge, err := netlink.LinkByName(network)
		if err != nil {
			return fmt.Errorf("find bridge %s: %w", network, err)
		}
		if err := netlink.LinkSetMaster(port, bridge); err != nil {
			return fmt.Errorf("join bridge %s: %w", network, err)
		}
	}
	if err := netlink.LinkSetUp(port); err != nil {
		return fmt.Errorf("set port up: %w", err)
	}
	return nil
}

// configure sets up the interfaces of the namespace it runs in.
func configure(interfaces []Interface, routes []Route) error {
	for _, i := range interfaces {
		link, err := netlink.LinkByName(i.Name)
		if err != nil {
			return fmt.Errorf("find interface %s: %w", i.Name, err)
		}
		// XDP_TX would send checksums that were left to the hardware unfinished.
		if err := disableTxChecksum(i.Name); err != nil {
			return err
		}
		for _, p := range i.Addresses {
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
				return fmt.Errorf("add address %s to %s: %w", p, i.Name, err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("set interface %s up: %w", i.Name, err)
		}
	}
	for _, r := range routes {
		if err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(r.To.Masked()), Gw: r.Via.AsSlice()}); err != nil {
			return fmt.Errorf("add route %s via %s: %w", r.To, r.Via, err)
		}
	}
	return nil
}

// peerPodRoutes are the routes to pods of nodes on a shared network, which the
// daemons install where there are daemons.
func peerPodRoutes(h HostSpec, t Topology) []Route {
	var routes []Route
	if h.Role != RoleNode {
		return nil
	}
	for _, peer := range t.nodes() {
		via := peer.internalIP()
		if peer.Name != h.Name && h.onLink(via) {
			routes = append(routes, Route{To: peer.PodCIDRs[0], Via: via})
		}
	}
	return routes
}

func (h HostSpec) onLink(a netip.Addr) bool {
	return slices.ContainsFunc(h.Interfaces, func(i Interface) bool {
		return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Contains(a) })
	})
}

// setCable plugs a host's cable in or pulls it: the host's end loses carrier,
// and keeps its addresses and routes.
func (l *Lab) setCable(host, iface string, up bool) error {
	return l.wire().Do(func() error {
		port, err := netlink.LinkByName(portName(host, iface))
		if err != nil {
			return fmt.Errorf("find the cable of %s %s: %w", host, iface, err)
		}
		set := netlink.LinkSetDown
		if up {
			set = netlink.LinkSetUp
		}
		if err := set(port); err != nil {
			return fmt.Errorf("set the cable of %s %s: %w", host, iface, err)
		}
		return nil
	})
}

// unplug removes a host's interfaces, even while something holds its namespace.
func (l *Lab) unplug(h HostSpec) error {
	return l.wire().Do(func() error {
		for _, i := range h.Interfaces {
			port, err := netlink.LinkByName(portName(h.Name, i.Name))
			if _, gone := err.(netlink.LinkNotFoundError); gone {
				continue
			}
			if err != nil {
				return fmt.Errorf("find the cable of %s %s: %w", h.Name, i.Name, err)
			}
			if err := netlink.LinkDel(port); err != nil {
				return fmt.Errorf("remove the cable of %s %s: %w", h.Name, i.Name, err)
			}
		}
		return nil
	})
}

// portName is the name of an interface's far end: host.interface, or a digest
// of it where that is too long.
func portName(host, iface string) string {
	name := host + "." + iface
	if len(name) <= maxInterfaceName {
		return name
	}
	return fmt.Sprintf("port%08x", digest(name)&0xffffffff)
}

// mac is a locally administered address that stays the same when a machine is
// powered off and on.
func (l *Lab) mac(host, iface string) net.HardwareAddr {
	d := digest(l.Name + "/" + host + "/" + iface)
	return net.HardwareAddr{0x02, byte(d), byte(d >> 8), byte(d >> 16), byte(d >> 24), byte(d >> 32)}
}

func digest(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}

func passProgram() (*ebpf.Program, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise memlock limit: %w", err)
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "testlab_pass",
		Type:         ebpf.XDP,
		License:      "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
	})
	if err != nil {
		return nil, fmt.Errorf("load XDP program: %w", err)
	}
	return p, nil
}

// disableTxChecksum turns transmit checksum offload, and with it segmentation
// offload, off (ETHTOOL_STXCSUM) in the namespace it runs in.
func disableTxChecksum(iface string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("disable checksum offload of %s: %w", iface, err)
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_STXCSUM}
	var ifreq struct { // struct ifreq, whose union holds a pointer here
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifreq.name[:], iface)
	ifreq.data = unsafe.Pointer(&value)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	if errno != 0 {
		return fmt.Errorf("disable checksum offload of %s: %w", iface, errno)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
