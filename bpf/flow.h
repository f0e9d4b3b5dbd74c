// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The flows of local pods behind VIPs. A flow starts in half_open and moves to
// flows with the first packet of the client after the pod's answer that shows what
// this asked for (handshake.h), so neither a flood of SYNs nor one of ACKs, nor of
// both, evicts an established flow.
#pragma once

#include "clock.h"
#include "handshake.h"
#include "parse.h"

// any_flow is a row of either family's table.
union any_flow {
	struct flow v4;
	struct flow6 v6;
};

// FLOW is a member of a row, of the family that a packet is of.
#define FLOW(p, f, member) (*((p)->v6 ? &(f)->v6.member : &(f)->v4.member))

static __always_inline void *flow_vip(const struct packet *p, union any_flow *f)
{
	return p->v6 ? (void *)f->v6.vip : &f->v4.vip;
}

// inbound_key is the flow of a client's packet to a pod here.
static __always_inline void inbound_key(const struct packet *p, const union addr *pod, __be16 pod_port, union any_tuple *key)
{
	union addr client = source_of(p);

	tuple_key(p->v6, key, pod, &client, pod_port, p->sport, p->proto);
}

// ends_flow says whether a packet is the last, or one of the last, of its flow.
static __always_inline int ends_flow(const struct packet *p)
{
	return p->tcp_flags & (TCP_FIN | TCP_RST);
}

// note_flow notes a packet. It writes only what changed: the line is shared
// between CPUs. by_pod: the pod has sent it.
static __always_inline void note_flow(const struct packet *p, union any_flow *f, int by_pod)
{
	__u8 flags = FLOW(p, f, flags), changed = flags;
	__u32 seen = now();

	if (unlikely(ends_flow(p)))
		changed |= by_pod ? FLOW_CLOSING | FLOW_ENDED : FLOW_CLOSING;
	else if (by_pod && !(flags & FLOW_ENDED))
		changed &= ~FLOW_CLOSING; // the client's end was none to the pod, or half of one
	if (unlikely(changed != flags))
		FLOW(p, f, flags) = changed;
	if (FLOW(p, f, seen) != seen)
		FLOW(p, f, seen) = seen;
}

// has_changed_vip says whether a client's packet is to another frontend than its flow is noted for.
static __always_inline int has_changed_vip(const struct packet *p, union any_flow *f)
{
	union addr vip = dest_of(p), known = load_addr(p->v6, flow_vip(p, f));

	return !same_addr(p->v6, &vip, &known) || FLOW(p, f, port) != p->dport;
}

// establish moves a flow from half_open to flows. Without room there it stays.
static __always_inline void establish(const struct packet *p, union any_tuple *key, union any_flow *f)
{
	if (!bpf_map_update_elem(TABLE(p->v6, flows), key, f, BPF_ANY))
		bpf_map_delete_elem(TABLE(p->v6, half_open), key);
}

// of_known_flow says whether a client's packet is of a flow of that pod, and notes
// the packet. What may begin a flow (UDP has nothing that says) is of another one
// if it is to another frontend, or if this one is over.
static __always_inline int of_known_flow(const struct packet *p, const union addr *pod, __be16 pod_port)
{
	int may_begin = p->first || p->proto == IPPROTO_UDP;
	union any_tuple key;

	inbound_key(p, pod, pod_port, &key);
	union any_flow *f = bpf_map_lookup_elem(TABLE(p->v6, flows), &key);
	if (likely(f)) {
		if (unlikely(may_begin && (p->first ? FLOW(p, f, flags) & FLOW_CLOSING : has_changed_vip(p, f)))) {
			bpf_map_delete_elem(TABLE(p->v6, flows), &key);
			return 0;
		}
		note_flow(p, f, 0);
		return 1;
	}
	f = bpf_map_lookup_elem(TABLE(p->v6, half_open), &key);
	if (!f || (may_begin && (has_changed_vip(p, f) || FLOW(p, f, flags) & FLOW_CLOSING)))
		return 0;
	note_flow(p, f, 0);
	if (FLOW(p, f, flags) & FLOW_REPLIED && goes_on(p->tcp_flags, p->first) && proves(FLOW(p, f, proof), proof_shown(p)))
		establish(p, &key, f);
	return 1;
}

// begin_flow remembers where the answers to a client's packet have to come from.
// It returns 0, or an error when there is no room.
static __always_inline long begin_flow(const struct packet *p, const union addr *pod, __be16 pod_port)
{
	union any_tuple key;
	union any_flow row = {};
	union addr vip = dest_of(p);

	inbound_key(p, pod, pod_port, &key);
	store_addr(p->v6, flow_vip(p, &row), &vip);
	FLOW(p, &row, port) = p->dport;
	FLOW(p, &row, seen) = now();
	return bpf_map_update_elem(TABLE(p->v6, half_open), &key, &row, BPF_ANY);
}

// find_flow returns the flow of what a pod sends to a client, or NULL.
static __always_inline union any_flow *find_flow(int v6, const struct five_tuple *t)
{
	union any_tuple key;

	tuple_key(v6, &key, &t->saddr, &t->daddr, t->sport, t->dport, t->proto);
	return bpf_map_lookup_elem(TABLE(v6, flows), &key) ?: bpf_map_lookup_elem(TABLE(v6, half_open), &key);
}

// of_flow says whether a client's packet, as its pod will see it, is of a VIP's flow.
static __always_inline int of_flow(const struct packet *p)
{
	struct five_tuple t = tuple_of(p), answer = reversed(&t);

	return find_flow(p->v6, &answer) != NULL;
}

// answered_flow returns the flow that a pod's packet answers, or NULL, and notes
// the packet.
static __always_inline union any_flow *answered_flow(const struct packet *p)
{
	union addr pod = source_of(p), client = dest_of(p);
	union any_tuple key;

	tuple_key(p->v6, &key, &pod, &client, p->sport, p->dport, p->proto);
	union any_flow *f = bpf_map_lookup_elem(TABLE(p->v6, flows), &key);
	if (unlikely(!f)) {
		f = bpf_map_lookup_elem(TABLE(p->v6, half_open), &key);
		if (!f)
			return NULL;
		if (!(p->tcp_flags & TCP_RST)) {
			__u32 asked = proof_asked(p);
			// Of TCP only a SYN-ACK asks: what else a pod says to somebody who
			// has shown nothing takes the question not back.
			if (asked || p->proto != IPPROTO_TCP)
				FLOW(p, f, proof) = asked;
			FLOW(p, f, flags) |= FLOW_REPLIED;
		}
	}
	note_flow(p, f, 1);
	return f;
}
