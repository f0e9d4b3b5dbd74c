// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// tc ingress of the pods' veths on the host: what a pod answers to a client of
// a VIP comes from the VIP, and goes straight out, so that neither netfilter
// nor rp_filter sees a packet with an address that is not the pod's.

#include "counters.h"
#include "flow.h"
#include "inside.h"
#include "nat.h"
#include "skb.h"

// The MSS that a pod may offer, so that the client's segments fit the IPIP hop.
// 0: as it likes.
volatile const __u16 mss_clamp;

#define TCP_OPTIONS 40 // at most

// find_flow returns the flow that a pod's packet answers, or NULL.
static __always_inline struct flow *find_flow(const struct packet *p)
{
	struct flow_key key = {
		.pod = p->ip->saddr,
		.client = p->ip->daddr,
		.pod_port = p->sport,
		.client_port = p->dport,
		.proto = p->proto,
	};
	struct flow *f = bpf_map_lookup_elem(&flows, &key);
	if (likely(f))
		return f;
	f = bpf_map_lookup_elem(&half_open, &key);
	if (f && !(f->flags & FLOW_REPLIED) && !(p->tcp_flags & TCP_RST))
		f->flags |= FLOW_REPLIED;
	return f;
}

// mss_search is a walk over the options of a TCP header (RFC 9293, section 3.1).
struct mss_search {
	struct __sk_buff *skb;
	__u32 at; // offset in the packet of the option looked at
	__u32 end;
	__u32 found; // offset of the value of the MSS option; 0: none
};

// next_option is a step of the walk; 1: it is over. A loop of its own, by
// bpf_loop, since the verifiers of older kernels walk every way through a plain one.
static long next_option(__u32 index, void *data)
{
	struct mss_search *s = data;
	__u8 option[2]; // kind, length

	if (s->at + sizeof(option) > s->end || bpf_skb_load_bytes(s->skb, s->at, option, sizeof(option)) || option[0] == 0)
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

// clamp_mss lowers the MSS option (RFC 9293, section 3.2) of a TCP header at
// offset l4, size bytes of options long.
static __always_inline void clamp_mss(struct __sk_buff *skb, __u32 l4, __u32 size)
{
	__u32 options = l4 + sizeof(struct tcphdr);
	struct mss_search s = { .skb = skb, .at = options, .end = options + size };
	__be16 from, to = bpf_htons(mss_clamp);

	bpf_loop(TCP_OPTIONS, next_option, &s, 0);
	if (!s.found || bpf_skb_load_bytes(skb, s.found, &from, sizeof(from)) || bpf_ntohs(from) <= mss_clamp)
		return;
	bpf_skb_store_bytes(skb, s.found, &to, sizeof(to), 0);
	if ((s.found - options) & 1) { // across two words of the checksum
		from = __builtin_bswap16(from);
		to = __builtin_bswap16(to);
	}
	bpf_l4_csum_replace(skb, l4 + offsetof(struct tcphdr, check), from, to, sizeof(to));
}

// send_out routes a packet, as the kernel would, past the kernel: its netfilter
// has not seen the client's half of the connection. Of a client on this very
// node it has, and has to see the other half.
static __always_inline int send_out(struct packet *p, struct bpf_fib_lookup *fib)
{
	if (bpf_map_lookup_elem(&endpoints, &fib->ipv4_dst)) // to another pod
		return PASS(REASON_REPLY);

	long err = bpf_fib_lookup(p->ctx, fib, sizeof(*fib), 0);

	if (err == BPF_FIB_LKUP_RET_NOT_FWDED) // to this node itself
		return PASS(REASON_REPLY);
	if (err != BPF_FIB_LKUP_RET_SUCCESS && err != BPF_FIB_LKUP_RET_NO_NEIGH)
		return DROP(REASON_NO_ROUTE);
	if (reload(p, 0))
		return DROP(REASON_TRUNCATED);
	decrement_hops(p);
	if (err == BPF_FIB_LKUP_RET_NO_NEIGH) {
		struct bpf_redir_neigh gateway = { .nh_family = AF_INET, .ipv4_nh = fib->ipv4_dst };
		bpf_redirect_neigh(fib->ifindex, &gateway, sizeof(gateway), 0);
		return REDIRECT(REASON_REPLY);
	}
	__builtin_memcpy(p->eth->h_dest, fib->dmac, ETH_ALEN);
	__builtin_memcpy(p->eth->h_source, fib->smac, ETH_ALEN);
	bpf_redirect(fib->ifindex, 0);
	return REDIRECT(REASON_REPLY);
}

static __always_inline int pod_service(struct __sk_buff *skb, int v6)
{
	struct packet p = { .ctx = skb, .hook = HOOK_TC_POD, .v6 = v6 };

	if (parse_skb(skb, &p))
		return PASS(REASON_NOT_OURS);
	return inside(&p) ?: PASS(REASON_NOT_OURS);
}

static __always_inline int answer(struct __sk_buff *skb)
{
	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present)
		return PASS(REASON_NOT_OURS);
	struct packet p = { .ctx = skb, .hook = HOOK_TC_POD };
	if (parse_skb(skb, &p))
		return PASS(REASON_NOT_OURS);
	struct flow *f = find_flow(&p);
	if (!f)
		return PASS(REASON_NOT_OURS);
	if (hops_of(&p) <= 1)
		return DROP(REASON_TTL_EXPIRED);

	struct bpf_fib_lookup fib = {
		.family = AF_INET,
		.l4_protocol = p.proto,
		.ifindex = skb->ifindex,
		.sport = f->port,
		.dport = p.dport,
		.tos = p.ip->tos,
		.ipv4_src = f->vip,
		.ipv4_dst = p.ip->daddr,
	};
	union addr vip = { .v4 = f->vip };
	__u32 options = 0;
	if (mss_clamp && (p.tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK))
		options = p.tcp->doff * 4 - sizeof(struct tcphdr);
	if (set_source(&p, &vip, f->port))
		return DROP(REASON_TRUNCATED);
	if (options)
		clamp_mss(skb, p.l4_at, options);
	return send_out(&p, &fib);
}

SEC("tc")
int seamark_tc_pod(struct __sk_buff *skb)
{
	__u64 bytes = skb->len;

	int verdict = answer(skb);
	if (verdict == PASS(REASON_NOT_OURS)) {
		if (skb->protocol == bpf_htons(ETH_P_IP))
			verdict = pod_service(skb, 0);
		else if (skb->protocol == bpf_htons(ETH_P_IPV6))
			verdict = pod_service(skb, 1);
	}
	return finish(skb, HOOK_TC_POD, verdict, bytes);
}
