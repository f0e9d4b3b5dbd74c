// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What routers between the nodes say of tunnels: that a packet with its outer
// header was too big. The client is told, in the name of the VIP, as if the tunnel
// were a link (RFC 2003, section 4; RFC 2473, section 8.2). A router that quotes no
// more than 8 bytes says too little for that.
#pragma once

#include "icmp_error.h"
#include "lb.h"
#include "tunnel.h"

// outer_size is how much there is in a quoted packet before the one that it
// carried: it begins with an IP header, of which ip_size bytes were loaded. 0: it
// is not of a tunnel of ours.
static __always_inline __u32 outer_size(void *ctx, enum hook hook, int v6, const struct quoted *q, __u8 proto, __u32 ip_size)
{
	struct {
		struct udphdr udp;
		struct geneve geneve;
	} h;

	if (proto == (v6 ? IPPROTO_IPV6 : IPPROTO_IPIP))
		return ip_size;
	if (proto != IPPROTO_UDP || load_bytes(ctx, hook, q->l3_at + ip_size, &h, sizeof(h)) || h.udp.dest != geneve_port ||
	    h.geneve.protocol != (v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP)))
		return 0;
	return ip_size + sizeof(h) + (h.geneve.options & 0x3f) * 4;
}

// parse_carried finds the packet that a too big one carried: l4_at becomes where it
// begins, and flow its addresses. It returns how long it may have been at most, by
// what the router says, or 0 when nobody can be told that.
static __always_inline __u32 inline_parse_carried(void *ctx, enum hook hook, int v6, struct quoted *q)
{
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} h;
	__u32 size = v6 ? sizeof(h.v6) : sizeof(h.v4), mtu;
	__be32 rest;

	q->l3_at = q->icmp_at + sizeof(struct icmphdr);
	if (load_bytes(ctx, hook, q->icmp_at + offsetof(struct icmphdr, rest), &rest, sizeof(rest)) ||
	    load_bytes(ctx, hook, q->l3_at, &h, size))
		return 0;
	// Our own outer headers have no options and are never fragmented.
	if (v6 ? h.v6.version != 6 : h.v4.version != 4 || h.v4.ihl != 5 || h.v4.frag_off & IP_FRAGMENT)
		return 0;
	__u32 outer = outer_size(ctx, hook, v6, q, v6 ? h.v6.nexthdr : h.v4.protocol, size);
	mtu = v6 ? bpf_ntohl(rest) : bpf_ntohl(rest) & 0xffff;
	q->flow.saddr = v6 ? load_addr(1, &h.v6.saddr) : load_addr(0, &h.v4.saddr);
	if (!same_addr(v6, &q->flow.saddr, &q->old)) // not what this node has sent
		return 0;
	q->l4_at = q->l3_at + outer;
	if (!outer || mtu <= outer || q->l4_at + size + 8 > q->end || load_bytes(ctx, hook, q->l4_at, &h, size))
		return 0;
	// No error is about an error, or a later fragment.
	if (v6 ? h.v6.version != 6 || h.v6.nexthdr == IPPROTO_ICMPV6
	       : h.v4.version != 4 || h.v4.ihl < 5 || h.v4.protocol == IPPROTO_ICMP || h.v4.frag_off & IP_OFFSET_MASK)
		return 0;
	q->flow.saddr = v6 ? load_addr(1, &h.v6.saddr) : load_addr(0, &h.v4.saddr);
	q->flow.daddr = v6 ? load_addr(1, &h.v6.daddr) : load_addr(0, &h.v4.daddr);
	if (!answerable(v6, &q->flow.saddr, &q->flow.daddr))
		return 0;
	mtu -= outer;
	if (v6)
		return mtu < 1280 ? 1280 : mtu;
	return mtu < 68 ? 0 : mtu;
}
OUT_OF_LINE(parse_carried, struct quoted)

// retell turns an error about a packet with its outer header into one about the
// packet: all between its own link header and that goes.
static __always_inline int inline_retell(void *ctx, enum hook hook, int v6, const struct answer *a)
{
	__u32 kept = a->l4_len < most_quoted(v6) ? a->l4_len : most_quoted(v6);
	__u32 l3_at = a->l3_at, gone = a->l4_at - l3_at - error_size(v6);
	__u16 link[LINK_MAX / 2] = {};
	struct scratch *s = own_scratch();

	if (!s || load_addrs(ctx, hook, v6, a->l4_at, s->addrs) || l3_at < ETH_HLEN || l3_at > LINK_MAX ||
	    load_bytes(ctx, hook, 0, link, l3_at))
		return DROP(REASON_TRUNCATED);
	if (hook == HOOK_XDP) {
		if (bpf_xdp_adjust_tail(AS_XDP(ctx), (int)(a->l4_at + kept - bpf_xdp_get_buff_len(AS_XDP(ctx)))) ||
		    bpf_xdp_adjust_head(AS_XDP(ctx), gone) || bpf_xdp_store_bytes(AS_XDP(ctx), 0, link, l3_at))
			return DROP(REASON_TRUNCATED);
	} else if (bpf_skb_change_tail(AS_SKB(ctx), a->l4_at + kept, 0) ||
		   bpf_skb_adjust_room(AS_SKB(ctx), -(int)gone, BPF_ADJ_ROOM_MAC, 0)) {
		return DROP(REASON_TRUNCATED);
	}
	return write_error(ctx, hook, v6, s, a, kept);
}
OUT_OF_LINE(retell, const struct answer)

// error_of_tunnel handles an error to this node. It returns a verdict, or 0 when
// it is not about a packet to a VIP, too big with its outer header.
static __always_inline int error_of_tunnel(struct packet *p, struct quoted *q)
{
	if (icmp_kind(p) != (p->v6 ? ERROR6_TOOBIG : ERROR4_FRAG))
		return 0;
	q->old = dest_of(p);
	__u32 mtu = parse_carried(p->ctx, p->hook, p->v6, q);
	if (!mtu || !find_vip(p->v6, &q->flow.daddr))
		return 0;
	if (!within_quota(QUOTA_TOO_BIG))
		return DROP(REASON_TOO_BIG);

	union addr to = q->flow.saddr;
	struct answer a = {
		.l3_at = p->l3_at,
		.l4_at = q->l4_at,
		.l4_len = q->end - q->l4_at,
		.kind = p->v6 ? ERROR6_TOOBIG : ERROR4_FRAG,
		.rest = bpf_htonl(mtu),
	};
	int verdict = retell(p->ctx, p->hook, p->v6, &a);
	if (ACTION_OF(verdict) == ACT_DROP)
		return verdict;
	p->l4_at = p->l3_at + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	p->l4_len = 0; // the FIB is asked for a way for any length
	return send_error_on(p, &to);
}
