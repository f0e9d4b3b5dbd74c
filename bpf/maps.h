// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Every map. What its keys and values look like is in shapes.h.
#pragma once

#include "shapes.h"

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

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FRONTENDS);
	__type(key, struct frontend_key6);
	__type(value, struct frontend);
} frontends6 SEC(".maps");

// The rows that each CPU has found last, by a hash of their keys: most packets find
// theirs here, at a quarter of what a look into frontends costs.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_RECENT);
	__type(key, __u32);
	__type(value, struct recent_frontend);
} recent_frontends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_RECENT);
	__type(key, __u32);
	__type(value, struct recent_frontend6);
} recent_frontends6 SEC(".maps");

// How often frontends or frontends6 have changed. Userspace counts, after each change.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} frontends_edition SEC(".maps");

// The backend sets, by number.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SETS);
	__type(key, __u32);
	__type(value, struct backend_set);
} sets SEC(".maps");

// The small Maglev tables, by 4 * set + which (0 to 2). All in a map are of one size:
// then looking into them is no call, which would cost more than to parse a packet.
#define SMALL_TABLES(size)                                                                             \
	struct small_table_##size {                                                                    \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                      \
		__uint(max_entries, 1);                                                                \
		__uint(key_size, sizeof(__u32));                                                       \
		__uint(value_size, sizeof(struct small_table) + (size));                               \
	};                                                                                             \
	struct {                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                                              \
		__uint(max_entries, 4 * MAX_SETS);                                                     \
		__type(key, __u32);                                                                    \
		__array(values, struct small_table_##size);                                            \
	} tables_##size SEC(".maps")

SMALL_TABLES(251);
SMALL_TABLES(1021);
SMALL_TABLES(4093);
SMALL_TABLES(10007);

// A Maglev table of another size: words of slots, as many as the size needs.
struct maglev_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
};

// The Maglev tables of other sizes, by 4 * set + which.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4 * MAX_SETS);
	__type(key, __u32);
	__array(values, struct maglev_table);
} tables SEC(".maps");

// The backends, by id.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend6);
} backends6 SEC(".maps");

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
	__uint(max_entries, MAX_LOCAL);
	__type(key, struct local_key);
	__type(value, struct local_target);
} local_targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_LOCAL);
	__type(key, struct local_key6);
	__type(value, struct local_target);
} local_targets6 SEC(".maps");

// Flows to local pods that both sides have spoken in: the way back to the VIP.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS6);
	__type(key, struct flow_key6);
	__type(value, struct flow6);
} flows6 SEC(".maps");

// Flows before that: what a flood of first packets fills, instead of flows.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_HALF_OPEN);
	__type(key, struct flow_key);
	__type(value, struct flow);
} half_open SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_HALF_OPEN6);
	__type(key, struct flow_key6);
	__type(value, struct flow6);
} half_open6 SEC(".maps");

// The backends of flows that their slots do not lead to: those of moved slots, and of
// clients with affinity. Bounded; what finds no room goes where no pin is needed.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PINS);
	__type(key, struct tuple);
	__type(value, struct pin);
} pins SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PINS);
	__type(key, struct tuple6);
	__type(value, struct pin);
} pins6 SEC(".maps");

// Which backend a client had last (FRONTEND_AFFINITY).
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_AFFINITY);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinity SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_AFFINITY);
	__type(key, struct affinity_key6);
	__type(value, struct affinity);
} affinity6 SEC(".maps");

// Who may use a service port (FRONTEND_SOURCES); the value is not read.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SOURCES);
	__type(key, struct source_key);
	__type(value, __u32);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SOURCES);
	__type(key, struct source_key6);
	__type(value, __u32);
} sources6 SEC(".maps");

// The ports of packets that came in fragments, for those after the first.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTS);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTS);
	__type(key, struct fragment_key6);
	__type(value, struct fragment);
} fragments6 SEC(".maps");

// Translated flows by what the client sends, and what that becomes.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_NAT);
	__type(key, struct tuple);
	__type(value, struct nat);
} nat_out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_NAT);
	__type(key, struct tuple6);
	__type(value, struct nat6);
} nat_out6 SEC(".maps");

// Translated flows by what the backend answers, and what that becomes.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_NAT);
	__type(key, struct tuple);
	__type(value, struct nat);
} nat_in SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_NAT);
	__type(key, struct tuple6);
	__type(value, struct nat6);
} nat_in6 SEC(".maps");

// When a packet to a service port has last gone on in another way of forwarding than the
// port's present one, or this has changed, in ticks: by its number (FRONTEND_SWITCHED).
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, __u32);
} former_ways SEC(".maps");

// This node's own addresses.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node_addrs);
} own_addrs SEC(".maps");

// The pods of this node, by address.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ENDPOINTS);
	__type(key, __be32);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ENDPOINTS);
	__type(key, struct in6);
	__type(value, struct endpoint);
} endpoints6 SEC(".maps");

// The outside devices, by ifindex % MAX_DEVICES: looked up for every packet to a
// VIP, and a hash costs five times as much. Userspace refuses a second device
// in one place.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_DEVICES);
	__type(key, __u32);
	__type(value, struct device);
} devices SEC(".maps");

// The VLAN devices on outside devices, by what their frames come in by: a device
// with a row in devices. A VLAN that is not here is not ours.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_DEVICES);
	__type(key, struct vlan_key);
	__type(value, __u32);
} vlans SEC(".maps");

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

// The addresses it answers Neighbor Solicitations for.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ANNOUNCED);
	__type(key, struct announced_key6);
	__type(value, struct announced);
} announced6 SEC(".maps");

// What each neighbour was answered. One that is forgotten may ask anew.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_ASKERS);
	__type(key, struct mac_key);
	__type(value, struct quota);
} askers SEC(".maps");

// How many claims each CPU has told of.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct quota);
} claim_quotas SEC(".maps");

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

// Dropped and traced packets, told to userspace while somebody watches.
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} events SEC(".maps");

// What somebody watches.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct monitor);
} monitors SEC(".maps");

// What was sent to each service port, by its number.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, struct count);
} service_counts SEC(".maps");

// What was sent to each backend, by its id.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct count);
} backend_counts SEC(".maps");

// What was done with packets and why: hook * VERDICT_STRIDE + reason.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOOK_MAX * VERDICT_STRIDE);
	__type(key, __u32);
	__type(value, struct count);
} verdicts SEC(".maps");

// What each CPU may still answer: errors and refusals.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, QUOTAS);
	__type(key, __u32);
	__type(value, struct quota);
} quotas SEC(".maps");

// Room, for each CPU.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

// The packet that each CPU has on a detour.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct detour);
} detours SEC(".maps");
