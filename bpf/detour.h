// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Detours: what balancing leaves to functions of their own, one after the other,
// so that each has the stack for itself and the verifier looks at each once. A
// verdict of ACT_DETOUR says which, and detours what packet. take_detours in
// balance.h takes them; REASON_DECAP is out of a tunnel, REASON_POD_DELIVERED into
// the pod, and REASON_ICMP_FORWARDED into it with an error (decap.h),
// REASON_SECOND_CHANCE to the slot's other backend (chance.h),
// REASON_FORWARD_REMOTE into a tunnel and REASON_TOO_BIG back to the sender (encap.h).
// The programs of pods and behind XDP go on so with what they have parsed (tc_pod.c,
// tc_outside.c): all ways through the headers end in one.
#pragma once

#include "frame.h"
#include "parse.h"

// describe notes a packet, and what it is for: a pod, mostly.
static __always_inline void describe(struct detour *d, const struct packet *p, const union addr *addr, __be16 port, enum reason reason)
{
	store_addr(p->v6, d->addr, addr);
	d->l3_at = p->l3_at;
	d->l4_at = p->l4_at;
	d->l4_len = p->l4_len;
	d->fragment_id = p->fragment_id;
	d->fragment_at = p->fragment_at;
	d->port = port;
	d->sport = p->sport;
	d->dport = p->dport;
	d->proto = p->proto;
	d->tcp_flags = p->tcp_flags;
	d->fragment = p->fragment;
	d->first = p->first;
	d->v6 = p->v6;
	d->reason = reason;
}

// own_detour is what this CPU's packet is described in.
static __always_inline struct detour *own_detour(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&detours, &zero);
}

// begin_detour describes a packet in detours; NULL: it cannot.
static __always_inline struct detour *begin_detour(const struct packet *p, const union addr *addr, __be16 port, enum reason reason)
{
	struct detour *d = own_detour();
	if (d)
		describe(d, p, addr, port, reason);
	return d;
}

// on_detour is the packet of a detour. It returns 0, or -1.
static __always_inline int on_detour(void *ctx, enum hook hook, int v6, const struct detour *d, struct packet *p)
{
	*p = (struct packet){
		.ctx = ctx,
		.hook = hook,
		.v6 = v6,
		.l3_at = d->l3_at,
		.l4_at = d->l4_at,
		.l4_len = d->l4_len,
		.fragment_id = d->fragment_id,
		.fragment_at = d->fragment_at,
		.sport = d->sport,
		.dport = d->dport,
		.proto = d->proto,
		.tcp_flags = d->tcp_flags,
		.first = d->first,
		.fragment = d->fragment,
	};
	return reload(p, l4_size(p));
}
