// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What a VIP itself says in ICMP (RFC 792) and ICMPv6 (RFC 4443): the reply to a
// ping, and the error to a packet that cannot go on.
#pragma once

#include "csum.h"
#include "frame.h"
#include "parse.h"

// How many errors, and how many refusals, a CPU may send in a second, about: so that a flood
// of packets that nobody serves is not answered with another (RFC 1812, section
// 4.3.2.8; RFC 4443, section 2.4 (f)).
volatile const __u32 answers_per_second = 1000;

#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY   129
#define ICMPV6_ROUTER_SOLICITATION 133
#define ICMPV6_REDIRECT            137

// The types and codes that are sent, as the first two bytes of a message.
#define ERROR4_PORT   0x0303 // destination unreachable: port unreachable
#define ERROR4_FRAG   0x0304 // destination unreachable: fragmentation needed (RFC 1191)
#define ERROR6_PORT   0x0104 // destination unreachable: port unreachable
#define ERROR6_TOOBIG 0x0200 // packet too big

// How long an error may be, so that no link on its way back is too small for it:
// RFC 1812, section 4.3.2.3, and RFC 4443, section 2.4 (c).
#define ERROR4_MAX 576
#define ERROR6_MAX 1280

#define ANSWER_TTL 64
#define NETWORK_CONTROL 0xc0 // the TOS of an error (RFC 1812, section 4.3.2.5)

// within_quota takes one answer out of one of this CPU's quotas (enum quotas), which
// are filled up eight times a second.
static __always_inline int within_quota(__u32 of)
{
	__u32 window = bpf_ktime_get_coarse_ns() >> 27;
	struct quota *q = bpf_map_lookup_elem(&quotas, &of);
	if (!q)
		return 0;
	if (q->window != window) {
		q->window = window;
		q->sent = 0;
	}
	return q->sent++ < answers_per_second / 8;
}

// answerable says whether the sender of a packet can be told of an error: it is
// one machine, and another (RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e)).
static __always_inline int answerable(int v6, const union addr *from, const union addr *to)
{
	__u8 first = *(__u8 *)from;

	if (same_addr(v6, from, to))
		return 0;
	if (v6) // not multicast, :: or ::1
		return first != 0xff && (from->words[0] || from->words[1] & ~bpf_cpu_to_be64(1));
	return first != 0 && first != 127 && first < 224;
}

// may_tell says whether this node may answer a packet with an error or a
// refusal: it is asked for once, since it takes from the quota. No fragment but the
// first is answered.
static __always_inline int may_tell(const struct packet *p, __u32 quota)
{
	union addr from = source_of(p), to = dest_of(p);

	return p->fragment != FRAGMENT_LATER && answerable(p->v6, &from, &to) && within_quota(quota);
}

// sum_bytes sums up length bytes, at most ERROR6_MAX, from an even offset on.
static __always_inline __u32 sum_bytes(void *ctx, enum hook hook, struct scratch *s, __u32 at, __u32 length)
{
	__u32 sum = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < ERROR6_MAX / sizeof(s->chunk) && length; i++) {
		// Verifiers of older kernels learn nothing from "not 0": size is one more
		// than what they know to be not negative, and clang must not see through it.
		__u32 last = length <= sizeof(s->chunk) ? length - 1 : sizeof(s->chunk) - 1;
		last &= sizeof(s->chunk) - 1;
		asm volatile("" : "+r"(last));
		__u32 size = last + 1;

		s->chunk[last / 4] = 0; // what is behind the last byte
		if (load_bytes(ctx, hook, at, s->chunk, size))
			break;
		sum = bpf_csum_diff(NULL, 0, s->chunk, (size + 3) & ~3, sum);
		at += size;
		length -= size;
	}
	return sum;
}

// answer is what a packet is answered with.
struct answer {
	__u32 l3_at;  // of the packet, as in struct packet
	__u32 l4_at;
	__u32 l4_len;
	__u32 kind;   // type and code of an error; of others, why there may be none
	__be32 rest;  // of an error's header
};

static __always_inline struct answer answer_to(const struct packet *p)
{
	return (struct answer){ .l3_at = p->l3_at, .l4_at = p->l4_at, .l4_len = p->l4_len };
}

// load_addrs copies the addresses of the IP header at l3_at, first the source.
static __always_inline long load_addrs(void *ctx, enum hook hook, int v6, __u32 l3_at, __be32 *addrs)
{
	return v6 ? load_bytes(ctx, hook, l3_at + offsetof(struct ipv6hdr, saddr), addrs, 32)
		  : load_bytes(ctx, hook, l3_at + offsetof(struct iphdr, saddr), addrs, 8);
}

// answer_header makes the IP header of the answer to a packet with addrs. It
// returns the sum of its pseudo header.
static __always_inline __u64 answer_header(int v6, struct scratch *s, __u32 length, __u8 proto, __u8 tos)
{
	__be32 *w = s->head, *addrs = s->addrs;
	__u64 sum = bpf_htons(length) + bpf_htons(proto);

	if (v6) {
		struct ipv6hdr *ip = (void *)w;

		w[0] = bpf_htonl(6 << 28 | tos << 20);
		ip->payload_len = bpf_htons(length);
		ip->nexthdr = proto;
		ip->hop_limit = ANSWER_TTL;
		for (int i = 0; i < 4; i++) {
			ip->saddr.in6_u.u6_addr32[i] = addrs[4 + i];
			ip->daddr.in6_u.u6_addr32[i] = addrs[i];
			sum += (__u64)addrs[i] + addrs[4 + i];
		}
		return sum;
	}
	struct iphdr *ip = (void *)w;

	length += sizeof(*ip);
	w[0] = bpf_htonl(0x45000000 | tos << 16 | length);
	w[1] = bpf_htonl(0x4000); // id 0, DF
	w[2] = bpf_htonl(ANSWER_TTL << 24 | proto << 16);
	ip->saddr = addrs[1];
	ip->daddr = addrs[0];
	ip->check = ~csum_fold((__u64)w[0] + w[1] + w[2] + w[3] + w[4]);
	return sum + addrs[0] + addrs[1];
}

// write_error writes the headers of an error before the kept bytes that it quotes,
// where there is room for them, from l3_at on.
static __always_inline int write_error(void *ctx, enum hook hook, int v6, struct scratch *s, const struct answer *a, __u32 kept)
{
	__u32 ip_size = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct icmphdr *icmp = (void *)s->head + ip_size;
	__u64 sum = answer_header(v6, s, sizeof(*icmp) + kept, v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP, NETWORK_CONTROL);

	if (!v6) // whose ICMP sums up no pseudo header
		sum = 0;
	icmp->type = a->kind >> 8;
	icmp->code = a->kind;
	icmp->rest = a->rest;
	sum += (__u64)sum_bytes(ctx, hook, s, a->l3_at + ip_size + sizeof(*icmp), kept) + bpf_htons(a->kind) + a->rest;
	icmp->checksum = ~csum_fold(sum);
	return store_bytes(ctx, hook, a->l3_at, s->head, ip_size + sizeof(*icmp)) ? DROP(REASON_TRUNCATED) : TX(REASON_UNSPEC);
}

// error_size is how long the headers of an error are, and most_quoted how much
// there may be behind them.
static __always_inline __u32 error_size(int v6)
{
	return (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + sizeof(struct icmphdr);
}

static __always_inline __u32 most_quoted(int v6)
{
	return (v6 ? ERROR6_MAX : ERROR4_MAX) - error_size(v6);
}

// send_error makes a packet the error about itself.
static __always_inline int inline_send_error(void *ctx, enum hook hook, int v6, const struct answer *a)
{
	__u32 length = a->l4_at - a->l3_at + a->l4_len;
	__u32 kept = length < most_quoted(v6) ? length : most_quoted(v6);
	struct scratch *s = own_scratch();

	if (!s || load_addrs(ctx, hook, v6, a->l3_at, s->addrs))
		return DROP(REASON_TRUNCATED);
	enum reason bad = turn_around(ctx, hook, a->l3_at, kept, error_size(v6));
	return bad ? DROP(bad) : write_error(ctx, hook, v6, s, a, kept);
}
OUT_OF_LINE(send_error, const struct answer)

// too_big tells the sender of a packet how long one may be, so that it fits the
// tunnel. An IPv4 packet without DF would have to be fragmented (RFC 791), which
// takes a second frame; its sender is told, too, and Linux for one then sends
// smaller ones. A later fragment is dropped: the first has said it. No IPv6 sender
// goes below 1280 (RFC 8200, section 5), nor an IPv4 one below 68, so that what is
// not longer and does not fit is lost: links of tunnels have to be larger.
static __always_inline int too_big(struct packet *p, __u32 mtu)
{
	struct answer a = answer_to(p);

	if (p->v6 && mtu < 1280)
		mtu = 1280;
	if (l3_len(p) <= mtu || mtu < 68 || is_icmp(p) || !may_tell(p, QUOTA_TOO_BIG))
		return DROP(REASON_TOO_BIG);
	a.kind = p->v6 ? ERROR6_TOOBIG : ERROR4_FRAG;
	a.rest = bpf_htonl(mtu); // in IPv4 the low 16 bits alone: no mtu is longer
	int verdict = send_error(p->ctx, p->hook, p->v6, &a);
	return verdict == TX(REASON_UNSPEC) ? TX(REASON_ICMP_TOO_BIG) : verdict;
}

// icmp_kind is the type and code of an ICMP message.
static __always_inline __u32 icmp_kind(const struct packet *p)
{
	__be16 kind = 0;

	load_bytes(p->ctx, p->hook, p->l4_at, &kind, sizeof(kind));
	return bpf_ntohs(kind);
}

// is_neighbour_discovery says whether a packet is of RFC 4861, section 4: how IPv6
// finds its neighbours and routers. Its hop limit says that it is from this link:
// no other is valid, and what is passed on cannot go round for ever.
static __always_inline int is_neighbour_discovery(const struct packet *p)
{
	if (!p->v6 || !is_icmp(p) || hops_of(p) != 255)
		return 0;
	__u8 type = icmp_kind(p) >> 8;
	return type >= ICMPV6_ROUTER_SOLICITATION && type <= ICMPV6_REDIRECT;
}

static __always_inline int is_echo(const struct packet *p)
{
	return is_icmp(p) && icmp_kind(p) == (p->v6 ? ICMPV6_ECHO_REQUEST : ICMP_ECHO) << 8;
}

// answer_echo turns an echo request into its reply. The checksum needs to know of
// the type alone: the addresses change places.
static __always_inline int answer_echo(struct packet *p)
{
	__u8 request = p->v6 ? ICMPV6_ECHO_REQUEST : ICMP_ECHO, reply = p->v6 ? ICMPV6_ECHO_REPLY : ICMP_ECHOREPLY;
	union addr from = source_of(p), to = dest_of(p);
	__u8 mac[ETH_ALEN];

	if ((void *)(p->icmp + 1) > ctx_end(p->ctx, p->hook)) // known, but not to the verifier
		return DROP(REASON_TRUNCATED);
	copy_mac(mac, p->eth->h_dest);
	copy_mac(p->eth->h_dest, p->eth->h_source);
	copy_mac(p->eth->h_source, mac);
	if (p->v6) {
		if (p->hook != HOOK_XDP) // no checksum of the header's own makes up for it
			bpf_csum_update(p->ctx, bpf_htons(ANSWER_TTL) + (__u16)~bpf_htons(p->ip6->hop_limit));
		p->ip6->hop_limit = ANSWER_TTL;
		store_addr(1, &p->ip6->saddr, &to);
		store_addr(1, &p->ip6->daddr, &from);
	} else {
		csum_replace(&p->ip->check, bpf_htons((__u16)p->ip->ttl << 8), bpf_htons(ANSWER_TTL << 8));
		p->ip->ttl = ANSWER_TTL;
		store_addr(0, &p->ip->saddr, &to);
		store_addr(0, &p->ip->daddr, &from);
	}
	csum_replace(&p->icmp->checksum, bpf_htons((__u16)request << 8), bpf_htons((__u16)reply << 8));
	p->icmp->type = reply;
	return TX(REASON_ICMP_ECHO_REPLY);
}
