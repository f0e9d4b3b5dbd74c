// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Parsing: a cursor that never passes the end of the frame, and the checks
// that make headers safe to believe.
#pragma once

#include "ctx.h"

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

// packet is a parsed packet. It lives in registers: it is passed to inlined
// functions only, and hook and v6 are constants there. Whoever makes the frame
// longer or shorter (adjust_head and its like) invalidates all its pointers.
struct packet {
	void *ctx; // struct xdp_md or struct __sk_buff, as hook says
	struct ethhdr *eth;
	union {
		void *l3;
		struct iphdr *ip;
		struct ipv6hdr *ip6;
	};
	union {
		void *l4;
		struct tcphdr *tcp;
		struct udphdr *udp;
		struct sctphdr *sctp;
		struct icmphdr *icmp; // ICMPv6 begins alike
	};
	__u32 l3_at;  // offset of the IP header in the frame
	__u32 l4_at;  // offset of what is behind it
	__u32 l4_len; // bytes of that, by the IP header's own length
	__be16 sport; // 0 for protocols without
	__be16 dport;
	// Copies: a second look at the packet could find something else, says the verifier.
	__u8 proto; // of what is behind the IP header and IPv6's extension headers
	__u8 tcp_flags; // TCP_*, 0 for other protocols
	__u8 hook;  // enum hook
	__u8 v6;    // 0 or 1
};

// Flags of a TCP header (RFC 9293, section 3.1), in its 14th byte.
enum {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,
};

// l3_len is the length of the IP packet, by its own header.
static __always_inline __u32 l3_len(const struct packet *p)
{
	return p->l4_at - p->l3_at + p->l4_len;
}

// parse_ipv4 takes the IPv4 header with its options. left is how many bytes
// there are from it to the end of the packet. It returns REASON_UNSPEC when all
// is well, and otherwise what the kernel would drop the packet for, too.
static __always_inline enum reason parse_ipv4(struct cursor *c, __u32 left, struct packet *p)
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
	p->l4_at = p->l3_at + header;
	p->l4_len = total - header;
	c->pos = p->l4;
	return REASON_UNSPEC;
}

// parse_l4 checks the header behind IP's, of a packet that is no fragment.
static __always_inline enum reason parse_l4(struct cursor *c, struct packet *p)
{
	switch (p->proto) {
	case IPPROTO_TCP:
		if (p->l4_len < sizeof(*p->tcp) || !take(c, sizeof(*p->tcp)))
			return REASON_TRUNCATED;
		if (p->tcp->doff * 4 < sizeof(*p->tcp) || p->tcp->doff * 4 > p->l4_len)
			return REASON_BAD_HEADER;
		p->tcp_flags = ((__u8 *)p->l4)[13];
		break;
	case IPPROTO_UDP:
		if (p->l4_len < sizeof(*p->udp) || !take(c, sizeof(*p->udp)))
			return REASON_TRUNCATED;
		if (bpf_ntohs(p->udp->len) < sizeof(*p->udp) || bpf_ntohs(p->udp->len) > p->l4_len)
			return REASON_BAD_HEADER;
		break;
	case IPPROTO_SCTP:
		if (p->l4_len < sizeof(*p->sctp) || !take(c, sizeof(*p->sctp)))
			return REASON_TRUNCATED;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (p->l4_len < sizeof(*p->icmp) || !take(c, sizeof(*p->icmp)))
			return REASON_TRUNCATED;
		return REASON_UNSPEC;
	default:
		return REASON_UNSERVED_PROTO;
	}
	// Ports come first in all of them.
	p->sport = ((__be16 *)p->l4)[0];
	p->dport = ((__be16 *)p->l4)[1];
	return REASON_UNSPEC;
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
