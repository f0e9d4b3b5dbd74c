// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Clients' packets to backends on other nodes by translation of both addresses,
// and the answers back by the same way (FRONTEND_SNAT).
#pragma once

#include "encap.h"
#include "pair.h"

// merged says whether the kernel made one packet of several, and will cut it up again.
static __always_inline int merged(const struct packet *p)
{
	return p->hook != HOOK_XDP && AS_SKB(p->ctx)->gso_size;
}

// find_way asks the FIB for the way of a packet like p, which came in where p
// did, from saddr to daddr. It returns a BPF_FIB_LKUP_RET_*.
static __always_inline long find_way(const struct packet *p, struct bpf_fib_lookup *fib, const struct five_tuple *t)
{
	*fib = (struct bpf_fib_lookup){
		.family = p->v6 ? AF_INET6 : AF_INET,
		.l4_protocol = t->proto,
		.sport = t->sport,
		.dport = t->dport,
		.tot_len = p->hook == HOOK_XDP ? l3_len(p) : 0, // the helper for tc knows of merged packets
		.ifindex = ctx_device(p->ctx, p->hook),
	};
	store_addr(p->v6, fib->ipv6_src, &t->saddr);
	store_addr(p->v6, fib->ipv6_dst, &t->daddr);
	return bpf_fib_lookup(p->ctx, fib, sizeof(*fib), 0);
}

// carry translates a packet and sends it out, one hop further: to its next hop,
// if that is resolved, or where the FIB says. It returns a verdict; 0, with the
// packet as it was, in XDP when the next hop's MAC is not known yet: only tc can
// wait for it.
static __always_inline int carry(struct packet *p, const struct translation *n, enum reason reason)
{
	__u32 at = n->next_hop;
	struct next_hop *hop = bpf_map_lookup_elem(&next_hops, &at);
	struct cursor c = { ctx_data(p->ctx, p->hook), ctx_end(p->ctx, p->hook) };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	struct bpf_fib_lookup fib = {};
	long err = 0;

	if (!eth || reload(p, 0))
		return DROP(REASON_TRUNCATED);
	if (hops_of(p) <= 1)
		return DROP(REASON_TTL_EXPIRED);
	if (hop && hop->ifindex) {
		if (hop->mtu && l3_len(p) > hop->mtu && !merged(p))
			return DROP(REASON_TOO_BIG);
		fib.ifindex = hop->ifindex;
		copy_mac(fib.dmac, hop->dmac);
		copy_mac(fib.smac, hop->smac);
	} else {
		err = find_way(p, &fib, &n->to);
		if (err == BPF_FIB_LKUP_RET_FRAG_NEEDED)
			return DROP(REASON_TOO_BIG);
		if (err == BPF_FIB_LKUP_RET_NO_NEIGH && p->hook == HOOK_XDP)
			return 0;
		if (err && err != BPF_FIB_LKUP_RET_NO_NEIGH)
			return DROP(REASON_NO_ROUTE);
	}
	copy_mac(eth->h_dest, fib.dmac);
	copy_mac(eth->h_source, fib.smac);
	decrement_hops(p);
	if (translate(p, n))
		return DROP(REASON_TRUNCATED);
	if (err) {
		struct bpf_redir_neigh gateway = { .nh_family = fib.family };
		__builtin_memcpy(gateway.ipv6_nh, fib.ipv6_dst, sizeof(gateway.ipv6_nh)); // where the FIB has put it
		bpf_redirect_neigh(fib.ifindex, &gateway, sizeof(gateway), 0);
		return REDIRECT(reason);
	}
	if (fib.ifindex == ctx_device(p->ctx, p->hook))
		return TX(reason);
	bpf_redirect(fib.ifindex, 0);
	return REDIRECT(reason);
}

#define CARRY(name, context, by, family)                                   \
	__noinline int name(context *ctx, struct translation *n, __u32 reason) \
	{                                                                      \
		if (!n)                                                        \
			return DROP(REASON_TRUNCATED);                         \
		struct packet p = packet_of(ctx, by, family, n);               \
                                                                               \
		return carry(&p, n, reason);                                   \
	}
CARRY(carry_xdp4, struct xdp_md, HOOK_XDP, 0)
CARRY(carry_xdp6, struct xdp_md, HOOK_XDP, 1)
CARRY(carry_tc4, struct __sk_buff, HOOK_TC_OUTSIDE, 0)
CARRY(carry_tc6, struct __sk_buff, HOOK_TC_OUTSIDE, 1)

static __always_inline int carry_apart(const struct packet *p, struct translation *n, enum reason reason)
{
	if (p->hook == HOOK_XDP)
		return p->v6 ? carry_xdp6(p->ctx, n, reason) : carry_xdp4(p->ctx, n, reason);
	return p->v6 ? carry_tc6(p->ctx, n, reason) : carry_tc4(p->ctx, n, reason);
}

// snat_source finds the address of this node that a backend's packets come from:
// that of its next hop, so that answers come in by the device that they went out
// of. It returns 0, or -1 when there is none.
static __always_inline int snat_source(int v6, __u32 next_hop, union addr *source)
{
	struct next_hop *hop = bpf_map_lookup_elem(&next_hops, &next_hop);

	if (!hop)
		return -1;
	*source = v6 ? load_addr(1, hop->saddr6) : load_addr(0, &hop->saddr);
	if (no_addr(v6, source))
		*source = own_addr(v6);
	return no_addr(v6, source) ? -1 : 0;
}

// snat_known forwards a packet of a flow that is translated already, whatever the
// tables and the mode say now. It returns 0 when there is no such flow.
static __always_inline int snat_known(struct packet *p, const struct five_tuple *t)
{
	struct translation n;

	begin_translation(p, t, &n);
	if (!known_out(p->v6, &n))
		return 0;
	return carry_apart(p, &n, REASON_FORWARD_SNAT) ?: DROP(REASON_NO_ROUTE);
}

// snat_out makes a packet to a frontend with FRONTEND_SNAT the first of a
// translated flow to b, a backend on another node. It returns 0 for one that has
// to go without translation: of SCTP, whose checksum covers the ports, and of a
// flow that is older than the mode (FRONTEND_SWITCHED).
static __always_inline int snat_out(struct packet *p, const struct frontend *f, const struct five_tuple *t, const struct target *b)
{
	struct translation n;

	if (p->proto == IPPROTO_SCTP || (f->flags & FRONTEND_SWITCHED && p->proto == IPPROTO_TCP && !p->first))
		return 0;
	begin_translation(p, t, &n);
	if (snat_source(p->v6, b->next_hop, &n.to.saddr))
		return DROP(REASON_NO_ROUTE);
	n.to.daddr = b->addr;
	n.to.sport = is_nat_port(t->sport) ? t->sport : 0;
	n.to.dport = b->port;
	n.to.proto = t->proto;
	n.backend = b->id;
	enum reason why = open_flow(p->v6, &n);
	if (why)
		return DROP(why);
	return carry_apart(p, &n, REASON_FORWARD_SNAT) ?: DROP(REASON_NO_ROUTE);
}

// snat_back sends a backend's answer, which came to a port of this node, back to
// the client: from the frontend. It returns 0, with the packet as it was, for
// what is no such answer, and in XDP for one that tc behind it has to send on.
static __always_inline int snat_back(struct packet *p, const struct five_tuple *t)
{
	struct translation n;

	begin_translation(p, t, &n);
	return known_in(p->v6, &n, 0) ? carry_apart(p, &n, REASON_REPLY_SNAT) : 0;
}
