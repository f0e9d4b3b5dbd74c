// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Reaching into a frame by its offsets, and changing its length: for what is
// rare and made of parts that a cursor's checks would be longer than. None of
// these leaves a pointer into the frame valid.
#pragma once

#include "ctx.h"

// OUT_OF_LINE makes functions of their own of an inlined one, for what is rare:
// what it needs of registers and stack is then none of the other paths' concern.
// There is one for each kind of program and family, so that both stay constants.
#define OUT_OF_LINE(name, type)                                                                                \
	static __noinline int name##_xdp(void *ctx, type *arg) { return inline_##name(ctx, HOOK_XDP, 0, arg); }       \
	static __noinline int name##_xdp6(void *ctx, type *arg) { return inline_##name(ctx, HOOK_XDP, 1, arg); }      \
	static __noinline int name##_tc(void *ctx, type *arg) { return inline_##name(ctx, HOOK_TC_OUTSIDE, 0, arg); } \
	static __noinline int name##_tc6(void *ctx, type *arg) { return inline_##name(ctx, HOOK_TC_OUTSIDE, 1, arg); }\
	static __always_inline int name(void *ctx, enum hook hook, int v6, type *arg)                                 \
	{                                                                                                             \
		if (hook == HOOK_XDP)                                                                                 \
			return v6 ? name##_xdp6(ctx, arg) : name##_xdp(ctx, arg);                                     \
		return v6 ? name##_tc6(ctx, arg) : name##_tc(ctx, arg);                                               \
	}

// GLOBAL is OUT_OF_LINE with functions that the verifier looks at once each, and
// not on every way there is to them. It knows nothing of what arg points to: no
// pointer goes there. GLOBAL_TC has none for XDP.
#define GLOBAL_ONE(name, context, by, family, type, as)                                                               \
	__noinline int as(context *ctx, type *arg) { return arg ? inline_##name(ctx, by, family, arg) : DROP(REASON_TRUNCATED); }

#define GLOBAL(name, type)                                                                                            \
	GLOBAL_ONE(name, struct xdp_md, HOOK_XDP, 0, type, name##_xdp)                                                \
	GLOBAL_ONE(name, struct xdp_md, HOOK_XDP, 1, type, name##_xdp6)                                               \
	GLOBAL_ONE(name, struct __sk_buff, HOOK_TC_OUTSIDE, 0, type, name##_tc)                                       \
	GLOBAL_ONE(name, struct __sk_buff, HOOK_TC_OUTSIDE, 1, type, name##_tc6)                                      \
	static __always_inline int name(void *ctx, enum hook hook, int v6, type *arg)                                 \
	{                                                                                                             \
		if (hook == HOOK_XDP)                                                                                 \
			return v6 ? name##_xdp6(ctx, arg) : name##_xdp(ctx, arg);                                     \
		return v6 ? name##_tc6(ctx, arg) : name##_tc(ctx, arg);                                               \
	}

#define GLOBAL_TC(name, by, type)                                                                                     \
	GLOBAL_ONE(name, struct __sk_buff, by, 0, type, name##_tc)                                                    \
	GLOBAL_ONE(name, struct __sk_buff, by, 1, type, name##_tc6)                                                   \
	static __always_inline int name(void *ctx, int v6, type *arg)                                                 \
	{                                                                                                             \
		return v6 ? name##_tc6(ctx, arg) : name##_tc(ctx, arg);                                               \
	}

#define LINK_MAX 22 // Ethernet and two tags: the longest way to an IP header

static __always_inline long load_bytes(void *ctx, enum hook hook, __u32 at, void *to, __u32 size)
{
	return hook == HOOK_XDP ? bpf_xdp_load_bytes(AS_XDP(ctx), at, to, size)
				: bpf_skb_load_bytes(AS_SKB(ctx), at, to, size);
}

// store_bytes writes into the IP packet. What the device summed up follows.
static __always_inline long store_bytes(void *ctx, enum hook hook, __u32 at, void *from, __u32 size)
{
	return hook == HOOK_XDP ? bpf_xdp_store_bytes(AS_XDP(ctx), at, from, size)
				: bpf_skb_store_bytes(AS_SKB(ctx), at, from, size, BPF_F_RECOMPUTE_CSUM);
}

// own_scratch is this CPU's scratch.
static __always_inline struct scratch *own_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratches, &zero);
}

// turn_around sends a frame back where it came from: its link header with the
// MACs exchanged, room for front bytes, and the first kept bytes of the IP packet,
// which begins at l3_at. It returns REASON_UNSPEC, or why it cannot be done.
static __always_inline enum reason turn_around(void *ctx, enum hook hook, __u32 l3_at, __u32 kept, __u32 front)
{
	__u16 link[LINK_MAX / 2] = {};

	if (l3_at < ETH_HLEN || l3_at > LINK_MAX || load_bytes(ctx, hook, 0, link, l3_at))
		return REASON_BAD_HEADER;
	for (int i = 0; i < ETH_ALEN / 2; i++) {
		__u16 word = link[i];
		link[i] = link[ETH_ALEN / 2 + i];
		link[ETH_ALEN / 2 + i] = word;
	}
	if (hook == HOOK_XDP) {
		if (bpf_xdp_adjust_tail(AS_XDP(ctx), (int)(l3_at + kept - bpf_xdp_get_buff_len(AS_XDP(ctx)))))
			return REASON_TRUNCATED;
		if (front && bpf_xdp_adjust_head(AS_XDP(ctx), -(int)front))
			return REASON_NO_HEADROOM;
		return bpf_xdp_store_bytes(AS_XDP(ctx), 0, link, l3_at) ? REASON_TRUNCATED : REASON_UNSPEC;
	}
	if (bpf_skb_change_tail(AS_SKB(ctx), l3_at + kept, 0))
		return REASON_TRUNCATED;
	if (front && bpf_skb_adjust_room(AS_SKB(ctx), front, BPF_ADJ_ROOM_MAC, 0))
		return REASON_NO_HEADROOM;
	return bpf_skb_store_bytes(AS_SKB(ctx), 0, link, l3_at, 0) ? REASON_TRUNCATED : REASON_UNSPEC;
}
