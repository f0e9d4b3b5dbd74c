package datapath

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/seamark-lb/seamark/state"
)

// The types of this file are the keys and values of bpf/maps.h, byte for
// byte; CheckLayout compares them with the BTF of what is loaded.

// Sizes of maps whose indexes are given out here.
const (
	maxSets     = 16384
	maxBackends = 65536
	maxNextHops = 4096
)

// IPv4 is an address in network byte order (__be32).
type IPv4 [4]byte

// Addr returns a as a netip.Addr.
func (a IPv4) Addr() netip.Addr { return netip.AddrFrom4(a) }

func (a IPv4) String() string { return a.Addr().String() }

// ipv4 returns a in network byte order; an error when a is not IPv4.
func ipv4(a netip.Addr) (IPv4, error) {
	if !a.Is4() {
		return IPv4{}, fmt.Errorf("address %s: only IPv4 is balanced yet", a)
	}
	return a.As4(), nil
}

// Port is a port in network byte order (__be16).
type Port [2]byte

// NewPort returns p in network byte order.
func NewPort(p uint16) Port {
	var b Port
	binary.BigEndian.PutUint16(b[:], p)
	return b
}

// Uint16 returns p in the host's byte order.
func (p Port) Uint16() uint16 { return binary.BigEndian.Uint16(p[:]) }

func (p Port) String() string { return strconv.Itoa(int(p.Uint16())) }

// MAC is an Ethernet address.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// ParseMAC parses an Ethernet address such as "02:00:00:00:00:01".
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil {
		return MAC{}, err
	}
	return macFrom(hw)
}

func macFrom(hw net.HardwareAddr) (m MAC, err error) {
	if len(hw) != len(m) {
		return m, fmt.Errorf("MAC %s: %d bytes, want %d", hw, len(hw), len(m))
	}
	return MAC(hw), nil
}

// FrontendKey is addr:port/proto. With port and proto 0 it stands for the
// address itself (the VIP row).
type FrontendKey struct {
	Addr  IPv4
	Port  Port
	Proto state.Protocol
	_     uint8
}

func vipKey(a IPv4) FrontendKey { return FrontendKey{Addr: a} }

func (k FrontendKey) isVIP() bool { return k.Port == Port{} && k.Proto == 0 }

func (k FrontendKey) String() string {
	if k.isVIP() {
		return k.Addr.String()
	}
	return addrPort(k.Addr, k.Port) + "/" + k.Proto.String()
}

// FrontendEntry says which backend set serves a frontend.
type FrontendEntry struct {
	Set   uint32 // index into sets; 0 in VIP rows
	Flags uint32
}

// BackendSet is the backends of one service port. Its tables are
// maglev[2*set] and maglev[2*set+1].
type BackendSet struct {
	Size   [2]uint32 // slots of each table; 0: no backends
	Active uint32    // 0 or 1: which table is looked up
	Flags  uint32
}

// BackendLocal in BackendEntry.Flags: the backend runs on this node.
const BackendLocal = 1

// BackendEntry is one backend.
type BackendEntry struct {
	Addr    IPv4
	Port    Port // target port
	Flags   uint8
	_       uint8
	NextHop uint32 // index into next_hops; 0 when local or not resolved
}

func (b BackendEntry) addrPort() string { return addrPort(b.Addr, b.Port) }

// NextHopEntry is how this node reaches others.
type NextHopEntry struct {
	Ifindex uint32 // 0: not resolved, BPF asks the FIB
	Saddr   IPv4   // source of the outer header
	Dmac    MAC
	Smac    MAC
}

// LocalKey finds the target port of a local pod behind a VIP.
type LocalKey struct {
	VIP   IPv4
	Pod   IPv4
	Port  Port // of the frontend
	Proto state.Protocol
	_     uint8
}

func (k LocalKey) frontend() FrontendKey {
	return FrontendKey{Addr: k.VIP, Port: k.Port, Proto: k.Proto}
}

// LocalTarget is the target port on the pod.
type LocalTarget struct {
	Port Port
	_    uint16
}

// EndpointEntry is a pod of this node.
type EndpointEntry struct {
	Ifindex uint32 // of the veth's host end
	PodMAC  MAC
	HostMAC MAC
}

// AnnouncerEntry is this node's right to announce.
type AnnouncerEntry struct {
	ValidUntil uint64 // CLOCK_BOOTTIME, ns
}

// AnnouncedKey is an address on an interface.
type AnnouncedKey struct {
	Addr    IPv4
	Ifindex uint32
}

// AnnouncedEntry is what ARP for an announced address is answered with, and
// what the responder heard of others that claim it.
type AnnouncedEntry struct {
	Generation uint64
	Claims     uint64 // foreign claims heard
	ClaimedAt  uint64 // of the last, CLOCK_BOOTTIME, ns
	MAC        MAC
	ClaimMAC   MAC
	Muted      uint8 // 1: silent, since another cluster node claims it
	_          [3]uint8
}

// MACKey is a key of cluster_macs.
type MACKey struct {
	MAC MAC
	_   uint16
}

func addrPort(a IPv4, p Port) string {
	return netip.AddrPortFrom(a.Addr(), p.Uint16()).String()
}
