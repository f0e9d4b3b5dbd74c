// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Address translation, with the checksums kept right by increments: a packet
// that came in broken goes out broken.
#pragma once

#include "csum.h"
#include "parse.h"

// dnat sends a packet on to addr:port.
static __always_inline void dnat(struct packet *p, __be32 addr, __be16 port)
{
	__u64 from = p->ip->daddr, to = addr;

	csum_replace(&p->ip->check, from, to);
	p->ip->daddr = addr;
	from += p->dport;
	to += port;
	if (p->proto == IPPROTO_TCP) {
		csum_replace(&p->tcp->check, from, to);
		p->tcp->dest = port;
	} else {
		if (p->udp->check) { // 0: the sender left it out (RFC 768)
			csum_replace(&p->udp->check, from, to);
			if (!p->udp->check)
				p->udp->check = 0xffff;
		}
		p->udp->dest = port;
	}
}

// decrement_ttl takes one hop off. The caller has seen that there is one.
static __always_inline void decrement_ttl(struct iphdr *ip)
{
	csum_replace(&ip->check, bpf_htons((__u16)ip->ttl << 8), bpf_htons((__u16)(ip->ttl - 1) << 8));
	ip->ttl--;
}

// answer_echo turns an ICMP echo request into its reply.
static __always_inline void answer_echo(struct ethhdr *eth, struct packet *p)
{
	__u8 mac[ETH_ALEN];
	__be32 addr = p->ip->daddr;

	copy_mac(mac, eth->h_dest);
	copy_mac(eth->h_dest, eth->h_source);
	copy_mac(eth->h_source, mac);
	p->ip->daddr = p->ip->saddr;
	p->ip->saddr = addr;
	csum_replace(&p->ip->check, bpf_htons((__u16)p->ip->ttl << 8), bpf_htons(64 << 8));
	p->ip->ttl = 64;
	csum_replace(&p->icmp->checksum, bpf_htons(ICMP_ECHO << 8), bpf_htons(ICMP_ECHOREPLY << 8));
	p->icmp->type = ICMP_ECHOREPLY;
}
