// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The MSS option of TCP (RFC 9293, section 3.2), lowered so that what the other
// side sends fits a tunnel.
#pragma once

#include "csum.h"
#include "frame.h"
#include "parse.h"

// The MSS that a pod may offer, so that the client's segments fit an IPv4 packet
// in IP in IP. Other tunnels leave less. 0: as it likes.
volatile const __u16 mss_clamp;

#define TCP_OPTIONS 40 // at most

// mss_search is a walk over the options of a TCP header (RFC 9293, section 3.1).
struct mss_search {
	void *ctx;
	__u32 at; // offset in the frame of the option looked at
	__u32 end;
	__u32 found; // offset of the value of the MSS option; 0: none
};

// next_option is a step of the walk; 1: it is over.
static __always_inline long next_option(struct mss_search *s, enum hook hook)
{
	__u8 option[2]; // kind, length

	if (s->at + sizeof(option) > s->end || load_bytes(s->ctx, hook, s->at, option, sizeof(option)) || option[0] == 0)
		return 1;
	if (option[0] == 1) {
		s->at++;
		return 0;
	}
	if (option[0] == 2 && option[1] == 4 && s->at + 4 <= s->end) {
		s->found = s->at + sizeof(option);
		return 1;
	}
	if (option[1] < 2)
		return 1;
	s->at += option[1];
	return 0;
}

static long next_option_xdp(__u32 index, void *search)
{
	return next_option(search, HOOK_XDP);
}

static long next_option_skb(__u32 index, void *search)
{
	return next_option(search, HOOK_TC_POD);
}

// lower_mss makes the MSS of the TCP header at l4_at, which is header bytes long,
// at most mss, if it has the option.
static __always_inline int lower_mss(void *ctx, enum hook hook, __u32 l4_at, __u32 header, __u32 mss)
{
	__u32 options = l4_at + sizeof(struct tcphdr), check_at = l4_at + offsetof(struct tcphdr, check);
	struct mss_search s = { .ctx = ctx, .at = options, .end = l4_at + header };
	__be16 from, to = bpf_htons(mss), value = to;
	__sum16 check;

	// A loop by bpf_loop, since verifiers of older kernels walk every way through
	// a plain one.
	bpf_loop(TCP_OPTIONS, hook == HOOK_XDP ? (void *)next_option_xdp : (void *)next_option_skb, &s, 0);
	if (!s.found || load_bytes(ctx, hook, s.found, &from, sizeof(from)) || bpf_ntohs(from) <= mss)
		return 0;
	if ((s.found - options) & 1) { // across two words of the checksum
		from = __builtin_bswap16(from);
		to = __builtin_bswap16(to);
	}
	if (hook != HOOK_XDP)
		return bpf_skb_store_bytes(ctx, s.found, &value, sizeof(value), 0) ||
		       bpf_l4_csum_replace(ctx, check_at, from, to, sizeof(to)) ? -1 : 0;
	if (bpf_xdp_load_bytes(ctx, check_at, &check, sizeof(check)))
		return -1;
	csum_replace(&check, from, to);
	return bpf_xdp_store_bytes(ctx, s.found, &value, sizeof(value)) || bpf_xdp_store_bytes(ctx, check_at, &check, sizeof(check)) ? -1 : 0;
}

// Global, so that the verifier looks at each once.
__noinline int lower_mss_xdp(struct xdp_md *ctx, __u32 l4_at, __u32 header, __u32 mss)
{
	return lower_mss(ctx, HOOK_XDP, l4_at, header, mss);
}

__noinline int lower_mss_tc(struct __sk_buff *ctx, __u32 l4_at, __u32 header, __u32 mss)
{
	return lower_mss(ctx, HOOK_TC_POD, l4_at, header, mss);
}

// clamp_mss makes the MSS of a TCP packet at most mss, if it has the option. It
// returns 0, or -1 when it could not.
static __always_inline int clamp_mss(struct packet *p, __u16 mss)
{
	if ((void *)(p->tcp + 1) > ctx_end(p->ctx, p->hook)) // known, but not to the verifier
		return -1;
	__u32 header = p->tcp->doff * 4;
	int failed = p->hook == HOOK_XDP ? lower_mss_xdp(p->ctx, p->l4_at, header, mss) : lower_mss_tc(p->ctx, p->l4_at, header, mss);

	return failed || reload(p, sizeof(struct tcphdr)) ? -1 : 0;
}

// clamp_first is clamp_mss for where nearly every SYN has the option: it is the
// first. It returns 1 when it may be elsewhere.
static __always_inline int clamp_first(struct packet *p, __u16 mss)
{
	struct tcphdr *tcp = p->tcp;
	__be16 *option = (void *)(tcp + 1);

	if ((void *)(tcp + 1) > ctx_end(p->ctx, p->hook) || tcp->doff * 4 == sizeof(*tcp))
		return 0;
	if (p->hook != HOOK_XDP || (void *)(option + 2) > ctx_end(p->ctx, p->hook) || option[0] != bpf_htons(0x0204))
		return 1;
	if (bpf_ntohs(option[1]) > mss) {
		csum_replace(&tcp->check, option[1], bpf_htons(mss));
		option[1] = bpf_htons(mss);
	}
	return 0;
}
