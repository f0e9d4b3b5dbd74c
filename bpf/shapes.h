// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The shapes of keys and values of maps, and how many a map holds. Userspace has
// the same shapes from BTF (bpf2go) and compares them with the pinned maps at load.
// Addresses and ports are in network byte order everywhere, all else in the
// host's.
#pragma once

#include "bpf.h"
#include "reasons.h"

// What ends in 6 is for IPv6; what has no number is for IPv4, which is not
// made to pay for the longer keys.

// LAYOUT_VERSION rises with every change to a shape below. A daemon migrates
// or rebuilds what an older one left pinned, and refuses what a newer one did.
enum layout_version { LAYOUT_VERSION = 3 };

// Sizes; the loader may be told others for those that it names in its Config.
#define MAX_FRONTENDS 262144
#define RECENT_BITS   10
#define MAX_RECENT    (1 << RECENT_BITS)
#define MAX_SETS      65536
#define MAX_SERVICES  65536
#define MAX_BACKENDS  131072 // at most 2^20: what a slot has room for
#define MAX_NEXT_HOPS 8192
#define MAX_LOCAL     262144
#define MAX_ANNOUNCED 16384
#define MAX_ASKERS    4096
#define MAX_ENDPOINTS 4096
#define MAX_CLUSTER_MACS 4096
#define MAX_FLOWS     262144
#define MAX_HALF_OPEN 65536
#define MAX_FLOWS6    65536
#define MAX_HALF_OPEN6 16384
#define MAX_PINS      262144
#define MAX_AFFINITY  65536
#define MAX_SOURCES   65536
#define MAX_FRAGMENTS 8192
#define MAX_NAT       262144

// frontend_key is addr:port/proto. With port and proto 0 it stands for the
// address itself (FRONTEND_VIP).
struct frontend_key {
	__be32 addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct frontend_key6 {
	__be32 addr[4];
	__be16 port;
	__u8 proto;
	__u8 pad;
};

enum frontend_flags {
	FRONTEND_VIP = 1,       // row of an address: it answers ping, and its unserved ports are not let through
	FRONTEND_INSIDE = 2,    // for pods of this node only: what comes from outside is not ours (ClusterIP; left to kube-proxy)
	FRONTEND_SNAT = 4,      // to other nodes by address translation, and back the same way
	FRONTEND_GENEVE = 8,    // to other nodes in Geneve instead of IP in IP
	FRONTEND_AFFINITY = 16, // a client keeps its backend (sets.affinity)
	FRONTEND_SOURCES = 32,  // only from the prefixes in sources
	FRONTEND_REFUSE = 64,   // what cannot be served is answered (TCP RST, ICMP port unreachable)
	FRONTEND_TRACED = 128,  // every packet is told to events
	FRONTEND_SWITCHED = 256, // had another way of forwarding before: flows older than that go on in theirs (former_ways)
};

// What makes a packet leave the fast path: one test for all.
#define FRONTEND_SLOW (FRONTEND_INSIDE | FRONTEND_SNAT | FRONTEND_GENEVE | FRONTEND_AFFINITY | FRONTEND_SOURCES | FRONTEND_TRACED | FRONTEND_SWITCHED)

struct frontend {
	__u32 set;     // index into sets, for packets from outside
	__u32 flags;   // FRONTEND_*
	__u32 inside;  // index into sets, for packets from pods of this node
	__u32 service; // number of the service port: in service_counts, affinity, sources
};

// recent_frontend is a row of frontends as a CPU has found it. It holds as long as
// frontends_edition is what it was then.
struct recent_frontend {
	__u64 key; // frontend_key; 0: no row
	struct frontend row;
	__u32 edition;
	__u32 pad;
};

struct recent_frontend6 {
	__u64 key[3]; // frontend_key6; the last 0: no row
	struct frontend row;
	__u32 edition;
	__u32 pad;
};

// backend_set is the backends of one service port (all of them, or those of
// this node), shared by its frontends. It has three Maglev tables, n from 0 to 2, at
// 4*set+n in the map of tables of that size: userspace fills the spare one, writes
// its size, and then flips look, so no packet meets a half-made table.
struct backend_set {
	__u32 size[4];  // slots of each table; 0: none, so no backends. The last, of no table, tells userspace whose the set is
	__u32 look;     // SET_*: which table is which, in one word, so that all change at once
	__u32 affinity; // timeout in ticks (clock.h) of FRONTEND_AFFINITY
};

enum set_look {
	SET_ACTIVE = 3,         // mask: the table that decides
	SET_PREVIOUS = 12,      // mask: the table that decided before the window of changes opened
	SET_PREVIOUS_SHIFT = 2,
	SET_MOVING = 16,        // a window is open: slots of the active table may have SLOT_MOVED
};

// What a slot of a Maglev table says: the id of the backend, and whether the slot
// has moved. A word of a large table is three slots, the first in the lowest bits.
enum slot {
	SLOTS_PER_WORD = 3,
	SLOT_BITS = 21,
	SLOT_BACKEND = (1 << 20) - 1, // mask: index into backends
	SLOT_MOVED = 1 << 20,         // changed since the window opened: pins decide first
};

// small_table is a Maglev table of few backends: the ids of these, and slots of a byte
// each, which is an index into the ids, and whether the slot has moved. What does
// not fit the CPU's caches costs a packet more than all else on its way.
enum small_slot {
	SMALL_BACKENDS = 128, // at most; what is below in a slot is the index
	SMALL_MOVED = 128,
};

struct small_table {
	__u32 backends[SMALL_BACKENDS];
	__u8 slots[]; // as many as the name of its map says
};

enum backend_flags {
	BACKEND_LOCAL = 1,    // runs on this node
	BACKEND_DRAINING = 2, // keeps its flows and gets no new ones
	BACKEND_GONE = 4,     // nobody's backend any more: only pins and second chances lead there
};

// backend is a pod (or a host outside the cluster). A row of zeros: there is none.
struct backend {
	__be32 addr;
	__be16 port; // target port
	__u8 flags;  // BACKEND_*
	__u8 pad;
	__u32 next_hop; // index into next_hops; unused when local
};

struct backend6 {
	__be32 addr[4];
	__be16 port;
	__u8 flags;
	__u8 pad;
	__u32 next_hop;
};

// next_hop is how this node reaches another: many backends share one, so a
// router that changes its MAC costs one write.
struct next_hop {
	__u32 ifindex; // device that frames leave by; 0: not resolved, ask the FIB
	__u16 vlan;    // tag on that device (host byte order); 0: none
	__u16 mtu;     // of IP packets on the way
	__u8 dmac[6];
	__u8 smac[6];
	__be32 saddr;  // source of an IPv4 outer header
	__be32 node;   // the other node: destination of Geneve over IPv4; 0: unknown
	__be32 saddr6[4];
	__be32 node6[4];
};

// local_key finds the target port of a local pod behind a VIP: what a DSR
// packet's headers do not carry.
struct local_key {
	__be32 vip;
	__be32 pod;
	__be16 port; // of the frontend
	__u8 proto;
	__u8 pad;
};

struct local_key6 {
	__be32 vip[4];
	__be32 pod[4];
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct local_target {
	__be16 port; // target port on the pod
	__u16 pad;
};

// flow_key is a flow as the pod sends it: source pod, destination client.
struct flow_key {
	__be32 pod;
	__be32 client;
	__be16 pod_port;
	__be16 client_port;
	__u8 proto;
	__u8 pad[3];
};

struct flow_key6 {
	__be32 pod[4];
	__be32 client[4];
	__be16 pod_port;
	__be16 client_port;
	__u8 proto;
	__u8 pad[3];
};

enum flow_flags {
	FLOW_REPLIED = 1, // the pod has answered, and not with RST; of a pin: the client has gone on
	FLOW_CLOSING = 2, // a FIN or RST was seen, and the pod has not gone on after the client's
	FLOW_ENDED = 4,   // it was the pod's own: nobody forges that
};

// flow is what the pod's packets are rewritten to come from.
struct flow {
	__be32 vip;
	__be16 port;
	__u8 flags; // FLOW_*
	__u8 pad;
	__u32 seen; // ticks (clock.h), of the last packet
	__u32 proof; // that the client has to show (handshake.h); 0: none
};

struct flow6 {
	__be32 vip[4];
	__be16 port;
	__u8 flags;
	__u8 pad;
	__u32 seen;
	__u32 proof;
};

// tuple is a flow's addresses and ports in one direction. As a key of pins it is
// what the client sends to the frontend.
struct tuple {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

struct tuple6 {
	__be32 saddr[4];
	__be32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

// pin is the backend of one flow, where the slot alone does not say it.
struct pin {
	__u32 backend; // index into backends
	__u32 set;
	__u32 seen;  // ticks
	__u32 flags; // FLOW_REPLIED, FLOW_CLOSING
};

struct affinity_key {
	__be32 client;
	__u32 service;
};

struct affinity_key6 {
	__be32 client[4];
	__u32 service;
};

struct affinity {
	__u32 backend;
	__u32 seen; // ticks, of the last packet of a new connection
};

// source_key is a prefix of clients, for an LPM trie: prefixlen counts the 32
// bits of service, too.
struct source_key {
	__u32 prefixlen;
	__u32 service;
	__be32 addr;
};

struct source_key6 {
	__u32 prefixlen;
	__u32 service;
	__be32 addr[4];
};

// fragment_key is what the fragments of a packet share: of IPv4 the protocol, too (RFC 791,
// section 3.2), of IPv6 not: that of the first fragment alone counts (RFC 8200, section 4.5).
struct fragment_key {
	__be32 saddr;
	__be32 daddr;
	__be16 id;
	__u8 proto;
	__u8 pad;
};

struct fragment_key6 {
	__be32 saddr[4];
	__be32 daddr[4];
	__be32 id;
	__u32 pad;
};

// fragment is what only the first one carries.
struct fragment {
	__be16 sport;
	__be16 dport;
	__u32 seen; // ticks
	__u8 proto;
	__u8 pad;
	__u16 behind; // bytes of the whole packet, from where it is cut up to behind the header with the ports
};

enum nat_flags {
	NAT_REPLIED = 1,  // the client has gone on after an answer
	NAT_CLOSING = 2,  // a FIN or RST was seen in this direction, and the backend has not gone on after the client's
	NAT_INSIDE = 4,   // of a pod of this node to a Service, not of a client outside
	NAT_ANSWERED = 8, // the backend has answered, and not with RST
	NAT_LEFT = 16,    // in nat_in: the client has ended its side; what the backend sends next says whether that is so
};

// nat is what a packet of a translated flow becomes. Each flow has two entries:
// in nat_out, by what the client sends, and in nat_in, by what the backend answers.
struct nat {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u8 flags; // NAT_*
	__u8 pad[3];
	__u32 seen;    // ticks
	__u32 backend; // index into backends
	__u32 proof;   // in nat_out: as in struct flow; in nat_in: client_heard (handshake.h) of the backend's last packet
};

struct nat6 {
	__be32 saddr[4];
	__be32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u8 flags;
	__u8 pad[3];
	__u32 seen;
	__u32 backend;
	__u32 proof;
};

struct in6 {
	__be32 addr[4];
};

enum max_node_addrs { MAX_NODE_ADDRS = 8 };

// node_addrs are the addresses that other nodes know this one by, of each family; the
// first is what it sends from where nothing says otherwise. 0: there are no more.
struct node_addrs {
	__be32 four[MAX_NODE_ADDRS];
	struct in6 six[MAX_NODE_ADDRS];
};

struct endpoint {
	__u32 ifindex; // of the veth's host end
	__u8 pod_mac[6];
	__u8 host_mac[6];
};

// announcer is this node's right to announce: one row, since one lease covers
// every address (DESIGN §6). A daemon that dies stops pushing it forward.
struct announcer {
	__u64 valid_until; // CLOCK_BOOTTIME, ns
};

struct announced_key {
	__be32 addr;
	__u32 ifindex;
};

struct announced_key6 {
	__be32 addr[4];
	__u32 ifindex;
};

struct announced {
	__u64 generation;
	__u64 claims;     // foreign claims heard
	__u64 claimed_at; // of the last, CLOCK_BOOTTIME, ns
	__u8 mac[6];      // answered with
	__u8 claim_mac[6];
	__u8 muted; // MUTED_*: silent until userspace says otherwise
	__u8 pad[3];
};

// Why an announced address is not answered for.
enum muted {
	MUTED_CLAIMED = 1, // another cluster node claims it
	MUTED_PROBING = 2, // it is not announced yet: userspace asks who has it, and wants to hear of claims
};

struct mac_key {
	__u8 mac[6];
	__u16 pad;
};

// claim is what userspace is told, through claims, of an address heard from another.
struct claim {
	__u64 at; // CLOCK_BOOTTIME, ns
	__be32 addr[4]; // of IPv4 the first word
	__u32 ifindex;
	__u8 mac[6];
	__u8 muted; // a cluster node claims it, and the entry is mute
	__u8 v6;
	__u32 pad;
};

struct count {
	__u64 packets;
	__u64 bytes;
};

// device is an outside device that XDP is attached to. A frame flooded to
// another host's MAC reaches XDP too, and must be left alone.
struct device {
	__u32 ifindex; // 0: no device here
	__u8 mac[6];
	__u16 mtu; // of IP packets
	__u32 carrier; // of a VLAN device whose frames XDP has on the device it is on: that; else 0
	__u16 vlan; // tag of its frames there (host byte order)
	__u16 pad;
};

// vlan_key is what a tagged frame comes in by: the device that has it from the
// wire, and the VLANs of its tags (host byte order; inner 0: there is one tag).
struct vlan_key {
	__u32 device;
	__u16 outer;
	__u16 inner;
};

enum hook {
	HOOK_XDP,
	HOOK_TC_OUTSIDE, // ingress of an outside device
	HOOK_TC_POD,     // what a pod sends: ingress of its veth on the host
	HOOK_TC_TO_POD,  // what a pod gets from the kernel: egress there
	HOOK_MAX,
};

// Room per hook in verdicts, so that a new reason moves no counter.
enum verdict_stride { VERDICT_STRIDE = 64 };

enum max_devices { MAX_DEVICES = 1024 };

// monitor is what people watch now; all zeros when nobody does.
struct monitor {
	__u32 drops; // tell of every dropped packet
	__u32 lost;  // events that found no room, since the maps were made
	__u32 traces; // some frontend may have FRONTEND_TRACED
};

// traced is the frontend that a traced packet is of: its own addresses may have
// been translated.
struct traced {
	__be32 addr[4]; // of IPv4 the first word
	__be16 port;
	__u8 proto; // 0: none
	__u8 v6;
};

// What a CPU answers of its own accord: the one is not to use up the other's quota.
enum quotas {
	QUOTA_REFUSALS, // of what nobody serves
	QUOTA_TOO_BIG,  // without which connections hang
	QUOTAS,
};

// quota is how much a CPU has answered of its own accord, or one neighbour was
// answered, or a CPU has told of claims.
struct quota {
	__u32 window; // eighths of a second, about, of CLOCK_MONOTONIC; of neighbours and claims, ticks (clock.h)
	__u32 sent;   // in it
};

// scratch is room for what the stack has none to spare for. Programs of one CPU
// do not interrupt one another.
struct scratch {
	__be32 addrs[8]; // of a packet that is answered
	__be32 head[16]; // of the answer
	__be32 chunk[64];
	__u64 quoted[20]; // struct quoted
	__u64 translation[15]; // struct translation
	struct traced traced;
};

enum event_head { EVENT_HEAD = 128 };

// event is one packet that was dropped or traced, told through events.
struct event {
	__u64 at; // CLOCK_MONOTONIC, ns
	__u32 ifindex;
	__u32 length; // of the frame as it came in
	__u16 captured; // bytes in head
	__u8 hook;
	__u8 reason;
	__u8 action; // ACT_*
	__u8 pad[3];
	struct traced of; // of a packet that is only dropped: none
	__u8 head[EVENT_HEAD]; // as it is now
};

// detour is a packet that its CPU goes on with in another function (detour.h):
// what struct packet has of it, and what is known besides.
struct detour {
	__be32 addr[4]; // of its pod; of IPv4 the first word
	__u32 l3_at;
	__u32 l4_at;
	__u32 l4_len;
	__be32 fragment_id;
	__u32 fragment_at;
	__u32 next_hop; // of a packet to another node
	__u32 hash;     // of its flow
	__be16 port;    // of its pod
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 tcp_flags;
	__u8 fragment;
	__u8 first;
	__u8 v6;
	__u8 geneve;    // or IP in IP
	__u8 handed_on; // it has had its second chance
	__u8 reason;    // what it is counted as in the end; of a packet refused, why
	__u8 traced;    // VERDICT_TRACED, or 0
	__u32 mtu;      // of the way, for a packet too big for it
};
