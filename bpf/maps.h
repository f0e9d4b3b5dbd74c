// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Every map, and the shape of its keys and values. Userspace has the same
// shapes from BTF (bpf2go) and compares them with the pinned maps at load.
// Addresses and ports are in network byte order everywhere, all else in the
// host's.
#pragma once

#include "bpf.h"
#include "reasons.h"

// LAYOUT_VERSION rises with every change to a shape below. A daemon migrates
// or rebuilds what an older one left pinned, and refuses what a newer one did.
enum layout_version { LAYOUT_VERSION = 1 };

#define MAX_FRONTENDS 65536
#define MAX_SETS      16384
#define MAX_BACKENDS  65536
#define MAX_NEXT_HOPS 4096
#define MAX_ANNOUNCED 16384
#define MAX_ENDPOINTS 4096
#define MAX_CLUSTER_MACS 4096

// frontend_key is addr:port/proto. With port and proto 0 it stands for the
// address itself: it answers ping, and an unserved port of it is dropped.
struct frontend_key {
	__be32 addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct frontend {
	__u32 set;   // index into sets
	__u32 flags; // FRONTEND_*
};

// backend_set is the backends of one service port, shared by its frontends.
// Its two Maglev tables are maglev[2*set] and maglev[2*set+1]: userspace fills
// the spare one and then flips active, so no packet meets a half-made table.
struct backend_set {
	__u32 size[2]; // slots of each table; 0: no backends
	__u32 active;  // which of the two is looked up
	__u32 flags;
};

enum backend_flags {
	BACKEND_LOCAL = 1, // runs on this node
};

struct backend {
	__be32 addr; // of the pod
	__be16 port; // target port
	__u8 flags;  // BACKEND_*
	__u8 pad;
	__u32 next_hop; // index into next_hops; unused when local
};

// next_hop is how this node reaches another: many backends share one, so a
// router that changes its MAC costs one write.
struct next_hop {
	__u32 ifindex; // 0: not resolved, ask the FIB
	__be32 saddr;  // source of the outer header
	__u8 dmac[6];
	__u8 smac[6];
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

enum flow_flags {
	FLOW_REPLIED = 1, // the pod has answered, and not with RST
};

// flow is what the pod's packets are rewritten to come from.
struct flow {
	__be32 vip;
	__be16 port;
	__u8 flags; // FLOW_*
	__u8 pad;
	__u32 seen; // bpf_jiffies64 >> 8, of the last packet
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

struct announced {
	__u64 generation;
	__u64 claims;     // foreign claims heard
	__u64 claimed_at; // of the last, CLOCK_BOOTTIME, ns
	__u8 mac[6];      // answered with
	__u8 claim_mac[6];
	__u8 muted; // another cluster node claims it: silent until userspace says otherwise
	__u8 pad[3];
};

struct mac_key {
	__u8 mac[6];
	__u16 pad;
};

// claim is what userspace is told, through claims, of an address heard from another.
struct claim {
	__u64 at; // CLOCK_BOOTTIME, ns
	__be32 addr;
	__u32 ifindex;
	__u8 mac[6];
	__u8 muted; // the entry was muted for it
	__u8 pad;
};

struct verdict_count {
	__u64 packets;
	__u64 bytes;
};

// device is an outside device that XDP is attached to. A frame flooded to
// another host's MAC reaches XDP too, and must be left alone.
struct device {
	__u32 ifindex; // 0: no device here
	__u8 mac[6];
	__u16 mtu; // of IP packets
};

enum hook {
	HOOK_XDP,
	HOOK_TC_OUTSIDE,
	HOOK_TC_POD,
	HOOK_MAX,
};

// Room per hook in verdicts, so that a new reason moves no counter.
enum verdict_stride { VERDICT_STRIDE = 64 };

enum max_devices { MAX_DEVICES = 1024 };

// Default sizes; the loader may be told others.
#define MAX_FLOWS     262144
#define MAX_HALF_OPEN 65536

// The layout version of all that is pinned.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} layout SEC(".maps");

// Which addresses and ports are balanced, and by which set.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FRONTENDS);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
} frontends SEC(".maps");

// The backend sets, by number.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SETS);
	__type(key, __u32);
	__type(value, struct backend_set);
} sets SEC(".maps");

// A Maglev table: backend id by slot. Each has the size its set says.
struct maglev_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
};

// The Maglev tables, two for each set.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2 * MAX_SETS);
	__type(key, __u32);
	__array(values, struct maglev_table);
} maglev SEC(".maps");

// The backends, by id.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

// The ways to other nodes, by number.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_NEXT_HOPS);
	__type(key, __u32);
	__type(value, struct next_hop);
} next_hops SEC(".maps");

// Which VIP ports a local pod serves, and on which port of its own.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FRONTENDS);
	__type(key, struct local_key);
	__type(value, struct local_target);
} local_targets SEC(".maps");

// Flows to local pods that both sides have spoken in: the way back to the VIP.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

// Flows before that: what a flood of first packets fills, instead of flows.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_HALF_OPEN);
	__type(key, struct flow_key);
	__type(value, struct flow);
} half_open SEC(".maps");

// The pods of this node, by address.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ENDPOINTS);
	__type(key, __be32);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

// The outside devices, by ifindex % MAX_DEVICES: looked up for every packet to a
// VIP, and a hash costs five times as much. Userspace refuses a second device
// in one place.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_DEVICES);
	__type(key, __u32);
	__type(value, struct device);
} devices SEC(".maps");

// This node's right to announce.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct announcer);
} announcer SEC(".maps");

// The addresses this node answers ARP for, each on one device.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ANNOUNCED);
	__type(key, struct announced_key);
	__type(value, struct announced);
} announced SEC(".maps");

// The MACs that other cluster nodes announce with; the value is not read.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CLUSTER_MACS);
	__type(key, struct mac_key);
	__type(value, __u32);
} cluster_macs SEC(".maps");

// Foreign claims to announced addresses, told to userspace.
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} claims SEC(".maps");

// What was done with packets and why: hook * VERDICT_STRIDE + reason.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOOK_MAX * VERDICT_STRIDE);
	__type(key, __u32);
	__type(value, struct verdict_count);
} verdicts SEC(".maps");
