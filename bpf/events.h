// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Telling userspace of packets that were dropped or that somebody traces. None
// of it is on the way of a packet that is neither.
#pragma once

#include "frame.h"

// TOLD is what the functions below are told of a packet, in one number, since
// registers are few where they are called.
#define TOLD(hook, verdict, length) ((__u64)(__u32)(length) << 32 | (__u32)(hook) << 16 | (__u16)(verdict))

static __always_inline void tell(void *ctx, enum hook hook, __u64 told)
{
	__u32 at = 0;
	struct monitor *m = bpf_map_lookup_elem(&monitors, &at);

	if (!m || (!m->drops && !(told & VERDICT_TRACED)))
		return;
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&m->lost, 1);
		return;
	}
	__u32 captured = hook == HOOK_XDP ? bpf_xdp_get_buff_len(ctx) : AS_SKB(ctx)->len;
	if (captured > EVENT_HEAD)
		captured = EVENT_HEAD;
	// A mask in place of a comparison, which tells the verifiers of older kernels
	// nothing: no frame is empty.
	__u32 last = captured - 1;
	asm volatile("" : "+r"(last));
	captured = (last & (EVENT_HEAD - 1)) + 1;
	if (hook == HOOK_XDP ? bpf_xdp_load_bytes(ctx, 0, e->head, captured)
			     : bpf_skb_load_bytes(ctx, 0, e->head, captured))
		captured = 0;
	e->at = bpf_ktime_get_ns();
	e->ifindex = ctx_device(ctx, hook);
	e->length = told >> 32;
	e->captured = captured;
	e->hook = told >> 16;
	e->reason = told >> 8;
	e->action = ACTION_OF(told);
	struct scratch *s = own_scratch();
	e->of = s && told & VERDICT_TRACED ? s->traced : (struct traced){};
	bpf_ringbuf_submit(e, 0);
}

// One for each kind of context. Every path of a program ends at finish: global, so
// that the verifier looks at each once.
__noinline int tell_xdp(struct xdp_md *ctx, __u64 told)
{
	tell(ctx, HOOK_XDP, told);
	return 0;
}

__noinline int tell_tc(struct __sk_buff *ctx, __u64 told)
{
	tell(ctx, HOOK_TC_OUTSIDE, told);
	return 0;
}
