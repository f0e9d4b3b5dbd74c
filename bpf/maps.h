// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Every map, and the shape of its keys and values. Userspace has the same
// shapes from BTF (bpf2go) and compares them with the pinned maps at load.
// Addresses and ports are in network byte order everywhere, all else in the
// host's.
#pragma once

#include "bpf.h"

// LAYOUT_VERSION rises with every change to a shape below. A daemon migrates
// or rebuilds what an older one left pinned, and refuses what a newer one did.
#define LAYOUT_VERSION 1

#define MAX_FRONTENDS 65536
#define MAX_SETS      16384
#define MAX_BACKENDS  65536
#define MAX_NEXT_HOPS 4096
#define MAX_ANNOUNCED 16384
#define MAX_ENDPOINTS 4096

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
