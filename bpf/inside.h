// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Services as the pods of this node use them. The destination is translated
// where a packet leaves the pod and the source of the answers where they enter
// it, so that the kernel, with its routing and netfilter, sees both halves of a
// connection from pod to pod. Who may use a Service from outside
// (FRONTEND_SOURCES) does not apply here.
#pragma once

#include "counters.h"
#include "fragment.h"
#include "pair.h"
#include "pins.h"
#include "refuse.h"
#include "trace.h"

// What a pod that reaches itself through a Service sees as the other end: it
// would take its own address for a forgery. No host has these.
volatile const __be32 hairpin_addr = bpf_htonl(0xa9fe4d01); // 169.254.77.1
volatile const struct in6 hairpin_addr6 = { { bpf_htonl(0xfd5eaa4d), bpf_htonl(0x4b770000), 0, bpf_htonl(1) } }; // fd5e:aa4d:4b77::1

static __always_inline union addr hairpin(int v6)
{
	union addr a = {};

	if (v6) {
		a.v6[0] = hairpin_addr6.addr[0];
		a.v6[1] = hairpin_addr6.addr[1];
		a.v6[2] = hairpin_addr6.addr[2];
		a.v6[3] = hairpin_addr6.addr[3];
	} else {
		a.v4 = hairpin_addr;
	}
	return a;
}

#define TRANSLATE(name, family)                                          \
	__noinline int name(struct __sk_buff *skb, struct translation *n)     \
	{                                                                     \
		if (!n)                                                       \
			return -1;                                            \
		struct packet p = packet_of(skb, HOOK_TC_POD, family, n);     \
                                                                              \
		return translate(&p, n);                                      \
	}
TRANSLATE(translate_skb4, 0)
TRANSLATE(translate_skb6, 1)

// pass_on translates a packet and leaves it to the kernel.
static __always_inline int pass_on(const struct packet *p, struct translation *n)
{
	if (unlikely(is_cut_off(n)))
		return DROP(REASON_FRAGMENT);
	if (p->v6 ? translate_skb6(p->ctx, n) : translate_skb4(p->ctx, n))
		return DROP(REASON_TRUNCATED);
	return fragment_verdict(p, PASS(REASON_SERVICE_LOCAL));
}

// turn_back translates a pod's packet and sends it into the pod again.
static __always_inline int turn_back(struct packet *p, struct translation *n)
{
	__u8 pod[ETH_ALEN];

	if (hops_of(p) <= 1)
		return DROP(REASON_TTL_EXPIRED);
	if (unlikely(is_cut_off(n)))
		return DROP(REASON_FRAGMENT);
	copy_mac(pod, p->eth->h_source);
	copy_mac(p->eth->h_source, p->eth->h_dest);
	copy_mac(p->eth->h_dest, pod);
	decrement_hops(p);
	if (p->v6 ? translate_skb6(p->ctx, n) : translate_skb4(p->ctx, n))
		return DROP(REASON_TRUNCATED);
	bpf_redirect_peer(ctx_device(p->ctx, p->hook), 0);
	return fragment_verdict(p, REDIRECT(REASON_SERVICE_LOCAL));
}

// begin_inside makes a pod's packet the first of a flow to one of the backends
// that f has for pods here.
static __always_inline enum reason begin_inside(const struct packet *p, const struct frontend *f, struct translation *n)
{
	struct frontend here = *f;
	struct target b = {};

	here.set = f->inside;
	if (f->flags & FRONTEND_AFFINITY) {
		if (choose_backend(p->v6, &here, &n->from, flow_hash(p->v6, &n->from), AGE_FIRST | AGE_PAIRED, p->tcp_flags, &b) == REASON_NO_BACKEND)
			return REASON_NO_BACKEND;
	} else if (choose(p->v6, &here, &n->from, &b)) { // the pair is what a pin would be
		return REASON_NO_BACKEND;
	}
	// The pod's own port, unless the backend could not tell two flows apart.
	n->to.sport = n->from.sport;
	n->to.saddr = same_addr(p->v6, &b.addr, &n->from.saddr) ? hairpin(p->v6) : n->from.saddr;
	n->to.daddr = b.addr;
	n->to.dport = b.port;
	n->to.proto = n->from.proto;
	n->backend = b.id;
	n->flags = NAT_INSIDE;
	return open_flow(p->v6, n);
}

// cannot_serve is the verdict on a pod's packet to an address of ours that is not
// served for a reason; row is the frontend's, or the address's own.
static __always_inline int cannot_serve(struct packet *p, const struct frontend *row, enum reason why)
{
	return row->flags & FRONTEND_REFUSE ? refuse(p, why) : DROP(why);
}

// known_answer says whether a packet is a backend's answer to a pod of this node,
// and what it becomes. The fragments behind a first one have no ports of their own.
static __always_inline int known_answer(const struct packet *p, struct translation *n)
{
	if (!n)
		return 0;
	n->proof = proof_asked(p);
	n->stream = client_heard(p);
	if (!known_in(p->v6, n, NAT_INSIDE))
		return 0;
	if (unlikely(p->fragment == FRAGMENT_FIRST))
		remember(p);
	return 1;
}

// inside handles what a pod sends to a Service, and what it answers to itself.
// It returns 0, with the packet as it was, for all others.
static __always_inline int inside(struct packet *p)
{
	struct five_tuple t = tuple_of(p);
	union addr self = hairpin(p->v6);

	if (unlikely(same_addr(p->v6, &t.daddr, &self))) {
		struct translation *back = begin_translation(p, &t);
		return known_answer(p, back) ? turn_back(p, back) | trace_translated(p->v6) : 0;
	}
	struct frontend *f = find_frontend(p->v6, &t.daddr, t.dport, t.proto);
	if (!f) {
		f = find_vip(p->v6, &t.daddr);
		return f ? cannot_serve(p, f, REASON_UNSERVED_PORT) : 0;
	}
	int traced = trace(p->v6, f, &t.daddr, t.dport, t.proto);
	if (unlikely(p->fragment == FRAGMENT_FIRST))
		remember(p);
	struct translation *n = begin_translation(p, &t);
	if (!n)
		return 0;
	n->proof = proof_shown(p);
	n->stream = client_sends(p);
	if (!known_out(p->v6, n)) {
		enum reason why = begin_inside(p, f, n);
		if (why)
			return (why == REASON_NO_BACKEND ? cannot_serve(p, f, why) : DROP(why)) | traced;
	}
	count_forwarded(f->service, n->backend, l3_len(p));
	int verdict = same_addr(p->v6, &n->to.saddr, &t.saddr) ? pass_on(p, n) : turn_back(p, n);
	return verdict | traced;
}

// from_service gives what came from a backend for a pod of this node the address
// of the Service again. It returns 0, with the packet as it was, for all others.
static __always_inline int from_service(struct packet *p)
{
	struct five_tuple t = tuple_of(p);
	struct translation *n = begin_translation(p, &t);

	return known_answer(p, n) ? pass_on(p, n) | trace_translated(p->v6) : 0;
}
