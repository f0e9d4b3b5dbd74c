// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Choosing: from a packet's destination to the frontend, from its 5-tuple to
// the backend.
#pragma once

#include "maps.h"
#include "parse.h"

// flow_hash spreads 5-tuples over 32 bits: two rounds of multiplication, of which
// the high bits are the good ones. All parts are taken as numbers (host byte
// order), so every node computes the same. datapath/kernel/hash.go is its twin.
static __always_inline __u32 flow_hash(const struct packet *p)
{
	__u64 from = (__u64)bpf_ntohl(p->ip->saddr) << 32 | (__u32)bpf_ntohs(p->sport) << 16 | bpf_ntohs(p->dport);
	__u64 to = (__u64)bpf_ntohl(p->ip->daddr) << 8 | p->proto;
	__u64 h = from * 0x9e3779b97f4a7c15ULL;

	h ^= h >> 32;
	h = (h + to) * 0xd6e8feb86659fd93ULL;
	h ^= h >> 32;
	return h * 0xd6e8feb86659fd93ULL >> 32;
}

// maglev_slot spreads a hash over a table: hash * size / 2^32, which a
// remainder would cost ten times as much for.
static __always_inline __u32 maglev_slot(__u32 hash, __u32 size)
{
	return (__u64)hash * size >> 32;
}

static __always_inline struct frontend *find_frontend(__be32 addr, __be16 port, __u8 proto)
{
	// A struct frontend_key (little endian), stored at once: the CPU stalls on
	// a hash that reads in one piece what was just stored in several.
	__u64 key = (__u64)proto << 48 | (__u64)port << 32 | addr;

	_Static_assert(sizeof(key) == sizeof(struct frontend_key), "key is one word");
	return bpf_map_lookup_elem(&frontends, &key);
}

static __always_inline int is_vip(__be32 addr)
{
	return find_frontend(addr, 0, 0) != NULL;
}

// find_backend returns the backend of a packet to a frontend, or NULL when it
// has none.
static __always_inline struct backend *find_backend(const struct frontend *f, const struct packet *p)
{
	__u32 set = f->set;
	struct backend_set *s = bpf_map_lookup_elem(&sets, &set);
	if (!s)
		return NULL;

	__u32 active = *(volatile __u32 *)&s->look & SET_ACTIVE;
	__u32 size = s->size[active];
	__u32 at = 4 * set + active;
	void *table = bpf_map_lookup_elem(&tables, &at);
	if (!table || !size)
		return NULL;

	__u32 slot = maglev_slot(flow_hash(p), size);
	__u32 word = slot / SLOTS_PER_WORD;
	__u64 *slots = bpf_map_lookup_elem(table, &word);
	if (!slots)
		return NULL;
	__u32 id = *slots >> (slot - word * SLOTS_PER_WORD) * SLOT_BITS & SLOT_BACKEND;
	struct backend *b = bpf_map_lookup_elem(&backends, &id);
	return b && b->addr ? b : NULL;
}
