// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// XDP on the outside devices: answers ARP and ping for VIPs, sends their
// packets to pods, and takes in what other nodes send to pods here.

#include "arp.h"
#include "counters.h"
#include "encap.h"
#include "flow.h"
#include "lb.h"
#include "nat.h"
#include "parse.h"

static __always_inline struct device *find_device(__u32 ifindex)
{
	__u32 at = ifindex % MAX_DEVICES;
	struct device *d = bpf_map_lookup_elem(&devices, &at);

	return d && d->ifindex == ifindex ? d : NULL;
}

static __always_inline struct device *addressed_device(struct xdp_md *ctx, struct ethhdr *eth)
{
	struct device *d = find_device(ctx->ingress_ifindex);

	return d && same_mac(eth->h_dest, d->mac) ? d : NULL;
}

static __always_inline int forward_local(struct packet *p, const struct backend *b)
{
	if (track_flow(p, b->addr, b->port))
		return DROP(REASON_FLOW_TABLE);
	dnat(p, b->addr, b->port);
	return PASS(REASON_FORWARD_LOCAL);
}

static __always_inline int forward_remote(struct xdp_md *ctx, struct packet *p, const struct backend *b, struct device *d)
{
	__u32 total = bpf_ntohs(p->ip->tot_len) + sizeof(struct iphdr);
	__u32 at = b->next_hop;
	struct next_hop *known = bpf_map_lookup_elem(&next_hops, &at);
	if (!known)
		return DROP(REASON_NO_ROUTE);

	struct next_hop hop = *known;
	if (unlikely(!hop.ifindex)) {
		enum reason bad = resolve(ctx, &hop, b->addr, total);
		if (bad)
			return DROP(bad);
	}
	if (unlikely(hop.ifindex != ctx->ingress_ifindex))
		d = find_device(hop.ifindex);
	if (d && total > d->mtu)
		return DROP(REASON_TOO_BIG);
	return encapsulate(ctx, &hop, b->addr, total, p->ip->tos);
}

// not_served handles what no frontend takes: ping and refusals for a VIP, and
// all the packets that are none of ours.
static __always_inline int not_served(struct xdp_md *ctx, struct ethhdr *eth, struct packet *p, enum reason bad)
{
	if (!is_vip(p->ip->daddr) || !addressed_device(ctx, eth))
		return PASS(REASON_NOT_OURS);
	if (bad)
		return DROP(bad);
	if (p->proto != IPPROTO_ICMP)
		return DROP(REASON_UNSERVED_PORT);
	if (p->icmp->type != ICMP_ECHO || p->icmp->code)
		return DROP(REASON_UNSERVED_PROTO);
	answer_echo(eth, p);
	return TX(REASON_ICMP_ECHO_REPLY);
}

// decapsulate takes in a packet that another node sent to a pod of this one.
static __always_inline int decapsulate(struct xdp_md *ctx, struct cursor *c, struct ethhdr *eth, struct packet *outer)
{
	struct packet p = { .ctx = ctx, .eth = eth, .l3_at = ETH_HLEN };
	__be32 pod = outer->ip->daddr;

	if (!addressed_device(ctx, eth))
		return PASS(REASON_NOT_OURS);
	enum reason bad = parse_ipv4(c, outer->l4_len, &p);
	if (bad)
		return DROP(bad);
	bad = p.ip->frag_off & IP_FRAGMENT ? REASON_FRAGMENT : parse_l4(c, &p);
	if (bad || p.proto == IPPROTO_ICMP)
		return is_vip(p.ip->daddr) ? DROP(bad ?: REASON_UNSERVED_PROTO)
					   : PASS(REASON_NOT_OURS);

	struct local_key key = { .vip = p.ip->daddr, .pod = pod, .port = p.dport, .proto = p.proto };
	struct local_target *target = bpf_map_lookup_elem(&local_targets, &key);
	if (!target)
		return is_vip(p.ip->daddr) ? DROP(REASON_STALE_BACKEND)
					   : PASS(REASON_NOT_OURS);
	if (track_flow(&p, pod, target->port))
		return DROP(REASON_FLOW_TABLE);
	dnat(&p, pod, target->port);
	if (strip_outer(ctx))
		return DROP(REASON_TRUNCATED);
	return PASS(REASON_DECAP);
}

static __always_inline int handle_ipv4(struct xdp_md *ctx, struct cursor *c, struct ethhdr *eth)
{
	struct packet p = { .ctx = ctx, .eth = eth, .l3_at = ETH_HLEN };
	enum reason bad = parse_ipv4(c, c->end - c->pos, &p);
	if (bad)
		return DROP(bad);
	// Our own outer headers have no options and are never fragmented.
	if (unlikely(p.proto == IPPROTO_IPIP && p.ip->ihl == 5 && !(p.ip->frag_off & IP_FRAGMENT)) &&
	    bpf_map_lookup_elem(&endpoints, &p.ip->daddr))
		return decapsulate(ctx, c, eth, &p);

	bad = p.ip->frag_off & IP_FRAGMENT ? REASON_FRAGMENT : parse_l4(c, &p);
	if (bad || p.proto == IPPROTO_ICMP)
		return not_served(ctx, eth, &p, bad);
	struct frontend *f = find_frontend(p.ip->daddr, p.dport, p.proto);
	if (!f)
		return not_served(ctx, eth, &p, REASON_UNSPEC);
	struct device *d = addressed_device(ctx, eth);
	if (!d)
		return PASS(REASON_NOT_OURS);
	struct backend *b = find_backend(f, &p);
	if (!b)
		return DROP(REASON_NO_BACKEND);
	if (b->flags & BACKEND_LOCAL)
		return forward_local(&p, b);
	return forward_remote(ctx, &p, b, d);
}

static __always_inline int handle_frame(struct xdp_md *ctx)
{
	struct cursor c = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	if (!eth)
		return DROP(REASON_TRUNCATED);
	if (likely(eth->h_proto == bpf_htons(ETH_P_IP)))
		return handle_ipv4(ctx, &c, eth);
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
