// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Address translation, with the checksums kept right by increments: a packet
// that came in broken goes out broken. In tc the helpers do it: they know of
// checksums that are still the device's to finish.
#pragma once

#include "crc32c.h"
#include "csum.h"
#include "parse.h"

enum side { SOURCE, DESTINATION };

// sum_addr is the one's complement sum of an address.
static __always_inline __u64 sum_addr(int v6, const union addr *a)
{
	return v6 ? (__u64)a->v6[0] + a->v6[1] + a->v6[2] + a->v6[3] : a->v4;
}

// rewrite_sctp gives one side of a packet of SCTP, that is no later fragment,
// another port. Its CRC covers the ports, and no address. 0 is one that the kernel or
// the device has yet to fill in: it sums up the field, too, which has to stay 0.
static __always_inline int rewrite_sctp(struct packet *p, enum side side, __be16 port, __u32 crc)
{
	__be16 old = side == SOURCE ? p->sport : p->dport;
	struct sctphdr *sctp = p->sctp;

	if ((void *)(sctp + 1) > ctx_end(p->ctx, p->hook))
		return -1;
	__u32 before = sctp->checksum, after = before ? before ^ crc : 0;
	((__be16 *)sctp)[side] = port;
	sctp->checksum = after;
	if (p->hook != HOOK_XDP)
		bpf_csum_update(p->ctx, csum_fold((__u64)(__u16)~old + port + (__u32)~before + after));
	return 0;
}

// rewrite_xdp is rewrite for XDP; from and to are the old and new address.
static __always_inline int rewrite_xdp(struct packet *p, enum side side, const union addr *from, const union addr *to, __be16 port, __u32 crc)
{
	__u64 before = sum_addr(p->v6, from), after = sum_addr(p->v6, to);

	if (!p->v6)
		csum_replace(&p->ip->check, before, after);
	if (p->v6)
		store_addr(1, side == SOURCE ? (void *)&p->ip6->saddr : &p->ip6->daddr, to);
	else
		store_addr(0, side == SOURCE ? &p->ip->saddr : &p->ip->daddr, to);
	if (!p->check)
		return p->fragment == FRAGMENT_LATER ? 0 : rewrite_sctp(p, side, port, crc);

	before += side == SOURCE ? p->sport : p->dport;
	after += port;
	((__be16 *)p->l4)[side] = port;
	if (p->proto == IPPROTO_TCP || *p->check) { // 0: the sender of UDP left it out (RFC 768)
		csum_replace(p->check, before, after);
		if (p->proto != IPPROTO_TCP && !*p->check)
			*p->check = 0xffff;
	}
	return 0;
}

// rewrite_skb is rewrite for tc.
static __always_inline int rewrite_skb(struct packet *p, enum side side, const union addr *from, const union addr *to, __be16 port, __u32 crc)
{
	struct __sk_buff *skb = p->ctx;
	union addr addr = *to;
	__u32 size = p->v6 ? sizeof(addr.v6) : sizeof(addr.v4);
	__u32 change = (__u16)~csum_fold(sum_addr(p->v6, from));
	__u32 at = p->l3_at;

	change += csum_fold(sum_addr(p->v6, to));
	if (p->v6)
		at += side == SOURCE ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr);
	else
		at += side == SOURCE ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr);
	if (p->fragment != FRAGMENT_LATER && p->proto == IPPROTO_SCTP) {
		if (rewrite_sctp(p, side, port, crc))
			return -1;
	} else if (p->fragment != FRAGMENT_LATER) {
		int tcp = p->proto == IPPROTO_TCP;
		__u32 check = p->l4_at + (tcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
		__u64 flags = tcp ? 0 : BPF_F_MARK_MANGLED_0;
		__be16 old = side == SOURCE ? p->sport : p->dport;

		if (bpf_l4_csum_replace(skb, check, 0, change, BPF_F_PSEUDO_HDR | flags) ||
		    bpf_l4_csum_replace(skb, check, old, port, flags | sizeof(port)) ||
		    bpf_skb_store_bytes(skb, p->l4_at + side * sizeof(port), &port, sizeof(port), 0))
			return -1;
	}
	// The helper takes the address for IPv4's, whose header sums up to nothing.
	if (p->v6)
		bpf_csum_update(skb, change);
	if (!p->v6 && bpf_l3_csum_replace(skb, p->l3_at + offsetof(struct iphdr, check), from->v4, to->v4, sizeof(to->v4)))
		return -1;
	return bpf_skb_store_bytes(skb, at, &addr, size, 0) ? -1 : reload(p, l4_size(p));
}

// rewrite gives one side of a packet another address and port; in a later
// fragment, which has no ports, another address. crc is what that turns of SCTP's
// checksum. It returns 0, or -1 when it cannot be done.
static __always_inline int rewrite(struct packet *p, enum side side, const union addr *to, __be16 port, __u32 crc)
{
	union addr from = side == SOURCE ? source_of(p) : dest_of(p);

	if (p->hook == HOOK_XDP ? rewrite_xdp(p, side, &from, to, port, crc) : rewrite_skb(p, side, &from, to, port, crc))
		return -1;
	if (p->fragment == FRAGMENT_LATER)
		return 0;
	if (side == SOURCE)
		p->sport = port;
	else
		p->dport = port;
	return 0;
}

// crc_change is what turning bits of its ports turns of the checksum of an SCTP packet
// of size bytes; 0 for other protocols, and where no bit is turned.
static __always_inline __u32 crc_change(__u8 proto, __u32 size, __u32 turned)
{
	return unlikely(proto == IPPROTO_SCTP && turned) ? crc32c_change(turned, size) : 0;
}

// set_side is rewrite, which for a first fragment does nothing where crc is to change:
// how much the checksum covers, it does not say.
static __always_inline enum reason set_side(struct packet *p, enum side side, const union addr *addr, __be16 port, __u32 turned)
{
	__u32 crc = crc_change(p->proto, p->l4_len, turned);

	if (unlikely(crc && p->fragment == FRAGMENT_FIRST))
		return REASON_FRAGMENT;
	return rewrite(p, side, addr, port, crc) ? REASON_TRUNCATED : REASON_UNSPEC;
}

// set_source gives a packet another source. It returns REASON_UNSPEC, or what to drop
// the packet for.
static __always_inline enum reason set_source(struct packet *p, const union addr *addr, __be16 port)
{
	return set_side(p, SOURCE, addr, port, p->sport ^ port);
}

static __always_inline enum reason set_dest(struct packet *p, const union addr *addr, __be16 port)
{
	return set_side(p, DESTINATION, addr, port, (__u32)(p->dport ^ port) << 16);
}

// decrement_hops takes one hop off. The caller has seen that there is one.
static __always_inline void decrement_hops(struct packet *p)
{
	if (p->v6) {
		p->ip6->hop_limit--;
		if (p->hook != HOOK_XDP) // no checksum of the header's own makes up for it
			bpf_csum_update(p->ctx, (__u16)~bpf_htons(1));
		return;
	}
	csum_replace(&p->ip->check, bpf_htons((__u16)p->ip->ttl << 8), bpf_htons((__u16)(p->ip->ttl - 1) << 8));
	p->ip->ttl--;
}
