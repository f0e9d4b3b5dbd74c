// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// tc ingress of the outside devices: what XDP has sent to a pod of this node
// goes straight into it. All else for a pod is left to the kernel: netfilter
// has seen the other half of it, and may have an address to translate back.

#include "counters.h"
#include "flow.h"
#include "nat.h"
#include "skb.h"
#include "snat.h"

// of_flow says whether a client's packet, as its pod will see it, is of a VIP's flow.
static __always_inline int of_flow(const struct packet *p)
{
	struct flow_key key = flow_key_of(p, p->ip->daddr, p->dport);

	return bpf_map_lookup_elem(&flows, &key) || bpf_map_lookup_elem(&half_open, &key);
}

static __always_inline int deliver(struct __sk_buff *skb)
{
	__be32 pod;

	// A frame to another host, or with a VLAN tag of its own, is not ours.
	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return PASS(REASON_NOT_OURS);
	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr), &pod, sizeof(pod)))
		return PASS(REASON_NOT_OURS);
	struct endpoint *e = bpf_map_lookup_elem(&endpoints, &pod);
	if (!e)
		return PASS(REASON_NOT_OURS);

	struct packet p = { .ctx = skb, .hook = HOOK_TC_OUTSIDE };
	if (parse_skb(skb, &p) || !of_flow(&p))
		return PASS(REASON_NOT_OURS);
	if (hops_of(&p) <= 1)
		return DROP(REASON_TTL_EXPIRED);
	decrement_hops(&p);
	copy_mac(p.eth->h_dest, e->pod_mac);
	copy_mac(p.eth->h_source, e->host_mac);
	bpf_redirect_peer(e->ifindex, 0);
	return REDIRECT(REASON_POD_DELIVERED);
}

// translate_back sends on what XDP could not: answers of translated flows to
// clients whose MAC the stack has to ask for.
static __always_inline int translate_back(struct __sk_buff *skb, int v6)
{
	struct packet p = { .ctx = skb, .hook = HOOK_TC_OUTSIDE, .v6 = v6 };

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present || parse_skb(skb, &p) || !is_nat_port(p.dport))
		return 0;
	struct five_tuple t = tuple_of(&p);
	return snat_back(&p, &t);
}

SEC("tc")
int seamark_tc_outside(struct __sk_buff *skb)
{
	__u64 bytes = skb->len;

	int verdict = deliver(skb);
	if (verdict == PASS(REASON_NOT_OURS)) {
		if (skb->protocol == bpf_htons(ETH_P_IP))
			verdict = translate_back(skb, 0) ?: verdict;
		else if (skb->protocol == bpf_htons(ETH_P_IPV6))
			verdict = translate_back(skb, 1) ?: verdict;
	}
	return finish(skb, HOOK_TC_OUTSIDE, verdict, bytes);
}
