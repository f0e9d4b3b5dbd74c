// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The flows of local pods behind VIPs. A flow starts in half_open and moves to
// flows with the first packet of the client after the pod's answer, so neither
// a flood of SYNs nor one of ACKs evicts an established flow.
#pragma once

#include "clock.h"
#include "maps.h"
#include "parse.h"

static __always_inline struct flow_key flow_key_of(const struct packet *p, __be32 pod, __be16 pod_port)
{
	return (struct flow_key){
		.pod = pod,
		.client = p->ip->saddr,
		.pod_port = pod_port,
		.client_port = p->sport,
		.proto = p->proto,
	};
}

// refresh writes only what changed: the line is shared between CPUs.
static __always_inline void refresh_flow(struct flow *f, const struct packet *p)
{
	__u32 seen = now();

	if (unlikely(f->vip != p->ip->daddr || f->port != p->dport)) {
		f->vip = p->ip->daddr;
		f->port = p->dport;
	}
	if (f->seen != seen)
		f->seen = seen;
}

// track_flow remembers where the answers to a client's packet have to come
// from. It returns 0, or an error when there is no room.
static __always_inline long track_flow(const struct packet *p, __be32 pod, __be16 pod_port)
{
	struct flow_key key = flow_key_of(p, pod, pod_port);
	struct flow *f = bpf_map_lookup_elem(&flows, &key);
	if (likely(f)) {
		refresh_flow(f, p);
		return 0;
	}

	int syn = p->tcp_flags & TCP_SYN;
	f = bpf_map_lookup_elem(&half_open, &key);
	if (f && (syn || !(f->flags & FLOW_REPLIED))) {
		refresh_flow(f, p);
		return 0;
	}

	struct flow fresh = { .vip = p->ip->daddr, .port = p->dport, .seen = now() };
	if (!f)
		return bpf_map_update_elem(&half_open, &key, &fresh, BPF_ANY);
	fresh.flags = FLOW_REPLIED;
	long err = bpf_map_update_elem(&flows, &key, &fresh, BPF_ANY);
	if (!err)
		bpf_map_delete_elem(&half_open, &key);
	return err;
}
