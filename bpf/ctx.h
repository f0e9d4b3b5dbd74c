// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// One view of a packet for XDP and tc. Every function takes the context and
// the hook, a constant once inlined, so the branch is the compiler's.
#pragma once

#include "maps.h"

#define AS_XDP(ctx) ((struct xdp_md *)(ctx))
#define AS_SKB(ctx) ((struct __sk_buff *)(ctx))

// CONTEXT_WORD is a member of the context, read at its offset from the context
// itself: the compiler would make a pointer to the member and keep that, and the
// verifier takes no such pointer.
#define CONTEXT_WORD(ctx, type, member)                                                                           \
	({                                                                                                        \
		void *word;                                                                                       \
		asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(word) : "r"(ctx), "i"(offsetof(type, member)));      \
		word;                                                                                             \
	})

static __always_inline void *ctx_data(void *ctx, enum hook hook)
{
	return hook == HOOK_XDP ? CONTEXT_WORD(ctx, struct xdp_md, data) : CONTEXT_WORD(ctx, struct __sk_buff, data);
}

static __always_inline void *ctx_end(void *ctx, enum hook hook)
{
	return hook == HOOK_XDP ? CONTEXT_WORD(ctx, struct xdp_md, data_end) : CONTEXT_WORD(ctx, struct __sk_buff, data_end);
}

// ctx_device is the ifindex of the device that the packet came in by, or goes out of.
static __always_inline __u32 ctx_device(void *ctx, enum hook hook)
{
	return hook == HOOK_XDP ? AS_XDP(ctx)->ingress_ifindex : AS_SKB(ctx)->ifindex;
}

// frame_len is the length of a frame. In XDP it is that of the first buffer, with
// the headers: to ask for the others costs every packet what few have.
static __always_inline __u64 frame_len(void *ctx, enum hook hook)
{
	return hook == HOOK_XDP ? (__u64)(ctx_end(ctx, hook) - ctx_data(ctx, hook)) : AS_SKB(ctx)->len;
}

// whole_len is the length of a frame with all its buffers.
static __always_inline __u64 whole_len(void *ctx, enum hook hook)
{
	return hook == HOOK_XDP ? bpf_xdp_get_buff_len(ctx) : AS_SKB(ctx)->len;
}

// Verdicts: what to do with a packet and why, in one number, so that every
// path of a program ends in finish, which counts it. ACT_TX sends the frame out
// of the device it came in by; ACT_REDIRECT says that bpf_redirect or one of its
// kind was called. ACT_DETOUR says that there is more to do, in a function of its own (detour.h).
enum action {
	ACT_PASS,
	ACT_DROP,
	ACT_TX,
	ACT_REDIRECT,
	ACT_DETOUR,
};

// VERDICT_TRACED marks the verdict on a packet that somebody watches.
#define VERDICT_TRACED 0x80
#define ACTION_OF(verdict) ((verdict) & 0x7f)
#define REASON_OF(verdict) ((__u32)(verdict) >> 8)

_Static_assert(VERDICT_TRACED == FRONTEND_TRACED, "the frontend's flag is the verdict's");

#define VERDICT(action, reason) ((int)((reason) << 8 | (action)))
#define PASS(reason)     VERDICT(ACT_PASS, reason)
#define DROP(reason)     VERDICT(ACT_DROP, reason)
#define TX(reason)       VERDICT(ACT_TX, reason)
#define REDIRECT(reason) VERDICT(ACT_REDIRECT, reason)
