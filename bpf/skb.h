// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Parsing in tc, where a packet's headers may lie outside the linear part.
#pragma once

#include "fragment.h"
#include "parse.h"

#define HEADERS (ETH_HLEN + 60 + 60) // the longest that are looked at

// pull_headers brings headers beyond the linear part, which are rare, into it.
static __always_inline void pull_headers(struct __sk_buff *skb)
{
	if (skb->data_end - skb->data < HEADERS && skb->data_end - skb->data < skb->len)
		bpf_skb_pull_data(skb, skb->len < HEADERS ? skb->len : HEADERS);
}

// begin_skb parses a packet as far as its IP header; p has ctx, hook and v6. It
// returns 0, or -1 when that is not well formed.
static __always_inline int begin_skb(struct __sk_buff *skb, struct cursor *c, struct packet *p)
{
	pull_headers(skb);
	*c = (struct cursor){ ctx_data(skb, p->hook), ctx_end(skb, p->hook) };
	p->eth = take(c, sizeof(*p->eth));
	p->l3_at = ETH_HLEN;
	return !p->eth || parse_ip(c, skb->len - ETH_HLEN, p) ? -1 : 0;
}

// parse_any parses a packet of TCP, UDP, SCTP or ICMP, or a fragment of one. It
// returns 0. -1: it is another, or not well formed, so of no flow that we know.
static __always_inline int parse_any(struct __sk_buff *skb, struct packet *p)
{
	struct cursor c;

	return begin_skb(skb, &c, p) || (unlikely(p->fragment) ? parse_fragment(&c, p) : parse_l4(&c, p)) ? -1 : 0;
}

// parse_ports is parse_any, but that the caller remembers the ports of a first
// fragment, if anybody is to know them.
static __always_inline int parse_ports(struct __sk_buff *skb, struct packet *p)
{
	struct cursor c;

	return begin_skb(skb, &c, p) || (unlikely(p->fragment == FRAGMENT_LATER) ? recall(p) : parse_l4(&c, p)) ? -1 : 0;
}
