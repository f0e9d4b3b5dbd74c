// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Addresses and keys of either family. v6 is a constant wherever these are
// inlined: code is written once and compiled for each. Keys are stored a word of
// 64 bits at a time, since the CPU stalls on a hash that reads in one piece what
// was just stored in several.
#pragma once

#include "maps.h"

// A word of a header or a key, at any address, whatever its type.
typedef __u64 __attribute__((may_alias)) word64;
typedef __u32 __attribute__((may_alias)) word32;

// addr is an address: all of v6, or v4 and nothing of the rest.
union addr {
	__be32 v4;
	__be32 v6[4];
	__u64 words[2];
};

// five_tuple is who speaks to whom. It lives in registers; a key made of it does not.
struct five_tuple {
	union addr saddr;
	union addr daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
};

// reversed is the other direction of a flow.
static __always_inline struct five_tuple reversed(const struct five_tuple *t)
{
	return (struct five_tuple){
		.saddr = t->daddr,
		.daddr = t->saddr,
		.sport = t->dport,
		.dport = t->sport,
		.proto = t->proto,
	};
}

// TABLE is the map of a name for a family.
#define TABLE(v6, name) ((v6) ? (void *)&name##6 : (void *)&name)

static __always_inline union addr load_addr(int v6, const void *from)
{
	union addr a = {};

	if (v6) {
		a.words[0] = ((const word64 *)from)[0];
		a.words[1] = ((const word64 *)from)[1];
	} else {
		a.v4 = *(const word32 *)from;
	}
	return a;
}

static __always_inline void store_addr(int v6, void *to, const union addr *a)
{
	if (v6) {
		((word64 *)to)[0] = a->words[0];
		((word64 *)to)[1] = a->words[1];
	} else {
		*(word32 *)to = a->v4;
	}
}

static __always_inline int same_addr(int v6, const union addr *a, const union addr *b)
{
	return v6 ? a->words[0] == b->words[0] && a->words[1] == b->words[1] : a->v4 == b->v4;
}

// no_addr says whether an address is all zeros.
static __always_inline int no_addr(int v6, const union addr *a)
{
	return v6 ? !(a->words[0] | a->words[1]) : !a->v4;
}

// Keys: the struct of shapes.h for each family, in words. Each function fills the
// member of its family; pads are 0.

union any_frontend_key {
	struct frontend_key v4;
	struct frontend_key6 v6;
	__u64 words[3];
};

static __always_inline void frontend_key_of(int v6, union any_frontend_key *key, const union addr *addr, __be16 port, __u8 proto)
{
	__u32 rest = (__u32)proto << 16 | port;

	if (v6) {
		key->words[0] = addr->words[0];
		key->words[1] = addr->words[1];
		key->words[2] = rest;
	} else {
		key->words[0] = (__u64)rest << 32 | addr->v4;
	}
}

// The keys of two addresses, two ports and a protocol are alike: tuple and
// flow_key (source pod, destination client).
union any_tuple {
	struct tuple v4;
	struct tuple6 v6;
	struct flow_key flow4;
	struct flow_key6 flow6;
	__u64 words[5];
};

_Static_assert(sizeof(struct tuple) == sizeof(struct flow_key), "tuple and flow_key are alike");
_Static_assert(offsetof(struct tuple6, proto) == offsetof(struct flow_key6, proto), "tuple6 and flow_key6 are alike");

static __always_inline void tuple_key(int v6, union any_tuple *key, const union addr *saddr, const union addr *daddr,
				      __be16 sport, __be16 dport, __u8 proto)
{
	__u64 rest = (__u64)proto << 32 | (__u32)dport << 16 | sport;

	if (v6) {
		key->words[0] = saddr->words[0];
		key->words[1] = saddr->words[1];
		key->words[2] = daddr->words[0];
		key->words[3] = daddr->words[1];
		key->words[4] = rest;
	} else {
		key->words[0] = (__u64)daddr->v4 << 32 | saddr->v4;
		key->words[1] = rest;
	}
}

// local_key_of makes a key of local_targets.
union any_local_key {
	struct local_key v4;
	struct local_key6 v6;
	__u64 words[5];
};

static __always_inline void local_key_of(int v6, union any_local_key *key, const union addr *vip, const union addr *pod, __be16 port, __u8 proto)
{
	__u32 rest = (__u32)proto << 16 | port;

	if (v6) {
		key->words[0] = vip->words[0];
		key->words[1] = vip->words[1];
		key->words[2] = pod->words[0];
		key->words[3] = pod->words[1];
		key->words[4] = rest;
	} else {
		key->words[0] = (__u64)pod->v4 << 32 | vip->v4;
		key->words[1] = rest;
	}
}

// announced_key_of makes a key of announced.
union any_announced_key {
	struct announced_key v4;
	struct announced_key6 v6;
	__u64 words[3];
};

static __always_inline void announced_key_of(int v6, union any_announced_key *key, const union addr *addr, __u32 device)
{
	if (v6) {
		key->words[0] = addr->words[0];
		key->words[1] = addr->words[1];
		key->words[2] = device;
	} else {
		key->words[0] = (__u64)device << 32 | addr->v4;
	}
}

static __always_inline struct endpoint *find_endpoint(int v6, const union addr *pod)
{
	union addr key = *pod;

	return bpf_map_lookup_elem(TABLE(v6, endpoints), &key);
}
