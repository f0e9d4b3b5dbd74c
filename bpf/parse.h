// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Parsing: a cursor that never passes the end of the frame, and the checks
// that make headers safe to believe.
#pragma once

#include "bpf.h"
#include "reasons.h"

struct cursor {
	void *pos;
	void *end;
};

// take returns the next size bytes, or NULL when the frame has fewer.
static __always_inline void *take(struct cursor *c, __u32 size)
{
	void *at = c->pos;

	if (at + size > c->end)
		return NULL;
	c->pos = at + size;
	return at;
}

// ipv4 is a parsed packet. Ports are 0 for protocols without.
struct ipv4 {
	struct iphdr *ip;
	union {
		void *l4;
		struct tcphdr *tcp;
		struct udphdr *udp;
		struct icmphdr *icmp;
	};
	__u32 l4_len; // bytes behind the IP header, by its total length
	__be16 sport;
	__be16 dport;
	// Copies: a second look at the packet could find something else, says the verifier.
	__u8 proto;
	__u8 tcp_flags; // TCP_*, 0 for other protocols
};

// Flags of a TCP header (RFC 9293, section 3.1), in its 14th byte.
enum {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,
};

// parse_ipv4 takes the IPv4 header with its options. left is how many bytes
// there are from it to the end of the packet. It returns REASON_UNSPEC when all
// is well, and otherwise what the kernel would drop the packet for, too.
static __always_inline enum reason parse_ipv4(struct cursor *c, __u32 left, struct ipv4 *p)
{
	struct iphdr *ip = take(c, sizeof(*ip));
	if (!ip)
		return REASON_TRUNCATED;

	__u32 header = ip->ihl * 4;
	__u32 total = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip) || total < header)
		return REASON_BAD_HEADER;
	if (total > left)
		return REASON_TRUNCATED;
	p->ip = ip;
	p->proto = ip->protocol;
	p->l4 = (void *)ip + header;
	p->l4_len = total - header;
	c->pos = p->l4;
	return REASON_UNSPEC;
}

// parse_l4 checks the header behind IP's.
static __always_inline enum reason parse_l4(struct cursor *c, struct ipv4 *p)
{
	if (unlikely(p->ip->frag_off & IP_FRAGMENT))
		return REASON_FRAGMENT;

	switch (p->proto) {
	case IPPROTO_TCP:
		if (p->l4_len < sizeof(*p->tcp) || !take(c, sizeof(*p->tcp)))
			return REASON_TRUNCATED;
		if (p->tcp->doff * 4 < sizeof(*p->tcp) || p->tcp->doff * 4 > p->l4_len)
			return REASON_BAD_HEADER;
		p->tcp_flags = ((__u8 *)p->l4)[13];
		p->sport = p->tcp->source;
		p->dport = p->tcp->dest;
		return REASON_UNSPEC;
	case IPPROTO_UDP:
		if (p->l4_len < sizeof(*p->udp) || !take(c, sizeof(*p->udp)))
			return REASON_TRUNCATED;
		if (bpf_ntohs(p->udp->len) < sizeof(*p->udp) || bpf_ntohs(p->udp->len) > p->l4_len)
			return REASON_BAD_HEADER;
		p->sport = p->udp->source;
		p->dport = p->udp->dest;
		return REASON_UNSPEC;
	case IPPROTO_ICMP:
		if (p->l4_len < sizeof(*p->icmp) || !take(c, sizeof(*p->icmp)))
			return REASON_TRUNCATED;
		return REASON_UNSPEC;
	}
	return REASON_UNSERVED_PROTO;
}

static __always_inline int same_mac(const void *a, const void *b)
{
	return *(__u32 *)a == *(__u32 *)b && ((__u16 *)a)[2] == ((__u16 *)b)[2];
}

static __always_inline void copy_mac(void *to, const void *from)
{
	__u16 *x = to;
	const __u16 *y = from;

	x[0] = y[0];
	x[1] = y[1];
	x[2] = y[2];
}
