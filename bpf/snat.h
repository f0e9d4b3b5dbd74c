// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Clients' packets to backends on other nodes by translation of both addresses,
// and the answers back by the same way (FRONTEND_SNAT).
#pragma once

#include "counters.h"
#include "encap.h"
#include "icmp.h"
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
// packet as it was, for what only tc can send: XDP cannot wait for a neighbour's
// MAC, nor knows what kind of device another is. What is in n->vlan then is to be
// pushed yet.
static __always_inline int carry(struct packet *p, struct translation *n, enum reason reason)
{
	__u32 at = n->next_hop, device = ctx_device(p->ctx, p->hook);
	struct next_hop *hop = bpf_map_lookup_elem(&next_hops, &at);
	struct cursor c = { ctx_data(p->ctx, p->hook), ctx_end(p->ctx, p->hook) };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	struct bpf_fib_lookup fib = {};
	long err = 0;

	if (!eth || reload(p, 0))
		return DROP(REASON_TRUNCATED);
	if (hops_of(p) <= 1)
		return DROP(REASON_TTL_EXPIRED);
	if (unlikely(is_cut_off(n)))
		return DROP(REASON_FRAGMENT);
	if (hop && hop->ifindex) {
		n->mtu = mtu_of(hop);
		n->vlan = hop->vlan;
		if (n->mtu && l3_len(p) > n->mtu && !merged(p))
			return DROP(REASON_TOO_BIG);
		fib.ifindex = hop->ifindex;
		copy_mac(fib.dmac, hop->dmac);
		copy_mac(fib.smac, hop->smac);
	} else {
		err = find_way(p, &fib, &n->to);
		if (!err)
			by_carrier(p->hook, &fib.ifindex, &n->vlan);
		if (err == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
			n->mtu = fib.mtu_result;
			return DROP(REASON_TOO_BIG);
		}
		if (p->hook == HOOK_XDP && (err == BPF_FIB_LKUP_RET_NO_NEIGH || (!err && fib.ifindex != device && reason == REASON_REPLY_SNAT)))
			return 0;
		if (err && err != BPF_FIB_LKUP_RET_NO_NEIGH)
			return DROP(REASON_NO_ROUTE);
	}
	copy_mac(eth->h_dest, fib.dmac);
	copy_mac(eth->h_source, fib.smac);
	decrement_hops(p);
	if (translate(p, n))
		return DROP(REASON_TRUNCATED);
	if (n->fragment == FRAGMENT_LATER)
		reason = REASON_FRAGMENT_PASSED;
	if (err) {
		struct bpf_redir_neigh gateway = { .nh_family = fib.family };
		__builtin_memcpy(gateway.ipv6_nh, fib.ipv6_dst, sizeof(gateway.ipv6_nh)); // where the FIB has put it
		bpf_redirect_neigh(fib.ifindex, &gateway, sizeof(gateway), 0);
		return REDIRECT(reason);
	}
	if (fib.ifindex == device)
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

// answer_too_big tells who sent a packet what would fit its way.
static __always_inline int inline_answer_too_big(void *ctx, enum hook hook, int v6, struct translation *n)
{
	struct packet p = packet_of(ctx, hook, v6, n);

	return reload(&p, 0) ? DROP(REASON_TOO_BIG) : too_big(&p, n->mtu);
}
OUT_OF_LINE(answer_too_big, struct translation)

// push_tag gives a frame without tags the next hop's VLAN. It returns 0, or -1.
static __always_inline int inline_push_tag(void *ctx, enum hook hook, int v6, struct translation *n)
{
	struct tagged {
		__u8 macs[2 * ETH_ALEN];
		__be16 type, tci;
	} __attribute__((packed)) head = { .type = bpf_htons(ETH_P_8021Q), .tci = bpf_htons(n->vlan) };

	if (hook != HOOK_XDP)
		return bpf_skb_vlan_push(ctx, head.type, n->vlan) ? -1 : 0;
	return load_bytes(ctx, hook, 0, head.macs, sizeof(head.macs)) ||
	       bpf_xdp_adjust_head(ctx, -(int)(sizeof(head) - sizeof(head.macs))) ||
	       store_bytes(ctx, hook, 0, &head, sizeof(head)) ? -1 : 0;
}
OUT_OF_LINE(push_tag, struct translation)

// carry_apart is carry in a function of its own, apart also from what changes the
// frame's length: where it returns 0, the packet's pointers are still good.
static __always_inline int carry_apart(const struct packet *p, struct translation *n, enum reason reason)
{
	int verdict;

	if (p->hook == HOOK_XDP)
		verdict = p->v6 ? carry_xdp6(p->ctx, n, reason) : carry_xdp4(p->ctx, n, reason);
	else
		verdict = p->v6 ? carry_tc6(p->ctx, n, reason) : carry_tc4(p->ctx, n, reason);
	if (unlikely(verdict == DROP(REASON_TOO_BIG)))
		return answer_too_big(p->ctx, p->hook, p->v6, n) ?: DROP(REASON_TOO_BIG);
	if (verdict && unlikely(n->vlan && ACTION_OF(verdict) != ACT_DROP)) {
		if (push_tag(p->ctx, p->hook, p->v6, n))
			return DROP(REASON_NO_HEADROOM);
		// The verifiers of older kernels forget that it is not 0: that is said anew.
		asm volatile("" : "+r"(verdict));
		return verdict ?: DROP(REASON_NO_HEADROOM);
	}
	return verdict;
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

// note_former_way notes that a flow of a frontend goes on in the way it had before.
static __always_inline void note_former_way(const struct frontend *f)
{
	__u32 service = f->service, tick = now();
	__u32 *seen = bpf_map_lookup_elem(&former_ways, &service);

	if (seen && *seen != tick)
		*seen = tick;
}

// snat_known forwards a packet of a flow that is translated already, whatever the
// tables and the mode say now. It returns 0 when there is no such flow.
static __always_inline int snat_known(struct packet *p, const struct frontend *f, const struct five_tuple *t)
{
	__u32 proof = proof_shown(p), stream = client_sends(p); // first, so that their parts need no room on the stack beside the rest
	struct translation *n = begin_translation(p, t);
	if (!n)
		return 0;

	n->proof = proof;
	n->stream = stream;
	if (!known_out(p->v6, n))
		return 0;
	if (!(f->flags & FRONTEND_SNAT))
		note_former_way(f);
	count_forwarded(f->service, n->backend, l3_len(p));
	return carry_apart(p, n, REASON_FORWARD_SNAT) ?: DROP(REASON_NO_ROUTE);
}

// snat_out makes a packet to a frontend with FRONTEND_SNAT the first of a
// translated flow to b, a backend on another node. It returns 0 for one that has
// to go without translation: of a flow that is older than the mode (FRONTEND_SWITCHED).
static __always_inline int snat_out(struct packet *p, const struct frontend *f, const struct five_tuple *t, const struct target *b)
{
	if (f->flags & FRONTEND_SWITCHED && p->proto != IPPROTO_UDP && !p->first) {
		note_former_way(f);
		return 0;
	}

	struct translation *n = begin_translation(p, t);
	if (!n || snat_source(p->v6, b->next_hop, &n->to.saddr))
		return DROP(REASON_NO_ROUTE);
	n->to.daddr = b->addr;
	n->to.sport = is_nat_port(t->sport) ? t->sport : 0;
	n->to.dport = b->port;
	n->to.proto = t->proto;
	n->backend = b->id;
	enum reason why = open_flow(p->v6, n);
	if (why)
		return DROP(why);
	count_forwarded(f->service, n->backend, l3_len(p));
	return carry_apart(p, n, REASON_FORWARD_SNAT) ?: DROP(REASON_NO_ROUTE);
}

// snat_back sends a backend's answer, which came to a port of this node, back to
// the client: from the frontend. It returns 0, with the packet as it was, for
// what is no such answer, and in XDP for one that tc behind it has to send on.
static __always_inline int snat_back(struct packet *p, const struct five_tuple *t)
{
	struct translation *n = begin_translation(p, t);
	if (!n)
		return 0;

	n->proof = proof_asked(p);
	n->stream = client_heard(p);
	return known_in(p->v6, n, 0) ? carry_apart(p, n, REASON_REPLY_SNAT) : 0;
}
