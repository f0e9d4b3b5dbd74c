package announce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

var allNodes = netip.MustParseAddr("ff02::1")

// ndHops is the hop limit of every message of neighbour discovery: it was not
// forwarded (RFC 4861 §7.1).
const ndHops = 255

// unsolicitedNA is the IPv6 packet, without an Ethernet header, that tells all
// nodes that addr is at mac (RFC 4861 §7.2.6). It overrides what they know.
func unsolicitedNA(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	packet, err := ndPacket(addr, allNodes, &ndp.NeighborAdvertisement{Override: true, TargetAddress: addr,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}}})
	if err != nil {
		return nil, fmt.Errorf("build neighbour advertisement for %s at %s: %w", addr, mac, err)
	}
	return packet, nil
}

// ndPacket puts a message into an IPv6 packet.
func ndPacket(from, to netip.Addr, m ndp.Message) ([]byte, error) {
	message, err := ndp.MarshalMessageChecksum(m, from, to)
	if err != nil {
		return nil, err
	}
	packet := []byte{0x60, 0, 0, 0}
	packet = binary.BigEndian.AppendUint16(packet, uint16(len(message)))
	packet = append(packet, unix.IPPROTO_ICMPV6, ndHops)
	packet = append(packet, from.AsSlice()...)
	packet = append(packet, to.AsSlice()...)
	return append(packet, message...), nil
}

// multicastMAC is where frames to an IPv6 group go (RFC 2464 §7).
func multicastMAC(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// groups has interfaces listen to the solicited-node groups (RFC 4291 §2.7.1) of
// the addresses announced on them: without, network cards and switches that
// snoop MLD keep the questions from the responder. It lasts as long as the
// daemon: during a restart neighbours that do not know an address yet wait.
type groups struct {
	mu sync.Mutex
	// sockets carry the memberships: the kernel bounds how many one may have
	// (net.core.optmem_max).
	sockets []int
	members map[membership]*member
}

// membership is a group joined on an interface.
type membership struct {
	group   netip.Addr
	ifindex int
}

type member struct {
	socket int
	addrs  map[netip.Addr]bool // that need it: some share one
}

func newGroups() *groups { return &groups{members: map[membership]*member{}} }

// Join has the interface listen to questions for addr. To repeat it is no error.
// IPv4 needs no groups.
func (g *groups) Join(ifindex int, addr netip.Addr) error {
	if addr.Is4() {
		return nil
	}
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return fmt.Errorf("find solicited-node group of %s: %w", addr, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	m := membership{group, ifindex}
	if g.members[m] == nil {
		socket, err := g.add(m)
		if err != nil {
			return fmt.Errorf("join group %s for %s on interface %d (is IPv6 disabled there?): %w", group, addr, ifindex, err)
		}
		g.members[m] = &member{socket, map[netip.Addr]bool{}}
	}
	g.members[m].addrs[addr] = true
	return nil
}

func (g *groups) add(m membership) (socket int, err error) {
	err = unix.ENOMEM
	if len(g.sockets) > 0 {
		socket = g.sockets[len(g.sockets)-1]
		err = unix.SetsockoptIPv6Mreq(socket, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, m.request())
	}
	if !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.ENOBUFS) {
		return socket, err
	}
	socket, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptIPv6Mreq(socket, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, m.request()); err != nil {
		unix.Close(socket)
		return 0, err
	}
	g.sockets = append(g.sockets, socket)
	return socket, nil
}

func (m membership) request() *unix.IPv6Mreq {
	return &unix.IPv6Mreq{Multiaddr: m.group.As16(), Interface: uint32(m.ifindex)}
}

// Leave is the reverse of Join; to leave what was not joined is no error.
func (g *groups) Leave(ifindex int, addr netip.Addr) {
	if addr.Is4() {
		return
	}
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return // never joined
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	m := membership{group, ifindex}
	member := g.members[m]
	if member == nil {
		return
	}
	delete(member.addrs, addr)
	if len(member.addrs) > 0 {
		return
	}
	delete(g.members, m)
	// An interface that is gone has taken its memberships along.
	_ = unix.SetsockoptIPv6Mreq(member.socket, unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, m.request())
}

// Close leaves all groups.
func (g *groups) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, socket := range g.sockets {
		unix.Close(socket)
	}
	g.sockets = nil
	clear(g.members)
}
