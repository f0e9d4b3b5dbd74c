// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Parsing in tc, where a packet's headers may lie outside the linear part.
#pragma once

#include "parse.h"

#define HEADERS (ETH_HLEN + 60 + 60) // the longest that are looked at

#define IP_OFFSET ETH_HLEN

// parse_skb parses a packet of TCP or UDP over IPv4 and returns its Ethernet
// header. NULL: it is another, or not well formed, so of no flow that we know.
static __always_inline struct ethhdr *parse_skb(struct __sk_buff *skb, struct packet *p)
{
	// Headers beyond the linear part are rare; pull them in.
	if (skb->data_end - skb->data < HEADERS && skb->data_end - skb->data < skb->len)
		bpf_skb_pull_data(skb, skb->len < HEADERS ? skb->len : HEADERS);

	struct cursor c = { (void *)(long)skb->data, (void *)(long)skb->data_end };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	p->l3_at = ETH_HLEN;
	if (!eth || parse_ipv4(&c, skb->len - ETH_HLEN, p) || p->ip->frag_off & IP_FRAGMENT || parse_l4(&c, p) || p->proto == IPPROTO_ICMP)
		return NULL;
	return eth;
}
