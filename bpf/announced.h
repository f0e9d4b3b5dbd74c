// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What ARP and neighbour discovery have in common: the addresses that this node
// announces, who else claims them, and whom it answers.
#pragma once

#include "clock.h"
#include "parse.h"

// Claims of one address by one machine are told at most this often.
#define CLAIM_INTERVAL 100000000ULL // ns

// How many questions of one neighbour are answered in a tick of the clock: more
// than a router that has just started has for all its addresses.
volatile const __u32 answers_per_neighbour = 8192;

// How many claims a CPU tells of in a tick, so that a flood of them does not keep
// userspace busy. Those that mute an entry are always told.
#define CLAIMS_PER_TICK 1000

// take_from takes one out of a quota of limit per tick, and says whether it was left.
static __always_inline int take_from(struct quota *q, __u32 limit)
{
	__u32 window = now();

	if (q->window != window) {
		q->window = window;
		q->sent = 0;
	}
	return __sync_fetch_and_add(&q->sent, 1) < limit;
}

static __always_inline struct announced *find_announced(int v6, const union addr *addr, __u32 device)
{
	union any_announced_key key;

	announced_key_of(v6, &key, addr, device);
	return bpf_map_lookup_elem(TABLE(v6, announced), &key);
}

// note_claim records that another machine says it has our address. A cluster
// node silences us at once: it was given the address later than we were, or
// userspace will find out that it was not. Its probe is a question alone: the
// answer tells it that we were given the address after it.
static __always_inline void note_claim(int v6, struct announced *a, const union addr *addr, const void *mac, int probe, __u32 device)
{
	struct mac_key key = {};
	__u32 zero = 0;
	__u64 heard = bpf_ktime_get_boot_ns();
	struct quota *q = bpf_map_lookup_elem(&claim_quotas, &zero);

	copy_mac(key.mac, mac);
	int cluster = !!bpf_map_lookup_elem(&cluster_macs, &key);
	if (cluster && probe)
		return;
	int muting = cluster && !(a->muted & MUTED_CLAIMED);
	int news = heard - a->claimed_at >= CLAIM_INTERVAL || !same_mac(a->claim_mac, key.mac);
	if (muting)
		a->muted |= MUTED_CLAIMED;
	__sync_fetch_and_add(&a->claims, 1);
	if (!muting && !news)
		return;
	a->claimed_at = heard;
	copy_mac(a->claim_mac, key.mac);
	if (!muting && !(q && take_from(q, CLAIMS_PER_TICK)))
		return; // the entry says it

	struct claim *claim = bpf_ringbuf_reserve(&claims, sizeof(*claim), 0);
	if (!claim)
		return;
	claim->at = heard;
	for (int i = 0; i < 4; i++)
		claim->addr[i] = addr->v6[i];
	claim->ifindex = device;
	copy_mac(claim->mac, key.mac);
	claim->muted = cluster;
	claim->v6 = v6;
	claim->pad = 0;
	bpf_ringbuf_submit(claim, 0);
}

// within_neighbour_quota takes one answer out of a neighbour's quota.
static __always_inline int within_neighbour_quota(const void *mac)
{
	struct mac_key key = {};

	copy_mac(key.mac, mac);
	struct quota *q = bpf_map_lookup_elem(&askers, &key);
	if (q)
		return take_from(q, answers_per_neighbour);
	struct quota fresh = { .window = now(), .sent = 1 };
	bpf_map_update_elem(&askers, &key, &fresh, BPF_ANY);
	return 1;
}

// refuse_to_answer is the verdict on a question of a neighbour that is not to be
// answered; 0: it is.
static __always_inline int refuse_to_answer(int v6, const struct announced *a, const void *mac)
{
	__u32 zero = 0;
	struct announcer *lease = bpf_map_lookup_elem(&announcer, &zero);

	if (a->muted)
		return PASS(v6 ? REASON_ND_MUTED : REASON_ARP_MUTED);
	if (!lease || bpf_ktime_get_boot_ns() >= lease->valid_until)
		return PASS(v6 ? REASON_ND_EXPIRED : REASON_ARP_EXPIRED);
	return within_neighbour_quota(mac) ? 0 : DROP(REASON_NEIGHBOUR_QUOTA);
}
