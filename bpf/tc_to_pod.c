// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// tc egress of the pods' veths on the host: what a Service's backend answers to
// a pod comes from the Service again. What is redirected into a pod passes no
// egress, and needs nothing of this.

#include "counters.h"
#include "icmp_error.h"
#include "inside.h"
#include "skb.h"

static __always_inline int enter_pod(struct __sk_buff *skb, int v6)
{
	struct packet p = { .ctx = skb, .hook = HOOK_TC_TO_POD, .v6 = v6 };

	if (parse_ports(skb, &p))
		return PASS(REASON_NOT_OURS);
	if (unlikely(is_icmp(&p))) {
		struct quoted *q;
		if (p.fragment || !is_icmp_error(&p) || quote_of(&p, &q))
			return PASS(REASON_NOT_OURS);
		return error_of_inside(&p, q) ?: PASS(REASON_NOT_OURS);
	}
	return from_service(&p) ?: PASS(REASON_NOT_OURS);
}

static __always_inline int to_pod(struct __sk_buff *skb)
{
	if (skb->vlan_present)
		return PASS(REASON_NOT_OURS);
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return enter_pod(skb, 0);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return enter_pod(skb, 1);
	return PASS(REASON_NOT_OURS);
}

SEC("tc")
int seamark_tc_to_pod(struct __sk_buff *skb)
{
	__u64 bytes = skb->len;

	return finish(skb, HOOK_TC_TO_POD, to_pod(skb), bytes);
}
