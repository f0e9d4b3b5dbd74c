package datapath

import (
	"encoding/binary"
	"net/netip"

	"github.com/seamark-lb/seamark/state"
)

// The types of this file are the keys and values of bpf/shapes.h byte for byte,
// each for both families; CheckLayout compares them with the BTF of what is
// loaded. Padding has a name, so that many are read in one piece.

type address interface{ IPv4 | IPv6 }

func addrOf[A address](a A) netip.Addr {
	if four, ok := any(a).(IPv4); ok {
		return four.Addr()
	}
	return any(a).(IPv6).Addr()
}

// rawAddr returns an address of A's family in network byte order.
func rawAddr[A address](addr netip.Addr) (a A) {
	switch raw := any(&a).(type) {
	case *IPv4:
		*raw = addr.As4()
	case *IPv6:
		*raw = addr.As16()
	}
	return a
}

type rawAnnouncedKey[A address] struct {
	Addr    A
	Ifindex uint32
}

func rawAnnouncedKeyOf[A address](k AnnouncedKey) rawAnnouncedKey[A] {
	return rawAnnouncedKey[A]{rawAddr[A](k.Addr), k.Ifindex}
}

func (k rawAnnouncedKey[A]) cooked() AnnouncedKey { return AnnouncedKey{addrOf(k.Addr), k.Ifindex} }

type rawFrontendKey[A address] struct {
	Addr  A
	Port  Port
	Proto state.Protocol
	Pad   uint8
}

func rawFrontendKeyOf[A address](k FrontendKey) rawFrontendKey[A] {
	return rawFrontendKey[A]{Addr: rawAddr[A](k.Addr), Port: NewPort(k.Port), Proto: k.Proto}
}

func (k rawFrontendKey[A]) cooked() FrontendKey {
	return FrontendKey{addrOf(k.Addr), k.Port.Uint16(), k.Proto}
}

// rawSet has four sizes since C masks the index: the fourth, of no table, is
// the owner's.
type rawSet struct {
	Size     [4]uint32
	Look     Look
	Affinity uint32
}

func rawSetOf(s BackendSet) rawSet {
	return rawSet{[4]uint32{s.Size[0], s.Size[1], s.Size[2], s.Owner}, s.Look, s.Affinity}
}

func (s rawSet) cooked() BackendSet {
	return BackendSet{[3]uint32(s.Size[:3]), s.Size[3], s.Look, s.Affinity}
}

type rawBackend[A address] struct {
	Addr    A
	Port    Port
	Flags   BackendFlags
	Pad     uint8
	NextHop uint32
}

func rawBackendOf[A address](b BackendEntry) rawBackend[A] {
	return rawBackend[A]{Addr: rawAddr[A](b.Addr), Port: NewPort(b.Port), Flags: b.Flags, NextHop: b.NextHop}
}

func (b rawBackend[A]) cooked() BackendEntry {
	return BackendEntry{addrOf(b.Addr), b.Port.Uint16(), b.Flags, b.NextHop}
}

type rawLocalKey[A address] struct {
	VIP, Pod A
	Port     Port
	Proto    state.Protocol
	Pad      uint8
}

func rawLocalKeyOf[A address](k LocalKey) rawLocalKey[A] {
	return rawLocalKey[A]{VIP: rawAddr[A](k.VIP), Pod: rawAddr[A](k.Pod), Port: NewPort(k.Port), Proto: k.Proto}
}

func (k rawLocalKey[A]) cooked() LocalKey {
	return LocalKey{addrOf(k.VIP), addrOf(k.Pod), k.Port.Uint16(), k.Proto}
}

type rawLocalTarget struct {
	Port Port
	Pad  uint16
}

func rawLocalTargetOf(t LocalTarget) rawLocalTarget { return rawLocalTarget{Port: NewPort(t.Port)} }

func (t rawLocalTarget) cooked() LocalTarget { return LocalTarget{t.Port.Uint16()} }

type rawFlowKey[A address] struct {
	Pod, Client         A
	PodPort, ClientPort Port
	Proto               state.Protocol
	Pad                 [3]uint8
}

func rawFlowKeyOf[A address](k FlowKey) rawFlowKey[A] {
	return rawFlowKey[A]{Pod: rawAddr[A](k.Pod), Client: rawAddr[A](k.Client),
		PodPort: NewPort(k.PodPort), ClientPort: NewPort(k.ClientPort), Proto: k.Proto}
}

func (k rawFlowKey[A]) cooked() FlowKey {
	return FlowKey{addrOf(k.Pod), addrOf(k.Client), k.PodPort.Uint16(), k.ClientPort.Uint16(), k.Proto}
}

type rawFlow[A address] struct {
	VIP   A
	Port  Port
	Flags uint8
	Pad   uint8
	Seen  uint32
	Proof uint32 // the programs' own
}

func rawFlowOf[A address](f FlowEntry) rawFlow[A] {
	return rawFlow[A]{VIP: rawAddr[A](f.VIP), Port: NewPort(f.Port), Flags: f.Flags, Seen: f.Seen}
}

func (f rawFlow[A]) cooked() FlowEntry {
	return FlowEntry{addrOf(f.VIP), f.Port.Uint16(), f.Flags, f.Seen}
}

type rawTuple[A address] struct {
	Saddr, Daddr A
	Sport, Dport Port
	Proto        state.Protocol
	Pad          [3]uint8
}

func rawTupleOf[A address](t Tuple) rawTuple[A] {
	return rawTuple[A]{Saddr: rawAddr[A](t.Src.Addr()), Daddr: rawAddr[A](t.Dst.Addr()),
		Sport: NewPort(t.Src.Port()), Dport: NewPort(t.Dst.Port()), Proto: t.Proto}
}

func (t rawTuple[A]) cooked() Tuple {
	return Tuple{netip.AddrPortFrom(addrOf(t.Saddr), t.Sport.Uint16()), netip.AddrPortFrom(addrOf(t.Daddr), t.Dport.Uint16()), t.Proto}
}

type rawNAT[A address] struct {
	Saddr, Daddr A
	Sport, Dport Port
	Flags        uint8
	Pad          [3]uint8
	Seen         uint32
	Backend      uint32
	Proof        uint32 // the programs' own
}

func rawNATOf[A address](n NATEntry) rawNAT[A] {
	return rawNAT[A]{Saddr: rawAddr[A](n.Src.Addr()), Daddr: rawAddr[A](n.Dst.Addr()),
		Sport: NewPort(n.Src.Port()), Dport: NewPort(n.Dst.Port()), Flags: n.Flags, Seen: n.Seen, Backend: n.Backend}
}

func (n rawNAT[A]) cooked() NATEntry {
	return NATEntry{netip.AddrPortFrom(addrOf(n.Saddr), n.Sport.Uint16()), netip.AddrPortFrom(addrOf(n.Daddr), n.Dport.Uint16()),
		n.Flags, n.Seen, n.Backend}
}

type rawAffinityKey[A address] struct {
	Client  A
	Service uint32
}

func rawAffinityKeyOf[A address](k AffinityKey) rawAffinityKey[A] {
	return rawAffinityKey[A]{rawAddr[A](k.Client), k.Service}
}

func (k rawAffinityKey[A]) cooked() AffinityKey { return AffinityKey{addrOf(k.Client), k.Service} }

// rawSourceKey is a key of an LPM trie: Prefixlen counts the bits of Service, too.
type rawSourceKey[A address] struct {
	Prefixlen uint32
	Service   uint32
	Addr      A
}

const serviceBits = 32

func rawSourceKeyOf[A address](k SourceKey) rawSourceKey[A] {
	return rawSourceKey[A]{uint32(serviceBits + k.Prefix.Bits()), k.Service, rawAddr[A](k.Prefix.Masked().Addr())}
}

func (k rawSourceKey[A]) cooked() SourceKey {
	return SourceKey{k.Service, netip.PrefixFrom(addrOf(k.Addr), int(k.Prefixlen)-serviceBits)}
}

type rawFragmentKey struct {
	Saddr, Daddr IPv4
	ID           [2]byte
	Proto        state.Protocol
	Pad          uint8
}

func rawFragmentKeyOf(k FragmentKey) rawFragmentKey {
	return rawFragmentKey{Saddr: k.Src.As4(), Daddr: k.Dst.As4(), ID: NewPort(uint16(k.ID)), Proto: k.Proto}
}

func (k rawFragmentKey) cooked() FragmentKey {
	return FragmentKey{k.Saddr.Addr(), k.Daddr.Addr(), uint32(binary.BigEndian.Uint16(k.ID[:])), k.Proto}
}

type rawFragmentKey6 struct {
	Saddr, Daddr IPv6
	ID           [4]byte
	Pad          uint32
}

func rawFragmentKey6Of(k FragmentKey) rawFragmentKey6 {
	raw := rawFragmentKey6{Saddr: k.Src.As16(), Daddr: k.Dst.As16()}
	binary.BigEndian.PutUint32(raw.ID[:], k.ID)
	return raw
}

func (k rawFragmentKey6) cooked() FragmentKey {
	return FragmentKey{Src: k.Saddr.Addr(), Dst: k.Daddr.Addr(), ID: binary.BigEndian.Uint32(k.ID[:])}
}

type rawFragment struct {
	Sport, Dport Port
	Seen         uint32
	Proto        state.Protocol
	Pad          uint8
	Behind       uint16
}

func rawFragmentOf(f FragmentEntry) rawFragment {
	return rawFragment{NewPort(f.Sport), NewPort(f.Dport), f.Seen, f.Proto, 0, f.Behind}
}

func (f rawFragment) cooked() FragmentEntry {
	return FragmentEntry{f.Sport.Uint16(), f.Dport.Uint16(), f.Seen, f.Proto, f.Behind}
}
