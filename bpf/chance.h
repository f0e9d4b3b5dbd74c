// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Into a pod of this node, or, for a packet of a flow that the pod does not know,
// on to the other backend of its slot: a flow that slept through changes of the
// slot finds its pod again. Nobody hands on what was handed on.
#pragma once

#include "detour.h"
#include "encap.h"
#include "flow.h"
#include "lb.h"
#include "nat.h"

// Whether packets are handed on at all.
volatile const __u8 second_chance = 1;

// other_backend finds who else the flow of a packet may belong to: the backend of
// its slot, or, if that is this pod, the one before the last change. It returns
// 0, or -1 when there is none.
static __always_inline int other_backend(const struct packet *p, const union addr *pod, const struct frontend *f, __u32 hash, struct target *b)
{
	__u32 set = f->set;
	struct backend_set *s = bpf_map_lookup_elem(&sets, &set);
	if (!s)
		return -1;

	__u32 look = *(volatile __u32 *)&s->look;
	int slot = slot_of(set, s, look & SET_ACTIVE, hash);
	if (slot >= 0 && !load_target(p->v6, slot & SLOT_BACKEND, b) && !same_addr(p->v6, &b->addr, pod))
		return 0;
	slot = slot_of(set, s, (look & SET_PREVIOUS) >> SET_PREVIOUS_SHIFT, hash);
	if (slot >= 0 && !load_target(p->v6, slot & SLOT_BACKEND, b) && !same_addr(p->v6, &b->addr, pod))
		return 0;
	return -1;
}

// admit lets a client's packet into a pod of this node.
static __always_inline int admit(struct packet *p, const union addr *pod, __be16 port, int known, enum reason reason)
{
	if (!known && begin_flow(p, pod, port))
		return DROP(REASON_FLOW_TABLE);
	enum reason bad = set_dest(p, pod, port);
	return bad ? DROP(bad) : PASS(reason);
}

// hand_on is where a packet goes that the pod it was sent to does not know: to
// the other backend of its slot, or, when there is none, into the pod, which
// answers it as such packets deserve.
static __always_inline int inline_hand_on(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);

	union addr pod = load_addr(v6, d->addr);
	struct five_tuple t = tuple_of(&p);
	struct frontend *f = find_frontend(v6, &t.daddr, t.dport, t.proto);
	__u32 hash = flow_hash(v6, &t);
	struct target other = {};

	if (!f || other_backend(&p, &pod, f, hash, &other))
		return admit(&p, &pod, d->port, 0, d->reason);
	if (other.flags & BACKEND_LOCAL)
		return admit(&p, &other.addr, other.port, of_known_flow(&p, &other.addr, other.port), REASON_SECOND_CHANCE);
	// Whatever becomes of the mark on the way, nothing goes round for ever.
	if (hops_of(&p) <= 1)
		return DROP(REASON_TTL_EXPIRED);
	decrement_hops(&p);
	struct errand e = {
		.pod = other.addr,
		.next_hop = other.next_hop,
		.hash = hash,
		.geneve = !!(f->flags & FRONTEND_GENEVE),
		.handed_on = 1,
		.reason = REASON_SECOND_CHANCE,
	};
	return send_to_node(&p, &e);
}
GLOBAL(hand_on, struct detour)

// leave_for_chance puts a packet on the detour to hand_on.
static __always_inline int leave_for_chance(const struct packet *p, const union addr *pod, __be16 port, enum reason reason)
{
	return begin_detour(p, pod, port, reason) ? VERDICT(ACT_DETOUR, REASON_SECOND_CHANCE) : DROP(REASON_NO_ROUTE);
}

// send_to_pod sends a client's packet to a pod of this node. handed_on: it has
// had its second chance.
static __always_inline int send_to_pod(struct packet *p, const union addr *pod, __be16 port, int handed_on, enum reason reason)
{
	if (p->fragment == FRAGMENT_LATER) // its flow is its first one's, and is known by now
		return admit(p, pod, port, 1, REASON_FRAGMENT_PASSED);
	int known = of_known_flow(p, pod, port);
	if (unlikely(!known && !p->first && !p->fragment && p->proto != IPPROTO_UDP && !handed_on && second_chance))
		return leave_for_chance(p, pod, port, reason);
	return admit(p, pod, port, known, reason);
}
