// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// tc ingress of the outside devices: what XDP has sent to a pod of this node
// goes straight into it. All else for a pod is left to the kernel: netfilter
// has seen the other half of it, and may have an address to translate back.

#include "counters.h"
#include "flow.h"
#include "icmp_error.h"
#include "nat.h"
#include "skb.h"
#include "snat.h"
#include "tunnel.h"

// of_flow_here says whether a packet to a pod is of a VIP's flow, or an error about one.
static __always_inline int of_flow_here(const struct packet *p)
{
	return is_icmp(p) ? error_of_flow(p) : of_flow(p);
}

// deliver sends a packet of a VIP's flow into its pod. It returns 0 for all others.
static __always_inline int deliver(struct __sk_buff *skb, int v6)
{
	__u32 at = ETH_HLEN + (v6 ? offsetof(struct ipv6hdr, daddr) : offsetof(struct iphdr, daddr));
	union addr pod = {};

	// Most packets are for no pod: they need not be pulled.
	if (bpf_skb_load_bytes(skb, at, &pod, addr_size(v6)))
		return 0;
	struct endpoint *e = find_endpoint(v6, &pod);
	if (!e)
		return 0;

	struct packet p = { .ctx = skb, .hook = HOOK_TC_OUTSIDE, .v6 = v6 };
	if (parse_any(skb, &p) || !of_flow_here(&p))
		return 0;
	if (hops_of(&p) <= 1)
		return DROP(REASON_TTL_EXPIRED);
	decrement_hops(&p);
	copy_mac(p.eth->h_dest, e->pod_mac);
	copy_mac(p.eth->h_source, e->host_mac);
	bpf_redirect_peer(e->ifindex, 0);
	return REDIRECT(REASON_POD_DELIVERED);
}

// translate_back sends on what XDP could not: answers of translated flows to
// clients whose MAC the stack has to ask for. It returns 0 for all others.
static __always_inline int translate_back(struct __sk_buff *skb, int v6)
{
	struct packet p = { .ctx = skb, .hook = HOOK_TC_OUTSIDE, .v6 = v6 };

	if (parse_any(skb, &p) || !is_nat_port(p.dport))
		return 0;
	struct five_tuple t = tuple_of(&p);
	int verdict = snat_back(&p, &t);
	return verdict ? verdict | trace_translated(v6) : 0;
}

static __always_inline int handle_outside(struct __sk_buff *skb)
{
	// A frame to another host, or with a VLAN tag of its own, is not ours.
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return PASS(REASON_NOT_OURS);
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return deliver(skb, 0) ?: translate_back(skb, 0) ?: PASS(REASON_NOT_OURS);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return deliver(skb, 1) ?: translate_back(skb, 1) ?: PASS(REASON_NOT_OURS);
	return PASS(REASON_NOT_OURS);
}

// Global, so that the verifier looks at it once, and not after every verdict.
__noinline int hand_over(struct __sk_buff *skb)
{
	return handle_outside(skb);
}

SEC("tc")
int seamark_tc_outside(struct __sk_buff *skb)
{
	__u64 bytes = skb->len;

	return finish(skb, HOOK_TC_OUTSIDE, hand_over(skb), bytes);
}
