// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// tc ingress of the outside devices: packets for a pod of this node go straight
// into it.

#include "counters.h"
#include "nat.h"
#include "parse.h"

static __always_inline int deliver(struct __sk_buff *skb)
{
	// A frame to another host, or with a VLAN tag of its own, is not ours.
	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return VERDICT(TC_ACT_UNSPEC, REASON_NOT_OURS);

	struct cursor c = { (void *)(long)skb->data, (void *)(long)skb->data_end };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	struct iphdr *ip = take(&c, sizeof(*ip));
	if (!eth || !ip)
		return VERDICT(TC_ACT_SHOT, REASON_TRUNCATED);
	struct endpoint *e = bpf_map_lookup_elem(&endpoints, &ip->daddr);
	if (!e)
		return VERDICT(TC_ACT_UNSPEC, REASON_NOT_OURS);
	if (ip->version != 4 || ip->ihl < 5)
		return VERDICT(TC_ACT_SHOT, REASON_BAD_HEADER);
	if (ip->ttl <= 1)
		return VERDICT(TC_ACT_SHOT, REASON_TTL_EXPIRED);
	decrement_ttl(ip);
	copy_mac(eth->h_dest, e->pod_mac);
	copy_mac(eth->h_source, e->host_mac);
	return VERDICT(bpf_redirect_peer(e->ifindex, 0), REASON_POD_DELIVERED);
}

SEC("tc")
int seamark_tc_outside(struct __sk_buff *skb)
{
	__u64 bytes = skb->len;

	return finish(HOOK_TC_OUTSIDE, deliver(skb), bytes);
}
