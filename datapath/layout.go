package datapath

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/seamark-lb/seamark/state"
)

// The types of this file are the keys and values of bpf/shapes.h as Go sees
// them: of either family, addresses as netip.Addr, ports as numbers. raw.go has
// the same byte for byte.

// Sizes of maps whose indexes are given out here.
const (
	maxSets     = 65536
	maxServices = 65536
	maxBackends = 131072
	maxNextHops = 8192
)

// IPv4 is an address in network byte order (__be32).
type IPv4 [4]byte

// Addr returns a as a netip.Addr.
func (a IPv4) Addr() netip.Addr { return netip.AddrFrom4(a) }

func (a IPv4) String() string { return a.Addr().String() }

// IPv6 is an address in network byte order (__be32[4]).
type IPv6 [16]byte

// Addr returns a as a netip.Addr.
func (a IPv6) Addr() netip.Addr { return netip.AddrFrom16(a) }

func (a IPv6) String() string { return a.Addr().String() }

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
	Addr  netip.Addr
	Port  uint16
	Proto state.Protocol
}

func vipKey(a netip.Addr) FrontendKey { return FrontendKey{Addr: a} }

func (k FrontendKey) isVIP() bool { return k.Port == 0 && k.Proto == 0 }

func (k FrontendKey) String() string {
	if k.isVIP() {
		return k.Addr.String()
	}
	return netip.AddrPortFrom(k.Addr, k.Port).String() + "/" + k.Proto.String()
}

// FrontendFlags are enum frontend_flags.
type FrontendFlags uint32

// The flags of a frontend.
const (
	FrontendVIP      FrontendFlags = 1 << iota // row of an address
	FrontendInside                             // for pods of this node only
	FrontendSNAT                               // to other nodes by address translation
	FrontendGeneve                             // to other nodes in Geneve instead of IP in IP
	FrontendAffinity                           // a client keeps its backend
	FrontendSources                            // only from the prefixes in sources
	FrontendRefuse                             // what cannot be served is answered
	FrontendTraced                             // every packet is told to events
	FrontendSwitched                           // was forwarded in another way before: older flows go on in that
)

var frontendFlagNames = []string{"address", "inside", "snat", "geneve", "affinity", "sources", "refuse", "traced", "switched"}

func (f FrontendFlags) String() string {
	var names []string
	for i, name := range frontendFlagNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// FrontendEntry says which backend sets serve a frontend; all zeros but the
// flags in VIP rows.
type FrontendEntry struct {
	Set     uint32 // for packets from outside
	Flags   FrontendFlags
	Inside  uint32 // set for packets from pods of this node
	Service uint32 // number of the service port
}

// BackendSet is the backends of one service port. Its tables are tables[4*set+n],
// n from 0 to 2.
type BackendSet struct {
	Size [3]uint32 // slots of each table; 0: none
	// Owner is a hash of whose the set is, for a later process to know it by.
	Owner    uint32
	Look     Look
	Affinity uint32 // in ticks
}

// Look is set_look: which of a set's tables is which.
type Look uint32

const (
	tablesPerSet           = 3
	lookPreviousShift      = 2
	lookMoving        Look = 16
)

func newLook(active, previous uint32, moving bool) Look {
	look := Look(active | previous<<lookPreviousShift)
	if moving {
		look |= lookMoving
	}
	return look
}

// Active is which table decides.
func (l Look) Active() uint32 { return uint32(l) & 3 % tablesPerSet }

// Previous is which table decided before the window of changes opened.
func (l Look) Previous() uint32 { return uint32(l) >> lookPreviousShift & 3 % tablesPerSet }

// Moving says whether a window is open.
func (l Look) Moving() bool { return l&lookMoving != 0 }

// spare is a table that is neither.
func (l Look) spare() uint32 {
	for i := range uint32(tablesPerSet) {
		if i != l.Active() && i != l.Previous() {
			return i
		}
	}
	panic("three tables, and two are in use")
}

// A slot of a Maglev table: the id of a backend, and whether the slot has moved.
const (
	SlotMoved   = 1 << 20
	slotBackend = SlotMoved - 1
)

// BackendFlags are enum backend_flags.
type BackendFlags uint8

// The flags of a backend.
const (
	BackendLocal    BackendFlags = 1 << iota // runs on this node
	BackendDraining                          // keeps its flows and gets no new ones
	BackendGone                              // nobody's backend any more: only pins and second chances lead there
)

// BackendEntry is one backend.
type BackendEntry struct {
	Addr    netip.Addr
	Port    uint16 // target port
	Flags   BackendFlags
	NextHop uint32 // index into next_hops; 0 when local or not resolved
}

func (b BackendEntry) addrPort() netip.AddrPort { return netip.AddrPortFrom(b.Addr, b.Port) }

// NextHopEntry is how this node reaches others.
type NextHopEntry struct {
	Ifindex uint32 // 0: not resolved, BPF asks the FIB
	VLAN    uint16 // tag on that device; 0: none
	MTU     uint16 // of IP packets on the way
	Dmac    MAC
	Smac    MAC
	Saddr   IPv4 // source of an IPv4 outer header
	Node    IPv4 // the other node; zero: unknown
	Saddr6  IPv6
	Node6   IPv6
}

// LocalKey finds the target port of a local pod behind a VIP.
type LocalKey struct {
	VIP   netip.Addr
	Pod   netip.Addr
	Port  uint16 // of the frontend
	Proto state.Protocol
}

func (k LocalKey) frontend() FrontendKey {
	return FrontendKey{Addr: k.VIP, Port: k.Port, Proto: k.Proto}
}

// LocalTarget is the target port on the pod.
type LocalTarget struct{ Port uint16 }

// FlowKey is a flow as the pod sends it.
type FlowKey struct {
	Pod, Client         netip.Addr
	PodPort, ClientPort uint16
	Proto               state.Protocol
}

// Flags of flows and pins (enum flow_flags).
const (
	FlowReplied = 1 << iota // the pod has answered, and not with RST; of a pin: the client has gone on
	FlowClosing             // a FIN or RST was seen
)

// FlowEntry is what the pod's packets are rewritten to come from.
type FlowEntry struct {
	VIP   netip.Addr
	Port  uint16
	Flags uint8
	Seen  uint32 // ticks, of the last packet
}

// Tuple is a flow's addresses and ports in one direction.
type Tuple struct {
	Src, Dst netip.AddrPort
	Proto    state.Protocol
}

func (t Tuple) String() string {
	return t.Src.String() + " > " + t.Dst.String() + "/" + t.Proto.String()
}

// Pin is the backend of one flow, where the slot alone does not say it.
type Pin struct {
	Backend uint32
	Set     uint32
	Seen    uint32 // ticks
	Flags   uint32 // FlowReplied, FlowClosing
}

// AffinityKey is a client of a service port.
type AffinityKey struct {
	Client  netip.Addr
	Service uint32
}

// AffinityEntry is the backend that the client had last.
type AffinityEntry struct {
	Backend uint32
	Seen    uint32 // ticks
}

// SourceKey is a prefix of clients that may use a service port.
type SourceKey struct {
	Service uint32
	Prefix  netip.Prefix
}

// FragmentKey is what the fragments of a packet share.
type FragmentKey struct {
	Src, Dst netip.Addr
	ID       uint32         // as a number; of IPv4 16 bits
	Proto    state.Protocol // of IPv4 alone
}

// FragmentEntry is what only the first fragment carries.
type FragmentEntry struct {
	Sport, Dport uint16
	Seen         uint32 // ticks
	Proto        state.Protocol
	Behind       uint16 // bytes of the packet, to behind the header with the ports
}

// Flags of translated flows (enum nat_flags).
const (
	NATReplied = 1 << iota // the client has gone on after an answer
	NATClosing             // a FIN or RST was seen
	NATInside              // of a pod of this node to a Service
)

// NATEntry is what a packet of a translated flow becomes.
type NATEntry struct {
	Src, Dst netip.AddrPort
	Flags    uint8
	Seen     uint32 // ticks
	Backend  uint32
}

// Count is packets and bytes.
type Count struct{ Packets, Bytes uint64 }

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
	Addr    netip.Addr
	Ifindex uint32
}

// AnnouncedEntry is what ARP or neighbour discovery for an announced address is answered with, and
// what the responder heard of others that claim it.
type AnnouncedEntry struct {
	Generation uint64
	Claims     uint64 // foreign claims heard
	ClaimedAt  uint64 // of the last, CLOCK_BOOTTIME, ns
	MAC        MAC
	ClaimMAC   MAC
	Muted      Muted // why it is silent
	_          [3]uint8
}

// Muted is why an entry is silent (enum muted); 0: it is not.
type Muted uint8

// The reasons of silence.
const (
	MutedClaimed Muted = 1 << iota // another cluster node claims the address
	MutedProbing                   // it is asked for before it is announced
)

// MACKey is a key of cluster_macs.
type MACKey struct {
	MAC MAC
	_   uint16
}
