// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What other nodes send to pods of this one in tunnels (encap.h).
#pragma once

#include "chance.h"
#include "fragment.h"
#include "icmp_error.h"
#include "pins.h"
#include "skb.h"
#include "trace.h"
#include "tunnel.h"

// is_ipip says whether a packet is IP in IP as nodes send it: its outer header has
// no options and is never fragmented.
static __always_inline int is_ipip(const struct packet *p)
{
	return p->proto == (p->v6 ? IPPROTO_IPV6 : IPPROTO_IPIP) && !p->fragment && p->l4_at - p->l3_at == ip_size(p->v6);
}

// is_geneve is is_ipip for Geneve to this node; parse_l4 has seen the UDP header.
static __always_inline int is_geneve(const struct packet *p)
{
	union addr dest = dest_of(p);

	return p->proto == IPPROTO_UDP && p->dport == geneve_port && !p->fragment && p->l4_at - p->l3_at == ip_size(p->v6) &&
	       is_own_addr(p->v6, &dest);
}

enum ecn { NOT_ECT, ECT_1, ECT_0, CE, ECN_MASK = 3 };

static __always_inline void set_traffic_class(struct packet *p, __u8 tos)
{
	if (p->v6) {
		__be32 *first = (__be32 *)p->ip6;
		__be32 changed = (*first & ~bpf_htonl(0xff << 20)) | bpf_htonl((__u32)tos << 20);

		if (p->hook != HOOK_XDP)
			bpf_csum_update(p->ctx, csum_fold((__u64)(__u32)~*first + changed));
		*first = changed;
		return;
	}
	csum_replace(&p->ip->check, bpf_htons(p->ip->tos), bpf_htons(tos));
	p->ip->tos = tos;
}

// merge_ecn brings what the path did to the outer header's ECN into the inner one
// (RFC 6040, section 4.2). It returns 0, or -1 for a packet that has to be
// dropped: congestion, and its ends know no ECN.
static __always_inline int merge_ecn(struct packet *p, __u8 outer)
{
	__u8 tos = traffic_class(p), inner = tos & ECN_MASK;

	outer &= ECN_MASK;
	if (likely(outer == inner || outer == NOT_ECT || outer == ECT_0))
		return 0;
	if (inner == NOT_ECT)
		return outer == CE ? -1 : 0;
	if (inner == CE)
		return 0;
	set_traffic_class(p, (tos & ~ECN_MASK) | outer);
	return 0;
}

// strip_xdp takes size bytes behind a frame's own header off. Tags are off already.
static __always_inline int strip_xdp(struct xdp_md *ctx, __u32 size, __be16 type)
{
	__u32 mac[3];

	struct cursor c = { ctx_data(ctx, HOOK_XDP), ctx_end(ctx, HOOK_XDP) };
	__u32 *from = take(&c, sizeof(mac));
	if (!from)
		return -1;
	mac[0] = from[0];
	mac[1] = from[1];
	mac[2] = from[2];
	if (bpf_xdp_adjust_head(ctx, size))
		return -1;
	struct cursor d = { ctx_data(ctx, HOOK_XDP), ctx_end(ctx, HOOK_XDP) };
	__u32 *to = take(&d, ETH_HLEN);
	if (!to)
		return -1;
	to[0] = mac[0];
	to[1] = mac[1];
	to[2] = mac[2];
	((struct ethhdr *)to)->h_proto = type;
	return 0;
}

// Of <linux/bpf.h> since Linux 6.3: kernels before know no other family inside.
#define ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7)
#define ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)

// strip_skb is strip_xdp for tc.
static __always_inline int strip_skb(struct __sk_buff *skb, __u32 size, int from_v6, int to_v6, __be16 type)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	if (from_v6 != to_v6)
		flags |= to_v6 ? ADJ_ROOM_DECAP_L3_IPV6 : ADJ_ROOM_DECAP_L3_IPV4;
	if (bpf_skb_adjust_room(skb, -(int)size, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	return from_v6 == to_v6 ? 0 : bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &type, sizeof(type), 0);
}

// strip takes all between the frame's own header and the inner packet p off.
static __always_inline int strip(struct packet *p, const struct packet *outer, __u32 size)
{
	__be16 type = p->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);

	if (p->hook == HOOK_XDP ? strip_xdp(p->ctx, size, type) : strip_skb(p->ctx, size, outer->v6, p->v6, type))
		return -1;
	p->l3_at -= size;
	p->l4_at -= size;
	return reload(p, l4_size(p));
}

// inline_error_in brings an error about what a pod sent to the pod.
static __always_inline int inline_error_in(void *ctx, enum hook hook, int v6, struct detour *d)
{
	union addr pod = load_addr(v6, d->addr);
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);

	struct quoted *q;
	enum reason bad = quote_of(&p, &q);
	return bad ? DROP(bad) : error_to_pod(&p, q, &pod);
}
GLOBAL(error_in, struct detour)

// take_in takes a packet that is skip bytes behind the outer IP header out of its
// tunnel, and puts it on the detour to its pod. stray is the verdict on one for no
// address of ours.
static __always_inline int take_in(struct packet *outer, int v6, __u32 skip, const union addr *pod, int handed_on, int stray)
{
	struct packet p = { .ctx = outer->ctx, .hook = outer->hook, .v6 = v6, .eth = outer->eth, .l3_at = outer->l4_at + skip };
	struct cursor c = { outer->l4 + skip, ctx_end(outer->ctx, outer->hook) };
	__u32 size = ip_size(outer->v6) + skip;
	__u8 tos = traffic_class(outer);

	enum reason bad = parse_ip(&c, outer->l4_len - skip, &p);
	if (bad)
		return DROP(bad);
	bad = unlikely(p.fragment) ? parse_fragment(&c, &p) : parse_l4(&c, &p);
	union addr vip = dest_of(&p);
	if (unlikely(bad || is_icmp(&p))) {
		if (!find_vip(v6, &vip))
			return stray;
		if (bad || !is_icmp_error(&p))
			return DROP(bad ?: REASON_UNSERVED_PROTO);
		if (strip(&p, outer, size))
			return DROP(REASON_TRUNCATED);
		return begin_detour(&p, pod, 0, REASON_DECAP) ? VERDICT(ACT_DETOUR, REASON_ICMP_FORWARDED) : DROP(REASON_NO_ROUTE);
	}

	union any_local_key key;
	local_key_of(v6, &key, &vip, pod, p.dport, p.proto);
	struct local_target *target = bpf_map_lookup_elem(TABLE(v6, local_targets), &key);
	if (!target)
		return find_vip(v6, &vip) ? DROP(REASON_STALE_BACKEND) : stray;
	if (merge_ecn(&p, tos))
		return DROP(REASON_BAD_TUNNEL);
	if (strip(&p, outer, size))
		return DROP(REASON_TRUNCATED);
	struct detour *d = begin_detour(&p, pod, target->port, REASON_DECAP);
	if (!d)
		return DROP(REASON_NO_ROUTE);

	d->handed_on = handed_on;
	return VERDICT(ACT_DETOUR, REASON_POD_DELIVERED);
}

// let_in brings a packet that was taken out of its tunnel to its pod. Anybody may
// have put it into one: it gets no further than it would without.
static __always_inline int inline_let_in(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);

	union addr pod = load_addr(v6, d->addr);
	struct five_tuple t = tuple_of(&p);
	struct frontend *f = find_frontend(v6, &t.daddr, t.dport, t.proto);

	if (likely(f)) { // or it is about to be here: its targets come first
		d->traced = trace(v6, f, &t.daddr, t.dport, t.proto);
		if (f->flags & FRONTEND_INSIDE)
			return DROP(REASON_STALE_BACKEND);
		if (f->flags & FRONTEND_SOURCES && !may_use(v6, f->service, &t.saddr))
			return DROP(REASON_SOURCE_RANGE);
	}
	return send_to_pod(&p, &pod, d->port, d->handed_on, d->reason);
}
GLOBAL(let_in, struct detour)

static __always_inline int take_in_ipip(struct packet *outer)
{
	union addr pod = dest_of(outer);
	int handed_on = outer->v6 ? !!(*(__be32 *)outer->ip6 & bpf_htonl(LABEL_HANDED_ON)) : outer->ip->id == bpf_htons(OUTER_ID_HANDED_ON);
	return take_in(outer, outer->v6, 0, &pod, handed_on, PASS(REASON_NOT_OURS));
}

// take_in_option is take_in_geneve for a packet with our option, and a pod of v6.
static __always_inline int take_in_option(struct packet *outer, struct cursor *c, const struct geneve *g, const struct geneve_option *option, int v6)
{
	void *pod = take(c, addr_size(v6));
	__u32 skip = sizeof(struct udphdr) + sizeof(*g) + option_size(v6);

	if (!pod || outer->l4_len < skip || g->options != option_size(v6) / 4 || g->flags & GENEVE_OAM ||
	    option->length != option_size(v6) / 4 - 1 || option->version != OPTION_VERSION)
		return DROP(REASON_BAD_TUNNEL);
	union addr addr = load_addr(v6, pod);
	return take_in(outer, v6, skip, &addr, option->flags & OPTION_HANDED_ON, DROP(REASON_STALE_BACKEND));
}

static __always_inline int take_in_geneve(struct packet *outer)
{
	struct cursor c = { outer->l4 + sizeof(struct udphdr), ctx_end(outer->ctx, outer->hook) };
	struct geneve *g = take(&c, sizeof(*g));
	struct geneve_option *option = take(&c, sizeof(*option));

	// Others may use the port, too.
	if (!g || !option || option->class != bpf_htons(OPTION_CLASS) || option->type != OPTION_TYPE)
		return PASS(REASON_NOT_OURS);
	if (g->protocol == bpf_htons(ETH_P_IP))
		return take_in_option(outer, &c, g, option, 0);
	if (g->protocol == bpf_htons(ETH_P_IPV6))
		return take_in_option(outer, &c, g, option, 1);
	return DROP(REASON_BAD_TUNNEL);
}

// pull_inner brings the headers of the inner packet into an skb's linear part.
static __always_inline int pull_inner(struct packet *outer)
{
	struct __sk_buff *skb = outer->ctx;
	__u32 size = outer->l4_at + TUNNEL_MAX + HEADERS;

	return bpf_skb_pull_data(skb, skb->len < size ? skb->len : size) ? -1 : reload(outer, 0);
}

static __always_inline int inline_decapsulate(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet outer;
	if (on_detour(ctx, hook, v6, d, &outer) || (hook != HOOK_XDP && pull_inner(&outer)))
		return DROP(REASON_TRUNCATED);
	return outer.proto == IPPROTO_UDP ? take_in_geneve(&outer) : take_in_ipip(&outer);
}
GLOBAL(decapsulate, struct detour)

// take_out is the verdict on a packet that is_ipip or is_geneve: it is to be taken
// out of its tunnel, if it ends here.
static __always_inline int take_out(const struct packet *outer)
{
	union addr dest = dest_of(outer);

	if (outer->proto != IPPROTO_UDP && !find_endpoint(outer->v6, &dest))
		return PASS(REASON_NOT_OURS);
	return begin_detour(outer, &dest, 0, REASON_DECAP) ? VERDICT(ACT_DETOUR, REASON_DECAP) : DROP(REASON_NO_ROUTE);
}
