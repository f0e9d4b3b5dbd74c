// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// tc ingress of the outside devices: what XDP has sent to a pod of this node
// goes straight into it. All else for a pod is left to the kernel: netfilter
// has seen the other half of it, and may have an address to translate back.

#include "counters.h"
#include "detour.h"
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

// into_pod sends a packet into its pod.
static __always_inline int into_pod(struct packet *p, const struct endpoint *e)
{
	if (hops_of(p) <= 1)
		return DROP(REASON_TTL_EXPIRED);
	decrement_hops(p);
	copy_mac(p->eth->h_dest, e->pod_mac);
	copy_mac(p->eth->h_source, e->host_mac);
	bpf_redirect_peer(e->ifindex, 0);
	return REDIRECT(REASON_POD_DELIVERED);
}

// deliver sends a packet of a VIP's flow into its pod. It returns 0 for all others.
static __always_inline int deliver(struct packet *p)
{
	union addr pod = dest_of(p);
	struct endpoint *e = find_endpoint(p->v6, &pod);

	return e && of_flow_here(p) ? into_pod(p, e) : 0;
}

// translate_back sends on what XDP could not: answers of translated flows to
// clients whose MAC the stack has to ask for. It returns 0 for all others.
static __always_inline int translate_back(struct packet *p)
{
	if (!is_nat_port(p->dport))
		return 0;
	struct five_tuple t = tuple_of(p);
	int verdict = snat_back(p, &t);
	return verdict ? verdict | trace_translated(p->v6) : 0;
}

// inline_take_over handles a packet from outside, parsed.
static __always_inline int inline_take_over(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return PASS(REASON_NOT_OURS);
	int verdict = deliver(&p);
	if (verdict)
		return verdict;
	if (reload(&p, l4_size(&p))) // deliver may have looked into an error, and pointers do not outlive that
		return PASS(REASON_NOT_OURS);
	return translate_back(&p) ?: PASS(REASON_NOT_OURS);
}
GLOBAL_TC(take_over, HOOK_TC_OUTSIDE, struct detour)

// parse_outside parses a packet for take_over: the verifier is not to look at that for every
// way through the headers.
static __always_inline int parse_outside(struct __sk_buff *skb, int v6)
{
	struct packet p = { .ctx = skb, .hook = HOOK_TC_OUTSIDE, .v6 = v6 };
	union addr none = {};

	return parse_any(skb, &p) || !begin_detour(&p, &none, 0, REASON_UNSPEC) ? -1 : 0;
}

static __noinline int parse_outside4(struct __sk_buff *skb) { return parse_outside(skb, 0); }
static __noinline int parse_outside6(struct __sk_buff *skb) { return parse_outside(skb, 1); }

// take_plain is take_over for most packets: whole ones with ports, none of which tc
// has to translate. It returns 0 for all others.
static __always_inline int take_plain(struct __sk_buff *skb, int v6)
{
	struct packet p = { .ctx = skb, .hook = HOOK_TC_OUTSIDE, .v6 = v6, .l3_at = ETH_HLEN };
	struct cursor c = { ctx_data(skb, p.hook), ctx_end(skb, p.hook) };

	p.eth = take(&c, sizeof(*p.eth));
	if (!p.eth || parse_fixed(&c, skb->len - ETH_HLEN, &p) || p.fragment || parse_l4(&c, &p) || is_icmp(&p) || is_nat_port(p.dport))
		return 0;
	union addr pod = dest_of(&p);
	struct endpoint *e = find_endpoint(v6, &pod);
	return e && of_flow(&p) ? into_pod(&p, e) : PASS(REASON_NOT_OURS);
}

static __noinline int take_plain4(struct __sk_buff *skb) { return take_plain(skb, 0); }
static __noinline int take_plain6(struct __sk_buff *skb) { return take_plain(skb, 1); }

static __always_inline int handle_outside(struct __sk_buff *skb)
{
	int v6 = skb->protocol == bpf_htons(ETH_P_IPV6);

	// A frame to another host, or with a VLAN tag of its own, is not ours.
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present || (!v6 && skb->protocol != bpf_htons(ETH_P_IP)))
		return PASS(REASON_NOT_OURS);
	int verdict = v6 ? take_plain6(skb) : take_plain4(skb);
	if (likely(verdict))
		return verdict;
	struct detour *d = own_detour();
	if (!d || (v6 ? parse_outside6(skb) : parse_outside4(skb)))
		return PASS(REASON_NOT_OURS);
	return take_over(skb, v6, d);
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
