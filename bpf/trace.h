// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Packets of a frontend that somebody watches (FRONTEND_TRACED): their verdicts
// say so, and events which frontend it is.
#pragma once

#include "frame.h"
#include "lb.h"

// trace is VERDICT_TRACED, of a packet of a frontend that is traced, or 0.
static __always_inline int trace(int v6, const struct frontend *f, const union addr *addr, __be16 port, __u8 proto)
{
	struct scratch *s;

	if (likely(!(f->flags & FRONTEND_TRACED)) || !(s = own_scratch()))
		return 0;
	store_addr(v6, s->traced.addr, addr);
	s->traced.port = port;
	s->traced.proto = proto;
	s->traced.v6 = v6;
	return VERDICT_TRACED;
}

// trace_answer is trace for what goes back to a client from addr and port: only
// while somebody watches is that frontend looked for.
static __always_inline int trace_answer(int v6, const union addr *addr, __be16 port, __u8 proto)
{
	__u32 zero = 0;
	struct monitor *m = bpf_map_lookup_elem(&monitors, &zero);
	if (likely(!m || !m->traces))
		return 0;

	struct frontend *f = find_frontend(v6, addr, port, proto);
	return f ? trace(v6, f, addr, port, proto) : 0;
}
