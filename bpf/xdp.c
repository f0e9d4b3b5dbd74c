// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// XDP on the outside devices: answers ARP and ping for VIPs, sends their
// packets to pods, and takes in what other nodes send to pods here.

#include "arp.h"
#include "counters.h"
#include "encap.h"
#include "flow.h"
#include "fragment.h"
#include "icmp_error.h"
#include "lb.h"
#include "nat.h"
#include "parse.h"
#include "refuse.h"
#include "snat.h"

static __always_inline struct device *find_device(__u32 ifindex)
{
	__u32 at = ifindex % MAX_DEVICES;
	struct device *d = bpf_map_lookup_elem(&devices, &at);

	return d && d->ifindex == ifindex ? d : NULL;
}

static __always_inline struct device *addressed_device(const struct packet *p)
{
	struct device *d = find_device(ctx_device(p->ctx, p->hook));

	return d && same_mac(p->eth->h_dest, d->mac) ? d : NULL;
}

static __always_inline int forward_local(struct packet *p, const struct target *b)
{
	if (p->v6)
		return PASS(REASON_NOT_OURS);
	if (track_flow(p, b->addr.v4, b->port))
		return DROP(REASON_FLOW_TABLE);
	if (set_dest(p, &b->addr, b->port))
		return DROP(REASON_UNSERVED_PROTO);
	return PASS(REASON_FORWARD_LOCAL);
}

static __always_inline int forward_remote(struct packet *p, const struct target *b, struct device *d)
{
	if (p->v6)
		return PASS(REASON_NOT_OURS);
	__u32 total = l3_len(p) + sizeof(struct iphdr);
	__u32 at = b->next_hop;
	struct next_hop *known = bpf_map_lookup_elem(&next_hops, &at);
	if (!known)
		return DROP(REASON_NO_ROUTE);

	struct next_hop hop = *known;
	if (unlikely(!hop.ifindex)) {
		enum reason bad = resolve(p->ctx, &hop, b->addr.v4, total);
		if (bad)
			return DROP(bad);
	}
	if (unlikely(hop.ifindex != ctx_device(p->ctx, p->hook)))
		d = find_device(hop.ifindex);
	if (d && total > d->mtu)
		return too_big(p, d->mtu - sizeof(struct iphdr));
	return encapsulate(p->ctx, &hop, b->addr.v4, total, p->ip->tos);
}

// icmp_to_vip answers a ping, and hands an error about what a backend sent to
// that backend.
static __always_inline int icmp_to_vip(struct packet *p, struct device *d)
{
	if (is_echo(p))
		return answer_echo(p);
	if (!is_icmp_error(p))
		return DROP(REASON_UNSERVED_PROTO);

	struct quoted *q;
	enum reason bad = quote_of(p, &q);
	if (bad)
		return DROP(bad);
	int verdict = translated_error(p, q, TABLE(p->v6, nat_out));
	if (verdict)
		return verdict;
	struct five_tuple t = reversed(&q->flow);
	struct frontend *f = find_frontend(p->v6, &t.daddr, t.dport, t.proto);
	struct target b = {};
	if (!f || choose(p->v6, f, &t, &b))
		return DROP(REASON_ICMP_UNKNOWN);
	if (b.flags & BACKEND_LOCAL)
		return error_to_pod(p, q, &b.addr);
	verdict = forward_remote(p, &b, d);
	return REASON_OF(verdict) == REASON_FORWARD_REMOTE ? VERDICT(ACTION_OF(verdict), REASON_ICMP_FORWARDED) : verdict;
}

// icmp_to_node hands an error about a translated packet to its client.
static __always_inline int icmp_to_node(struct packet *p)
{
	struct quoted *q;

	if (!is_icmp_error(p) || !addressed_device(p) || quote_of(p, &q))
		return PASS(REASON_NOT_OURS);
	return translated_error(p, q, TABLE(p->v6, nat_in)) ?: PASS(REASON_NOT_OURS);
}

// not_served handles what no frontend takes: ping and refusals for a VIP, and
// all the packets that are none of ours.
static __always_inline int not_served(struct packet *p, const union addr *dest, enum reason bad)
{
	struct frontend *f = find_vip(p->v6, dest);
	if (!f)
		return bad ? PASS(REASON_NOT_OURS) : icmp_to_node(p);
	struct device *d = addressed_device(p);
	if (!d)
		return PASS(REASON_NOT_OURS);
	if (bad)
		return DROP(bad);
	if (is_icmp(p))
		return icmp_to_vip(p, d);
	return f->flags & FRONTEND_REFUSE ? refuse(p, REASON_UNSERVED_PORT) : DROP(REASON_UNSERVED_PORT);
}

// decapsulate takes in a packet that another node sent to a pod of this one.
static __always_inline int decapsulate(struct packet *outer, struct cursor *c)
{
	struct packet p = { .ctx = outer->ctx, .hook = outer->hook, .eth = outer->eth, .l3_at = outer->l4_at };
	union addr pod = dest_of(outer);

	if (!addressed_device(outer))
		return PASS(REASON_NOT_OURS);
	enum reason bad = parse_ip(c, outer->l4_len, &p);
	if (bad)
		return DROP(bad);
	bad = unlikely(p.fragment) ? parse_fragment(c, &p) : parse_l4(c, &p);
	union addr vip = dest_of(&p);
	if (!bad && is_icmp_error(&p)) {
		struct quoted *q;
		bad = quote_of(&p, &q);
		if (!bad && find_vip(p.v6, &vip)) {
			int verdict = error_to_pod(&p, q, &pod);
			return ACTION_OF(verdict) == ACT_PASS && strip_outer(p.ctx) ? DROP(REASON_TRUNCATED) : verdict;
		}
	}
	if (bad || is_icmp(&p))
		return find_vip(p.v6, &vip) ? DROP(bad ?: REASON_UNSERVED_PROTO) : PASS(REASON_NOT_OURS);

	union any_local_key key;
	local_key_of(p.v6, &key, &vip, &pod, p.dport, p.proto);
	struct local_target *target = bpf_map_lookup_elem(TABLE(p.v6, local_targets), &key);
	if (!target)
		return find_vip(p.v6, &vip) ? DROP(REASON_STALE_BACKEND) : PASS(REASON_NOT_OURS);
	if (track_flow(&p, pod.v4, target->port))
		return DROP(REASON_FLOW_TABLE);
	if (set_dest(&p, &pod, target->port))
		return DROP(REASON_UNSERVED_PROTO);
	if (strip_outer(p.ctx))
		return DROP(REASON_TRUNCATED);
	return fragment_verdict(&p, PASS(REASON_DECAP));
}

static __always_inline int handle_ip(void *ctx, enum hook hook, int v6, struct cursor *c, struct ethhdr *eth)
{
	struct packet p = { .ctx = ctx, .hook = hook, .v6 = v6, .eth = eth, .l3_at = ETH_HLEN };
	enum reason bad = parse_ip(c, c->end - c->pos, &p);
	if (bad)
		return DROP(bad);
	struct five_tuple t = tuple_of(&p);
	// Our own outer headers have no options and are never fragmented.
	if (unlikely(p.proto == IPPROTO_IPIP && !v6 && p.ip->ihl == 5 && !p.fragment) && find_endpoint(v6, &t.daddr))
		return decapsulate(&p, c);

	bad = unlikely(p.fragment) ? parse_fragment(c, &p) : parse_l4(c, &p);
	if (bad || is_icmp(&p))
		return not_served(&p, &t.daddr, bad);
	t = tuple_of(&p);
	struct frontend *f = find_frontend(v6, &t.daddr, t.dport, t.proto);
	if (!f) {
		if (unlikely(is_nat_port(t.dport)) && addressed_device(&p)) {
			int back = snat_back(&p, &t);
			if (back)
				return back;
		}
		return not_served(&p, &t.daddr, REASON_UNSPEC);
	}
	struct device *d = addressed_device(&p);
	if (!d)
		return PASS(REASON_NOT_OURS);
	if (unlikely(f->flags & (FRONTEND_SNAT | FRONTEND_SWITCHED))) {
		int known = snat_known(&p, &t);
		if (known)
			return known;
	}
	struct target b = {};
	if (choose(v6, f, &t, &b))
		return f->flags & FRONTEND_REFUSE ? refuse(&p, REASON_NO_BACKEND) : DROP(REASON_NO_BACKEND);
	int verdict = 0;
	if (b.flags & BACKEND_LOCAL)
		verdict = forward_local(&p, &b);
	else if (unlikely(f->flags & FRONTEND_SNAT))
		verdict = snat_out(&p, f, &t, &b);
	return fragment_verdict(&p, verdict ?: forward_remote(&p, &b, d));
}

static __always_inline int handle_frame(struct xdp_md *ctx)
{
	struct cursor c = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	if (!eth)
		return DROP(REASON_TRUNCATED);
	if (likely(eth->h_proto == bpf_htons(ETH_P_IP)))
		return handle_ip(ctx, HOOK_XDP, 0, &c, eth);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return handle_ip(ctx, HOOK_XDP, 1, &c, eth);
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return handle_arp(ctx, &c, eth);
	return PASS(REASON_NOT_OURS);
}

SEC("xdp")
int seamark_xdp(struct xdp_md *ctx)
{
	__u64 bytes = ctx->data_end - ctx->data;

	return finish(ctx, HOOK_XDP, handle_frame(ctx), bytes);
}
