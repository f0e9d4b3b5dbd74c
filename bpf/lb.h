// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Choosing: from a packet's destination to the frontend, from its 5-tuple to
// the backend.
#pragma once

#include "maps.h"
#include "parse.h"

static __always_inline __u32 rotate(__u32 x, int by)
{
	return x << by | x >> (32 - by);
}

// flow_hash is Jenkins' lookup3 over three words, as the kernel's jhash_3words:
// client address, VIP, client port << 16 | VIP port, each as a number (host byte
// order), with the protocol as the seed. Every node computes the same.
// datapath/kernel/hash.go is its twin.
static __always_inline __u32 flow_hash(const struct ipv4 *p)
{
	__u32 init = 0xdeadbeef + (3 << 2) + p->proto;
	__u32 a = init + bpf_ntohl(p->ip->saddr);
	__u32 b = init + bpf_ntohl(p->ip->daddr);
	__u32 c = init + ((__u32)bpf_ntohs(p->sport) << 16 | bpf_ntohs(p->dport));

	c ^= b; c -= rotate(b, 14);
	a ^= c; a -= rotate(c, 11);
	b ^= a; b -= rotate(a, 25);
	c ^= b; c -= rotate(b, 16);
	a ^= c; a -= rotate(c, 4);
	b ^= a; b -= rotate(a, 14);
	c ^= b; c -= rotate(b, 24);
	return c;
}

// maglev_slot spreads a hash over a table: hash * size / 2^32, which a
// remainder would cost ten times as much for.
static __always_inline __u32 maglev_slot(__u32 hash, __u32 size)
{
	return (__u64)hash * size >> 32;
}

static __always_inline struct frontend *find_frontend(__be32 addr, __be16 port, __u8 proto)
{
	struct frontend_key key = { .addr = addr, .port = port, .proto = proto };

	return bpf_map_lookup_elem(&frontends, &key);
}

static __always_inline int is_vip(__be32 addr)
{
	return find_frontend(addr, 0, 0) != NULL;
}

// find_backend returns the backend of a packet to a frontend, or NULL when it
// has none.
static __always_inline struct backend *find_backend(const struct frontend *f, const struct ipv4 *p)
{
	__u32 set = f->set;
	struct backend_set *s = bpf_map_lookup_elem(&sets, &set);
	if (!s)
		return NULL;

	__u32 active = *(volatile __u32 *)&s->active & 1;
	__u32 size = active ? s->size[1] : s->size[0];
	__u32 at = 2 * set + active;
	void *table = bpf_map_lookup_elem(&maglev, &at);
	if (!table || !size)
		return NULL;

	__u32 slot = maglev_slot(flow_hash(p), size);
	__u32 *id = bpf_map_lookup_elem(table, &slot);
	if (!id)
		return NULL;
	struct backend *b = bpf_map_lookup_elem(&backends, id);
	return b && b->addr ? b : NULL;
}
