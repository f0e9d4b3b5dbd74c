// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Fragments (RFC 791, section 3.2; RFC 8200, section 4.5): only the first has
// the ports. They are remembered, so that the others go where it went. Nothing is
// held back: a later one that overtakes the first is dropped, and the packet lost.
#pragma once

#include "clock.h"
#include "frame.h"
#include "parse.h"

// How long the fragments of a packet are waited for, in ticks: hosts give up
// after 60 seconds (RFC 8200, section 4.5), and an id may come again.
#define FRAGMENT_LIFE 56

union any_fragment_key {
	struct fragment_key v4;
	struct fragment_key6 v6;
	__u64 words[5];
};

_Static_assert(sizeof(struct fragment_key6) == 5 * sizeof(__u64), "fragment_key6 is in words");

static __always_inline void fragment_key_of(const struct packet *p, union any_fragment_key *key)
{
	union addr from = source_of(p), to = dest_of(p);

	if (p->v6) {
		key->words[0] = from.words[0];
		key->words[1] = from.words[1];
		key->words[2] = to.words[0];
		key->words[3] = to.words[1];
		key->words[4] = p->fragment_id;
	} else {
		key->words[0] = (__u64)to.v4 << 32 | from.v4;
		key->words[1] = (__u32)p->proto << 16 | (__u16)p->fragment_id;
	}
}

// port_header is how long the header with the ports is, as far as it is looked at.
static __always_inline __u32 port_header(const struct packet *p)
{
	if (p->proto == IPPROTO_TCP)
		return sizeof(struct tcphdr);
	return p->proto == IPPROTO_SCTP ? sizeof(struct sctphdr) : sizeof(struct udphdr);
}

// remember keeps the ports of a first fragment. That it may fail costs the
// packet, as if the others had overtaken it.
static __always_inline void remember(const struct packet *p)
{
	union any_fragment_key key;
	struct fragment first = {
		.sport = p->sport,
		.dport = p->dport,
		.seen = now(),
		.proto = p->proto,
		.behind = p->l4_at - p->fragment_at + port_header(p),
	};

	fragment_key_of(p, &key);
	bpf_map_update_elem(TABLE(p->v6, fragments), &key, &first, BPF_ANY);
}

// fragment_offset is where in its packet a later fragment begins, in bytes.
static __always_inline __u32 fragment_offset(const struct packet *p)
{
	__be16 offset = 0;

	if (!p->v6)
		return bpf_ntohs(p->ip->frag_off & IP_OFFSET_MASK) * 8;
	load_bytes(p->ctx, p->hook, p->fragment_at - sizeof(struct ipv6_fragment) + offsetof(struct ipv6_fragment, offset), &offset, sizeof(offset));
	return bpf_ntohs(offset & IP6_OFFSET_MASK);
}

// recall gives a later fragment the ports of its first one, and of IPv6 its protocol: a
// later one may say another. What would write over the header that the ports were read
// from is dropped (RFC 1858, sections 3 and 4; RFC 3128).
static __always_inline enum reason recall(struct packet *p)
{
	union any_fragment_key key;

	fragment_key_of(p, &key);
	struct fragment *first = bpf_map_lookup_elem(TABLE(p->v6, fragments), &key);
	if (!first || (__s32)(now() - first->seen) > FRAGMENT_LIFE)
		return REASON_FRAGMENT_ORPHAN;
	if (fragment_offset(p) < first->behind)
		return REASON_FRAGMENT;
	p->sport = first->sport;
	p->dport = first->dport;
	if (p->v6)
		p->proto = first->proto;
	return REASON_UNSPEC;
}

// parse_fragment is parse_l4 for fragments: it finds the ports, too. A ping in pieces
// is dropped.
static __always_inline enum reason parse_fragment(struct cursor *c, struct packet *p)
{
	if (p->fragment == FRAGMENT_FIRST) {
		enum reason bad = is_icmp(p) ? REASON_FRAGMENT : parse_l4(c, p);
		if (!bad)
			remember(p);
		return bad;
	}
	if (!p->l4_len)
		return REASON_BAD_HEADER;
	enum reason bad = recall(p);
	return bad && (is_icmp(p) || fragment_offset(p) < port_header(p)) ? REASON_FRAGMENT : bad;
}

// fragment_verdict is the verdict on a packet, which for a later fragment that
// goes on says so. What was sent on has no pointers: p's fragment alone is looked at.
static __always_inline int fragment_verdict(const struct packet *p, int verdict)
{
	if (likely(p->fragment != FRAGMENT_LATER) || ACTION_OF(verdict) == ACT_DROP || ACTION_OF(verdict) == ACT_DETOUR)
		return verdict;
	return VERDICT(ACTION_OF(verdict), REASON_FRAGMENT_PASSED) | (verdict & VERDICT_TRACED);
}
