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
static __always_inline __u32 flow_hash(int v6, const struct five_tuple *t)
{
	__u64 h, to;

	if (v6) {
		h = bpf_be64_to_cpu(t->saddr.words[0]) * 0x9e3779b97f4a7c15ULL +
		    bpf_be64_to_cpu(t->saddr.words[1]) * 0xbf58476d1ce4e5b9ULL +
		    bpf_be64_to_cpu(t->daddr.words[0]) * 0x94d049bb133111ebULL +
		    bpf_be64_to_cpu(t->daddr.words[1]) * 0xff51afd7ed558ccdULL;
		to = (__u64)bpf_ntohs(t->sport) << 24 | (__u32)bpf_ntohs(t->dport) << 8 | t->proto;
	} else {
		h = (__u64)bpf_ntohl(t->saddr.v4) << 32 | (__u32)bpf_ntohs(t->sport) << 16 | bpf_ntohs(t->dport);
		h *= 0x9e3779b97f4a7c15ULL;
		to = (__u64)bpf_ntohl(t->daddr.v4) << 8 | t->proto;
	}
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

static __always_inline struct frontend *find_frontend(int v6, const union addr *addr, __be16 port, __u8 proto)
{
	union any_frontend_key key;

	frontend_key_of(v6, &key, addr, port, proto);
	return bpf_map_lookup_elem(TABLE(v6, frontends), &key);
}

// recent_place is where in recent_frontends a key belongs. The last bytes of addresses
// and ports, which tell most frontends apart, are the high ones of these words, and what
// is multiplied moves up only: the highest bits of the hash are those that know of them.
static __always_inline __u32 recent_place(int v6, const union any_frontend_key *key)
{
	__u64 h = key->words[0] * 0x9e3779b97f4a7c15ULL;

	if (v6)
		h += key->words[1] * 0xbf58476d1ce4e5b9ULL + key->words[2] * 0x94d049bb133111ebULL;
	return h >> (64 - RECENT_BITS);
}

// find_and_note is find_frontend that notes the row in recent. The edition is read
// before the row, which the exchange, a barrier, sees to on all CPUs: then a row that
// is older than its edition is never noted.
static __always_inline struct frontend *find_and_note(int v6, union any_frontend_key *key, void *recent, const __u32 *edition)
{
	struct recent_frontend *four = recent;
	struct recent_frontend6 *six = recent;
	__u32 as_of = *(volatile const __u32 *)edition;

	__sync_lock_test_and_set(v6 ? &six->key[2] : &four->key, 0);
	struct frontend *f = bpf_map_lookup_elem(TABLE(v6, frontends), key);
	if (!f)
		return NULL;
	if (v6) {
		six->row = *f;
		six->edition = as_of;
		six->key[0] = key->words[0];
		six->key[1] = key->words[1];
		six->key[2] = key->words[2];
		return &six->row;
	}
	four->row = *f;
	four->edition = as_of;
	four->key = key->words[0];
	return &four->row;
}

// find_recent is find_frontend for the many packets to few frontends.
static __always_inline struct frontend *find_recent(int v6, const union addr *addr, __be16 port, __u8 proto)
{
	union any_frontend_key key;
	__u32 zero = 0;

	frontend_key_of(v6, &key, addr, port, proto);
	__u32 at = recent_place(v6, &key);
	void *recent = bpf_map_lookup_elem(TABLE(v6, recent_frontends), &at);
	__u32 *edition = bpf_map_lookup_elem(&frontends_edition, &zero);
	if (!recent || !edition)
		return NULL;

	struct recent_frontend *four = recent;
	struct recent_frontend6 *six = recent;
	if (v6 && likely(six->key[0] == key.words[0] && six->key[1] == key.words[1] && six->key[2] == key.words[2] && six->edition == *edition))
		return &six->row;
	if (!v6 && likely(four->key == key.words[0] && four->edition == *edition))
		return &four->row;
	return find_and_note(v6, &key, recent, edition);
}

// find_vip returns the row of an address itself (FRONTEND_VIP), or NULL.
static __always_inline struct frontend *find_vip(int v6, const union addr *addr)
{
	return find_frontend(v6, addr, 0, 0);
}

// target is the backend of a packet.
struct target {
	union addr addr;
	__be16 port;
	__u8 flags; // BACKEND_*
	__u32 next_hop;
	__u32 id;
};

// load_target copies a backend's row. It returns 0, or -1 when there is none.
static __always_inline int load_target(int v6, __u32 id, struct target *b)
{
	void *row = bpf_map_lookup_elem(TABLE(v6, backends), &id);
	if (!row)
		return -1;

	b->id = id;
	b->addr = load_addr(v6, row);
	b->port = v6 ? ((struct backend6 *)row)->port : ((struct backend *)row)->port;
	b->flags = v6 ? ((struct backend6 *)row)->flags : ((struct backend *)row)->flags;
	b->next_hop = v6 ? ((struct backend6 *)row)->next_hop : ((struct backend *)row)->next_hop;
	return no_addr(v6, &b->addr) ? -1 : 0;
}

// small_slot returns what a slot of a small table says; -1: there is no such table.
static __always_inline int small_slot(void *tables, __u32 at, __u32 slot)
{
	__u32 zero = 0;
	void *inner = bpf_map_lookup_elem(tables, &at);
	struct small_table *table = inner ? bpf_map_lookup_elem(inner, &zero) : NULL;
	if (!table)
		return -1;

	__u32 in = table->slots[slot];
	return table->backends[in % SMALL_BACKENDS] | (in & SMALL_MOVED ? SLOT_MOVED : 0);
}

static __always_inline int large_slot(__u32 at, __u32 slot)
{
	void *table = bpf_map_lookup_elem(&tables, &at);
	if (!table)
		return -1;

	__u32 word = slot / SLOTS_PER_WORD;
	__u64 *slots = bpf_map_lookup_elem(table, &word);
	if (!slots)
		return -1;
	return *slots >> (slot - word * SLOTS_PER_WORD) * SLOT_BITS & (SLOT_MOVED | SLOT_BACKEND);
}

// slot_of returns what one of a set's tables (0 to 2) says for a hash: enum slot;
// -1: there is no such table.
static __always_inline int slot_of(__u32 set, const struct backend_set *s, __u32 which, __u32 hash)
{
	__u32 size = s->size[which & SET_ACTIVE];
	__u32 at = 4 * set + which;

	switch (size) { // constants, so that the verifier sees that each slot is in its table
	case 0:
		return -1;
	case 251:
		return small_slot(&tables_251, at, maglev_slot(hash, 251));
	case 1021:
		return small_slot(&tables_1021, at, maglev_slot(hash, 1021));
	case 4093:
		return small_slot(&tables_4093, at, maglev_slot(hash, 4093));
	case 10007:
		return small_slot(&tables_10007, at, maglev_slot(hash, 10007));
	}
	return large_slot(at, maglev_slot(hash, size));
}

// choose finds the backend of a flow to a frontend by its slot alone. It returns
// 0, or -1 when there is none.
static __always_inline int choose(int v6, const struct frontend *f, const struct five_tuple *t, struct target *b)
{
	__u32 set = f->set;
	struct backend_set *s = bpf_map_lookup_elem(&sets, &set);
	if (!s)
		return -1;

	__u32 look = *(volatile __u32 *)&s->look;
	int slot = slot_of(set, s, look & SET_ACTIVE, flow_hash(v6, t));
	return slot < 0 ? -1 : load_target(v6, slot & SLOT_BACKEND, b);
}
