// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Counting. Every path of a program ends in finish.
#pragma once

#include "events.h"

// finish counts a verdict and returns what the kernel is to be told.
static __always_inline int finish(void *ctx, enum hook hook, int verdict, __u64 bytes)
{
	__u32 at = hook * VERDICT_STRIDE + REASON_OF(verdict);
	struct count *count = bpf_map_lookup_elem(&verdicts, &at);
	if (likely(count)) {
		count->packets++;
		count->bytes += bytes;
	}
	if (unlikely((verdict & 0xff) == ACT_DROP || verdict & VERDICT_TRACED)) {
		if (hook == HOOK_XDP)
			tell_xdp(ctx, TOLD(hook, verdict, bytes));
		else
			tell_tc(ctx, TOLD(hook, verdict, bytes));
	}
	switch (ACTION_OF(verdict)) {
	case ACT_PASS:
		return hook == HOOK_XDP ? XDP_PASS : TC_ACT_UNSPEC;
	case ACT_TX:
		return hook == HOOK_XDP ? XDP_TX : bpf_redirect(ctx_device(ctx, hook), 0);
	case ACT_REDIRECT:
		return hook == HOOK_XDP ? XDP_REDIRECT : TC_ACT_REDIRECT;
	}
	return hook == HOOK_XDP ? XDP_DROP : TC_ACT_SHOT;
}

// count_forwarded counts what was sent to a service port and to its backend; bytes
// are the IP packet's.
static __always_inline void count_forwarded(__u32 service, __u32 backend, __u32 bytes)
{
	struct count *count = bpf_map_lookup_elem(&service_counts, &service);
	if (likely(count)) {
		count->packets++;
		count->bytes += bytes;
	}
	count = bpf_map_lookup_elem(&backend_counts, &backend);
	if (likely(count)) {
		count->packets++;
		count->bytes += bytes;
	}
}
