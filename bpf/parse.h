// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Parsing: a cursor that never passes the end of the frame, and the checks
// that make headers safe to believe.
#pragma once

#include "addr.h"
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

// What of a packet this is: ports are in the first fragment alone.
enum fragment_part {
	FRAGMENT_NONE, // a whole packet
	FRAGMENT_FIRST,
	FRAGMENT_LATER,
};

// packet is a parsed packet. It lives in registers: it is passed to inlined
// functions only, and hook and v6 are constants there, so what is written for
// both families is compiled for one. Whoever makes the frame longer or shorter
// (adjust_head and its like), or has a helper write to an skb, invalidates all
// its pointers: reload brings them back.
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
	// Of TCP and UDP, where XDP may write it; else NULL. Its own pointer, since the
	// verifiers of older kernels forget that proto says which header is there.
	__sum16 *check;
	__u32 l3_at;  // offset of the IP header in the frame
	__u32 l4_at;  // offset of what is behind it
	__u32 l4_len; // bytes of that, by the IP header's own length
	__be32 fragment_id; // of IP's fragmentation; IPv4's is in the first two bytes
	__u32 fragment_at; // offset of what is cut into fragments: IPv6's may begin with extension headers
	__be16 sport; // 0 for protocols without, and in later fragments
	__be16 dport;
	// Copies: a second look at the packet could find something else, says the verifier.
	__u8 proto; // of what is behind the IP header and IPv6's extension headers
	__u8 first; // of its flow: TCP SYN without ACK, SCTP INIT
	__u8 tcp_flags; // TCP_*; of SCTP those that its first chunk stands for (flags_of_chunk); else 0
	__u8 fragment; // enum fragment_part
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

// Chunks of SCTP (RFC 9260, section 3.2). An INIT is alone in its packet.
enum {
	SCTP_INIT = 1,
	SCTP_INIT_ACK = 2,
	SCTP_ABORT = 6,
	SCTP_SHUTDOWN_COMPLETE = 14,
};

// l3_len is the length of the IP packet, by its own header.
static __always_inline __u32 l3_len(const struct packet *p)
{
	return p->l4_at - p->l3_at + p->l4_len;
}

static __always_inline union addr source_of(const struct packet *p)
{
	return p->v6 ? load_addr(1, &p->ip6->saddr) : load_addr(0, &p->ip->saddr);
}

static __always_inline union addr dest_of(const struct packet *p)
{
	return p->v6 ? load_addr(1, &p->ip6->daddr) : load_addr(0, &p->ip->daddr);
}

// hops_of is the TTL (hop limit).
static __always_inline __u8 hops_of(const struct packet *p)
{
	return p->v6 ? p->ip6->hop_limit : p->ip->ttl;
}

// tuple_of is who speaks to whom in this packet.
static __always_inline struct five_tuple tuple_of(const struct packet *p)
{
	return (struct five_tuple){
		.saddr = source_of(p),
		.daddr = dest_of(p),
		.sport = p->sport,
		.dport = p->dport,
		.proto = p->proto,
	};
}

// parse_ipv4 takes the IPv4 header with its options. It returns REASON_UNSPEC when
// all is well, and otherwise what the kernel would drop the packet for, too.
static __always_inline enum reason parse_ipv4(struct cursor *c, struct packet *p)
{
	struct iphdr *ip = take(c, sizeof(*ip));
	if (!ip)
		return REASON_TRUNCATED;

	__u32 header = ip->ihl * 4;
	__u32 total = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip) || total < header)
		return REASON_BAD_HEADER;
	p->ip = ip;
	p->proto = ip->protocol;
	p->l4 = (void *)ip + header;
	p->l4_at = p->l3_at + header;
	p->l4_len = total - header;
	if (unlikely(ip->frag_off & IP_FRAGMENT)) {
		p->fragment = ip->frag_off & IP_OFFSET_MASK ? FRAGMENT_LATER : FRAGMENT_FIRST;
		p->fragment_id = ip->id;
		p->fragment_at = p->l4_at;
	}
	c->pos = p->l4;
	return REASON_UNSPEC;
}

// How many extension headers a packet may have (RFC 8200, section 4.1, has use for four).
#define MAX_EXTENSIONS 4

static __always_inline int is_extension(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_DSTOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_FRAGMENT;
}

// parse_extensions takes the extension headers, the first of which is p->proto. It
// stops at what is not for us to judge, which then is p->proto: a routing header
// not used up, one header too many, one that is cut off.
static __always_inline void parse_extensions(struct cursor *c, struct packet *p)
{
	for (int i = 0; i < MAX_EXTENSIONS && is_extension(p->proto) && p->fragment != FRAGMENT_LATER; i++) {
		__u32 size = 8;
		__u8 *extension = take(c, size);
		if (!extension)
			break;
		if (p->proto == IPPROTO_FRAGMENT) {
			struct ipv6_fragment *f = (void *)extension;
			// A fragment that is all there is is none (RFC 6946).
			if (f->offset & IP6_OFFSET_MASK)
				p->fragment = FRAGMENT_LATER; // its first one says what comes next
			else if (f->offset & IP6_MORE)
				p->fragment = FRAGMENT_FIRST;
			p->fragment_id = f->id;
			p->fragment_at = p->l4_at + size;
		} else {
			if (p->proto == IPPROTO_HOPOPTS && i) // only the first may be
				break;
			if (p->proto == IPPROTO_ROUTING && extension[3]) // segments left
				break;
			size += extension[1] * 8;
			if (!take(c, size - 8))
				break;
		}
		if (size > p->l4_len)
			break;
		p->proto = extension[0];
		p->l4 = c->pos;
		p->l4_at += size;
		p->l4_len -= size;
	}
	c->pos = p->l4;
}

// parse_ipv6 is parse_ipv4 for IPv6, without extension headers.
static __always_inline enum reason parse_ipv6(struct cursor *c, struct packet *p)
{
	struct ipv6hdr *ip = take(c, sizeof(*ip));
	if (!ip)
		return REASON_TRUNCATED;
	if (ip->version != 6)
		return REASON_BAD_HEADER;
	p->ip6 = ip;
	p->proto = ip->nexthdr;
	p->l4 = ip + 1;
	p->l4_at = p->l3_at + sizeof(*ip);
	p->l4_len = bpf_ntohs(ip->payload_len);
	return REASON_UNSPEC;
}

// parse_fixed is parse_ip without extension headers: the first is p->proto.
static __always_inline enum reason parse_fixed(struct cursor *c, __u32 left, struct packet *p)
{
	enum reason bad = p->v6 ? parse_ipv6(c, p) : parse_ipv4(c, p);

	return bad ?: l3_len(p) > left ? REASON_TRUNCATED : REASON_UNSPEC;
}

// parse_ip takes the headers of an IP packet that may have left bytes.
static __always_inline enum reason parse_ip(struct cursor *c, __u32 left, struct packet *p)
{
	enum reason bad = parse_fixed(c, left, p);

	if (!bad && p->v6 && unlikely(is_extension(p->proto)))
		parse_extensions(c, p);
	return bad;
}

// is_icmp says whether a packet is of its family's ICMP. The other family's has
// no meaning here.
static __always_inline int is_icmp(const struct packet *p)
{
	return p->proto == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

// flags_of_chunk are the TCP flags that say of a connection what a chunk of SCTP, the first
// of its packet, does of an association: INIT and INIT ACK begin one, ABORT and SHUTDOWN
// COMPLETE are the end for both sides (RFC 9260, sections 5.1, 9.1 and 9.2).
static __always_inline __u8 flags_of_chunk(__u8 chunk)
{
	switch (chunk) {
	case SCTP_INIT:
		return TCP_SYN;
	case SCTP_INIT_ACK:
		return TCP_SYN | TCP_ACK;
	case SCTP_ABORT:
	case SCTP_SHUTDOWN_COMPLETE:
		return TCP_RST;
	}
	return 0;
}

// parse_l4 checks the header behind IP's, of a packet that is no later fragment.
static __always_inline enum reason parse_l4(struct cursor *c, struct packet *p)
{
	if (likely(p->proto == IPPROTO_TCP)) {
		if (p->l4_len < sizeof(*p->tcp) || !take(c, sizeof(*p->tcp)))
			return REASON_TRUNCATED;
		__u32 header = p->tcp->doff * 4;
		if (header < sizeof(*p->tcp) || header > p->l4_len)
			return REASON_BAD_HEADER;
		p->tcp_flags = ((__u8 *)p->l4)[13];
		p->check = &p->tcp->check;
		p->first = (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	} else if (p->proto == IPPROTO_UDP) {
		if (p->l4_len < sizeof(*p->udp) || !take(c, sizeof(*p->udp)))
			return REASON_TRUNCATED;
		__u32 length = bpf_ntohs(p->udp->len);
		if (length < sizeof(*p->udp) || (length > p->l4_len && p->fragment == FRAGMENT_NONE))
			return REASON_BAD_HEADER;
		p->check = &p->udp->check;
	} else if (p->proto == IPPROTO_SCTP) {
		// The chunk behind the header says whether an association begins.
		if (p->l4_len < sizeof(*p->sctp) + 4 || !take(c, sizeof(*p->sctp) + 4))
			return REASON_TRUNCATED;
		p->tcp_flags = flags_of_chunk(*(__u8 *)(p->sctp + 1));
		p->first = p->tcp_flags == TCP_SYN;
	} else if (is_icmp(p)) {
		return p->l4_len < sizeof(*p->icmp) || !take(c, sizeof(*p->icmp)) ? REASON_TRUNCATED : REASON_UNSPEC;
	} else {
		return REASON_UNSERVED_PROTO;
	}
	// Ports come first in all of them.
	p->sport = ((__be16 *)p->l4)[0];
	p->dport = ((__be16 *)p->l4)[1];
	return REASON_UNSPEC;
}

// l4_size is how many bytes behind the IP header parse_l4 has seen.
static __always_inline __u32 l4_size(const struct packet *p)
{
	if (p->fragment == FRAGMENT_LATER)
		return 0;
	return p->proto == IPPROTO_TCP ? sizeof(*p->tcp) : sizeof(*p->udp);
}

// KEEP has the compiler hold on to a pointer: computed anew, it would be another
// one for the verifier, and unchecked.
#define KEEP(pointer) asm volatile("" : "+r"(pointer))

// reload brings the pointers of a packet back, from its offsets, with size bytes
// behind the IP header. It returns 0, or -1 when they are no longer there.
static __always_inline int reload(struct packet *p, __u32 size)
{
	struct cursor c = { ctx_data(p->ctx, p->hook), ctx_end(p->ctx, p->hook) };

	p->eth = c.pos;
	if ((void *)(p->eth + 1) > c.end)
		return -1;
	p->l3 = c.pos + (p->l3_at & 0xff);
	KEEP(p->l3);
	if (p->l3 + (p->v6 ? sizeof(*p->ip6) : sizeof(*p->ip)) > c.end)
		return -1;
	p->l4 = c.pos + (p->l4_at & 0x3fff);
	KEEP(p->l4);
	if (p->l4 + size > c.end)
		return -1;
	p->check = NULL;
	if (p->fragment == FRAGMENT_LATER || (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP))
		return 0;
	p->check = p->proto == IPPROTO_TCP ? &p->tcp->check : &p->udp->check;
	return (void *)(p->check + 1) > c.end ? -1 : 0;
}

// forget_pointers makes a copy of a packet one that may be handed to functions
// that the verifier looks at by themselves: they reload it.
static __always_inline void forget_pointers(struct packet *p)
{
	p->ctx = p->eth = p->l3 = p->l4 = NULL;
	p->check = NULL;
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
