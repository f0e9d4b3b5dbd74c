// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// ARP (RFC 826) for announced addresses: answered while this node's lease is
// valid, and listened to for others that claim them (RFC 5227).
#pragma once

#include "parse.h"

// Claims of one address by one machine are told at most this often.
#define CLAIM_INTERVAL 100000000ULL // ns

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

static __always_inline struct announced *find_announced(__be32 addr, __u32 ifindex)
{
	struct announced_key key = { .addr = addr, .ifindex = ifindex };

	return bpf_map_lookup_elem(&announced, &key);
}

// note_claim records that another machine says it has our address. A cluster
// node silences us at once: it was given the address later than we were, or
// userspace will find out that it was not.
static __always_inline void note_claim(struct announced *a, const struct arp_ipv4 *arp, __u32 ifindex)
{
	struct mac_key key = {};
	__u64 now = bpf_ktime_get_boot_ns();

	copy_mac(key.mac, arp->sender_mac);
	int muting = !a->muted && bpf_map_lookup_elem(&cluster_macs, &key);
	int news = muting || now - a->claimed_at >= CLAIM_INTERVAL || !same_mac(a->claim_mac, key.mac);
	if (muting)
		a->muted = 1;
	__sync_fetch_and_add(&a->claims, 1);
	if (!news)
		return;
	a->claimed_at = now;
	copy_mac(a->claim_mac, key.mac);

	struct claim *claim = bpf_ringbuf_reserve(&claims, sizeof(*claim), 0);
	if (!claim)
		return; // the entry says it, too
	claim->at = now;
	claim->addr = arp->sender;
	claim->ifindex = ifindex;
	copy_mac(claim->mac, key.mac);
	claim->muted = a->muted;
	claim->pad = 0;
	bpf_ringbuf_submit(claim, 0);
}

static __always_inline int may_announce(const struct announced *a, enum reason *why)
{
	__u32 zero = 0;
	struct announcer *lease = bpf_map_lookup_elem(&announcer, &zero);

	if (a->muted) {
		*why = REASON_ARP_MUTED;
		return 0;
	}
	if (!lease || bpf_ktime_get_boot_ns() >= lease->valid_until) {
		*why = REASON_ARP_EXPIRED;
		return 0;
	}
	return 1;
}

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

// handle_arp handles an ARP packet of a frame of ifindex.
static __always_inline int handle_arp(__u32 ifindex, struct cursor *c, struct ethhdr *eth)
{
	struct arp_ipv4 *arp = take(c, sizeof(*arp));
	if (!arp)
		return DROP(REASON_TRUNCATED);
	if (arp->hardware != bpf_htons(ARPHRD_ETHER) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_len != ETH_ALEN || arp->protocol_len != sizeof(arp->target))
		return PASS(REASON_NOT_OURS);

	struct announced *a = find_announced(arp->sender, ifindex);
	if (a) {
		if (same_mac(arp->sender_mac, a->mac))
			return PASS(REASON_NOT_OURS); // our own, come back
		note_claim(a, arp, ifindex);
		return PASS(REASON_ARP_CLAIM);
	}
	if (arp->op != bpf_htons(ARPOP_REQUEST))
		return PASS(REASON_NOT_OURS);
	a = find_announced(arp->target, ifindex);
	// A request to one MAC asks that machine alone, also when the switch floods it.
	if (!a || !(eth->h_dest[0] & 1 || same_mac(eth->h_dest, a->mac)))
		return PASS(REASON_NOT_OURS);

	enum reason why;
	if (!may_announce(a, &why))
		return PASS(why);
	answer_arp(eth, arp, a);
	return TX(REASON_ARP_REPLY);
}
