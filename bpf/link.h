// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// VLAN tags (IEEE 802.1Q): they are taken off before a frame is looked at, and put
// on again if it is passed on or goes back where it came from. So nothing else has
// to know of them, and frames without pay for nothing. XDP finds all of them in the
// frame, tc the first one beside it.
#pragma once

#include "parse.h"

struct vlan_tag {
	__be16 type; // 802.1Q or 802.1ad
	__be16 tci;  // priority and VLAN
};

#define VLAN_ID 0x0fff // mask of a TCI

#define MAX_TAGS 2

// tags are what was taken off a frame, outermost first.
struct tags {
	struct vlan_tag tag[MAX_TAGS];
	__u32 count;
	__u32 device; // that the frame belongs to: a VLAN has one of its own
};

static __always_inline int is_tag(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

// has_tag says whether a frame has a tag, in it or beside it.
static __always_inline int has_tag(void *ctx, enum hook hook, const struct ethhdr *eth)
{
	return is_tag(eth->h_proto) || (hook != HOOK_XDP && AS_SKB(ctx)->vlan_present);
}

// find_vlan returns the device that frames with these tags belong to; 0: none of ours.
static __always_inline __u32 find_vlan(__u32 device, const struct tags *tags)
{
	struct vlan_key key = {
		.device = device,
		.outer = bpf_ntohs(tags->tag[0].tci) & VLAN_ID,
		.inner = bpf_ntohs(tags->tag[1].tci) & VLAN_ID,
	};
	__u32 *found;

	if (!key.outer && !key.inner) // tags for their priority alone
		return device;
	found = bpf_map_lookup_elem(&vlans, &key);
	return found ? *found : 0;
}

// read_tags fills tag and count from a frame with tags. What is behind a third
// tag is none of ours, and neither is a frame that ends in one.
static __always_inline enum reason read_tags(void *ctx, enum hook hook, struct tags *tags)
{
	struct cursor c = { ctx_data(ctx, hook), ctx_end(ctx, hook) };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	if (!eth)
		return REASON_TRUNCATED;

	__be16 type = eth->h_proto;
	__u32 count = 0;
	if (hook != HOOK_XDP && AS_SKB(ctx)->vlan_present) {
		tags->tag[0].type = AS_SKB(ctx)->vlan_proto;
		tags->tag[0].tci = bpf_htons(AS_SKB(ctx)->vlan_tci);
		count = 1;
	}
	for (; is_tag(type) && count < MAX_TAGS; count++) {
		__be16 *tag = take(&c, sizeof(struct vlan_tag));
		if (!tag)
			return REASON_TRUNCATED;
		tags->tag[count].type = type;
		tags->tag[count].tci = tag[0];
		type = tag[1];
	}
	tags->count = count;
	return is_tag(type) ? REASON_NOT_OURS : REASON_UNSPEC;
}

// move_macs makes a frame longer or shorter behind its MACs, by whole tags.
static __always_inline int move_macs(struct xdp_md *ctx, int by)
{
	__u32 macs[3];
	struct cursor c = { ctx_data(ctx, HOOK_XDP), ctx_end(ctx, HOOK_XDP) };
	__u32 *from = take(&c, sizeof(macs));
	if (!from)
		return -1;
	for (int i = 0; i < 3; i++)
		macs[i] = from[i];
	if (bpf_xdp_adjust_head(ctx, by))
		return -1;

	struct cursor d = { ctx_data(ctx, HOOK_XDP), ctx_end(ctx, HOOK_XDP) };
	__u32 *to = take(&d, sizeof(macs) + MAX_TAGS * sizeof(struct vlan_tag));
	if (!to)
		return -1;
	for (int i = 0; i < 3; i++)
		to[i] = macs[i];
	return 0;
}

// take_tags takes the tags off a frame and finds its device. It returns
// REASON_UNSPEC, or why the frame is not to be looked at; it is unchanged then.
static __always_inline enum reason take_tags(void *ctx, enum hook hook, struct tags *tags)
{
	enum reason bad = read_tags(ctx, hook, tags);
	if (bad)
		return bad;
	tags->device = find_vlan(ctx_device(ctx, hook), tags);
	if (!tags->device)
		return REASON_NOT_OURS;
	if (hook == HOOK_XDP)
		return move_macs(ctx, tags->count * sizeof(struct vlan_tag)) ? REASON_TRUNCATED : REASON_UNSPEC;
	for (__u32 i = 0; i < MAX_TAGS && i < tags->count; i++)
		if (bpf_skb_vlan_pop(ctx))
			return REASON_TRUNCATED;
	return REASON_UNSPEC;
}

// put_tags puts the tags back.
static __always_inline enum reason put_tags(void *ctx, enum hook hook, const struct tags *tags)
{
	__u32 count = tags->count;

	if (hook != HOOK_XDP) {
		for (__u32 i = MAX_TAGS; i > 0; i--)
			if (i <= count && bpf_skb_vlan_push(ctx, tags->tag[i - 1].type, bpf_ntohs(tags->tag[i - 1].tci)))
				return REASON_NO_HEADROOM;
		return REASON_UNSPEC;
	}
	if (move_macs(ctx, -(int)(count * sizeof(struct vlan_tag))))
		return REASON_NO_HEADROOM;
	struct cursor c = { ctx_data(ctx, HOOK_XDP), ctx_end(ctx, HOOK_XDP) };
	struct vlan_tag *to = take(&c, 2 * ETH_ALEN + sizeof(tags->tag));
	if (!to)
		return REASON_TRUNCATED;
	to += 2 * ETH_ALEN / sizeof(*to);
	to[0] = tags->tag[0];
	if (count > 1)
		to[1] = tags->tag[1];
	return REASON_UNSPEC;
}

static __noinline enum reason take_tags_xdp(struct xdp_md *ctx, struct tags *tags) { return take_tags(ctx, HOOK_XDP, tags); }
static __noinline enum reason take_tags_tc(struct __sk_buff *skb, struct tags *tags) { return take_tags(skb, HOOK_TC_OUTSIDE, tags); }
static __noinline enum reason put_tags_xdp(struct xdp_md *ctx, const struct tags *tags) { return put_tags(ctx, HOOK_XDP, tags); }
static __noinline enum reason put_tags_tc(struct __sk_buff *skb, const struct tags *tags) { return put_tags(skb, HOOK_TC_OUTSIDE, tags); }

// goes_back says whether a verdict leaves a frame to the kernel or sends it back
// where it came from: with the tags it had. What was sent on has those of its next hop.
static __always_inline int goes_back(int verdict)
{
	switch (REASON_OF(verdict)) {
	case REASON_ARP_REPLY:
	case REASON_ND_REPLY:
	case REASON_ICMP_ECHO_REPLY:
	case REASON_ICMP_TOO_BIG:
	case REASON_REFUSED:
		return 1;
	}
	return ACTION_OF(verdict) == ACT_PASS;
}
