// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// ARP (RFC 826) for announced addresses: answered while this node's lease is
// valid, and listened to for others that claim them (RFC 5227).
#pragma once

#include "announced.h"

struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 op;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

static __always_inline void answer_arp(struct ethhdr *eth, struct arp_ipv4 *arp, const struct announced *a)
{
	__be32 addr = arp->target;

	copy_mac(eth->h_dest, arp->sender_mac);
	copy_mac(eth->h_source, a->mac);
	arp->op = bpf_htons(ARPOP_REPLY);
	copy_mac(arp->target_mac, arp->sender_mac);
	arp->target = arp->sender;
	copy_mac(arp->sender_mac, a->mac);
	arp->sender = addr;
}

// handle_arp handles an ARP packet of a frame of a device. A probe (RFC 5227,
// section 2.1.1) has no sender's address: it claims nothing yet, and is answered
// as any request.
static __always_inline int handle_arp(void *ctx, enum hook hook, __u32 device)
{
	struct cursor c = { ctx_data(ctx, hook), ctx_end(ctx, hook) };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	struct arp_ipv4 *arp = eth ? take(&c, sizeof(*arp)) : NULL;
	if (!arp)
		return DROP(REASON_TRUNCATED);
	if (arp->hardware != bpf_htons(ARPHRD_ETHER) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_len != ETH_ALEN || arp->protocol_len != sizeof(arp->target))
		return PASS(REASON_NOT_OURS);

	union addr sender = { .v4 = arp->sender }, target = { .v4 = arp->target };
	struct announced *a = find_announced(0, &sender, device);
	if (a) {
		if (same_mac(arp->sender_mac, a->mac))
			return PASS(REASON_NOT_OURS); // our own, come back
		note_claim(0, a, &sender, arp->sender_mac, 0, device);
		return PASS(REASON_ARP_CLAIM);
	}
	if (arp->op != bpf_htons(ARPOP_REQUEST))
		return PASS(REASON_NOT_OURS);
	a = find_announced(0, &target, device);
	// A request to one MAC asks that machine alone, also when the switch floods it.
	if (!a || !(eth->h_dest[0] & 1 || same_mac(eth->h_dest, a->mac)))
		return PASS(REASON_NOT_OURS);
	if (arp->sender_mac[0] & 1) // the answer would go to many
		return PASS(REASON_NOT_OURS);

	int refusal = refuse_to_answer(0, a, arp->sender_mac);
	if (refusal)
		return refusal;
	answer_arp(eth, arp, a);
	return TX(REASON_ARP_REPLY);
}

// Not inlined: the stack that this needs is none of the other packets' concern.
__noinline int handle_arp_xdp(struct xdp_md *ctx, __u32 device) { return handle_arp(ctx, HOOK_XDP, device); }
__noinline int handle_arp_tc(struct __sk_buff *ctx, __u32 device) { return handle_arp(ctx, HOOK_TC_OUTSIDE, device); }
