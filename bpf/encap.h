// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// To a backend on another node, in a tunnel.
#pragma once

#include "csum.h"
#include "detour.h"
#include "device.h"
#include "icmp.h"
#include "mss.h"
#include "tunnel.h"

#define OUTER_HOPS 64

// Ports that nobody is given (RFC 6335, section 6).
#define EPHEMERAL      0xc000
#define EPHEMERAL_HASH 0x3fff

// errand is what is to be done with a packet for another node.
struct errand {
	union addr pod;
	__u32 next_hop;
	__u32 hash;         // of its flow: spreads tunnels over paths and queues
	__u8 geneve;        // or IP in IP
	__u8 handed_on;     // it has had its second chance
	enum reason reason; // what it is counted as
};

// way is the two ends of a tunnel and what it is made of.
struct way {
	union addr from;
	union addr to;
	__u8 v6; // of the outer header
	__u8 geneve;
};

static __always_inline int has_node6(const struct next_hop *hop)
{
	return hop->node6[0] | hop->node6[1] | hop->node6[2] | hop->node6[3];
}

// over_ipv6 says what Geneve goes over: what the packet is of, unless the other
// node has an address of the other family alone.
static __always_inline int over_ipv6(const struct packet *p, const struct next_hop *hop)
{
	return p->v6 ? has_node6(hop) || !hop->node : !hop->node && has_node6(hop);
}

static __always_inline struct way way_of(const struct errand *e, const struct next_hop *hop, int v6, int geneve)
{
	struct way way = { .v6 = v6, .geneve = geneve };

	way.from = v6 ? load_addr(1, hop->saddr6) : load_addr(0, &hop->saddr);
	if (!geneve)
		way.to = e->pod;
	else
		way.to = v6 ? load_addr(1, hop->node6) : load_addr(0, &hop->node);
	return way;
}

// resolve asks the FIB for a next hop that userspace has not resolved.
static __always_inline enum reason resolve(struct packet *p, const struct way *way, __u32 total, struct next_hop *hop)
{
	struct bpf_fib_lookup fib = {
		.family = way->v6 ? AF_INET6 : AF_INET,
		.l4_protocol = way->geneve ? IPPROTO_UDP : way->v6 ? IPPROTO_IPV6 : IPPROTO_IPIP,
		.tot_len = total,
		.ifindex = ctx_device(p->ctx, p->hook),
	};
	store_addr(way->v6, fib.ipv6_src, &way->from);
	store_addr(way->v6, fib.ipv6_dst, &way->to);
	long err = bpf_fib_lookup(p->ctx, &fib, sizeof(fib), 0);
	if (err == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		hop->mtu = fib.mtu_result;
		return REASON_TOO_BIG;
	}
	if (err) // also NO_NEIGH: there is no waiting for an answer
		return REASON_NO_ROUTE;
	hop->ifindex = fib.ifindex;
	by_carrier(p->hook, &hop->ifindex, &hop->vlan);
	__builtin_memcpy(hop->dmac, fib.dmac, ETH_ALEN);
	__builtin_memcpy(hop->smac, fib.smac, ETH_ALEN);
	return REASON_UNSPEC;
}

// write_geneve writes what is behind the outer IP header; length counts all of it
// and the packet. The UDP checksum is left out, over IPv6 too: what is inside has
// one of its own, and what goes astray is of no use elsewhere (RFC 6935, section
// 5; RFC 6936, section 4; RFC 8926, section 4.3.1).
static __always_inline void write_geneve(void *at, int v6, const struct errand *e, __u32 length)
{
	struct udphdr *udp = at;
	struct geneve *g = (void *)(udp + 1);
	struct geneve_option *option = (void *)(g + 1);

	*udp = (struct udphdr){
		.source = bpf_htons(EPHEMERAL | (e->hash & EPHEMERAL_HASH)),
		.dest = geneve_port,
		.len = bpf_htons(length),
	};
	*g = (struct geneve){
		.options = option_size(v6) / 4,
		.flags = GENEVE_CRITICAL,
		.protocol = v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP),
	};
	*option = (struct geneve_option){
		.class = bpf_htons(OPTION_CLASS),
		.type = OPTION_TYPE,
		.length = option_size(v6) / 4 - 1,
		.version = OPTION_VERSION,
		.flags = e->handed_on ? OPTION_HANDED_ON : 0,
	};
	store_addr(v6, option + 1, &e->pod);
}

// write_outer writes all that is between the Ethernet header and the packet; tos
// is the packet's. ECN is copied, as RFC 6040, section 4.1, has it for ends that
// merge it again: decap.h does, and so do the tunnels of kernels.
static __always_inline void write_outer(void *at, const struct packet *p, const struct errand *e, const struct way *way, __u32 total, __u8 tos)
{
	__u32 *w = at;
	__u8 proto = way->geneve ? IPPROTO_UDP : p->v6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	int marked = e->handed_on && !way->geneve;

	if (way->v6) {
		__u32 label = (e->hash & LABEL_HASH) | 1 | (marked ? LABEL_HANDED_ON : 0);

		w[0] = bpf_htonl(0x60000000 | (__u32)tos << 20 | label);
		w[1] = bpf_htonl((total - sizeof(struct ipv6hdr)) << 16 | (__u32)proto << 8 | OUTER_HOPS);
		store_addr(1, w + 2, &way->from);
		store_addr(1, w + 6, &way->to);
	} else {
		__u32 version = bpf_htonl(0x45000000 | (__u32)tos << 16 | (total & 0xffff));
		__u32 id = bpf_htonl((marked ? OUTER_ID_HANDED_ON : OUTER_ID) << 16 | 0x4000); // DF
		__u32 ttl = bpf_htonl(OUTER_HOPS << 24 | (__u32)proto << 16);

		w[0] = version;
		w[1] = id;
		w[2] = ttl;
		w[3] = way->from.v4;
		w[4] = way->to.v4;
		((struct iphdr *)at)->check = ~csum_fold((__u64)version + id + ttl + way->from.v4 + way->to.v4);
	}
	if (way->geneve)
		write_geneve(at + ip_size(way->v6), p->v6, e, total - ip_size(way->v6));
}

// push_xdp makes room for the outer headers, writes the frame's header before
// them and returns where they go; NULL when there is no room.
static __always_inline void *push_xdp(struct packet *p, const struct next_hop *hop, const struct way *way, __u32 size)
{
	__u32 tag = unlikely(hop->vlan) ? 4 : 0;
	if (bpf_xdp_adjust_head(p->ctx, (int)p->l3_at - (int)(ETH_HLEN + tag + size)))
		return NULL;

	struct cursor c = { ctx_data(p->ctx, HOOK_XDP), ctx_end(p->ctx, HOOK_XDP) };
	__u32 *w = take(&c, ETH_HLEN + size);
	if (!w)
		return NULL;
	const __u32 *macs = (const __u32 *)hop->dmac; // and smac: they are neighbours here and there
	__be16 type = way->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	w[0] = macs[0];
	w[1] = macs[1];
	w[2] = macs[2];
	if (likely(!tag)) {
		((struct ethhdr *)w)->h_proto = type;
		return (void *)w + ETH_HLEN;
	}
	if (!take(&c, tag))
		return NULL;
	__be16 *vlan = (void *)w + ETH_HLEN;
	((struct ethhdr *)w)->h_proto = bpf_htons(ETH_P_8021Q);
	vlan[0] = bpf_htons(hop->vlan);
	vlan[1] = type;
	return vlan + 2;
}

// push_skb makes room for the outer headers and copies them and a frame's header
// there. It returns 0, or -1.
static __always_inline int push_skb(struct packet *p, const struct next_hop *hop, const struct way *way, const void *outer, __u32 size)
{
	struct __sk_buff *skb = p->ctx;
	struct ethhdr eth = { .h_proto = way->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP) };
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | (way->v6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);

	if (way->geneve)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	__builtin_memcpy(eth.h_dest, hop->dmac, ETH_ALEN);
	__builtin_memcpy(eth.h_source, hop->smac, ETH_ALEN);
	return bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, flags) ||
	       bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0) ||
	       bpf_skb_store_bytes(skb, ETH_HLEN, outer, size, 0) ||
	       (hop->vlan && bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), hop->vlan)) ? -1 : 0;
}

// encapsulate puts a packet into its tunnel, total bytes with the outer headers,
// and sends it. p is no longer to be used.
static __always_inline int encapsulate(struct packet *p, const struct errand *e, const struct way *way, const struct next_hop *hop, __u32 total)
{
	__u32 size = tunnel_size(way->v6, way->geneve, p->v6);
	enum reason reason = p->fragment == FRAGMENT_LATER ? REASON_FRAGMENT_PASSED : e->reason;
	__u8 tos = traffic_class(p);

	if (p->hook == HOOK_XDP) {
		void *outer = push_xdp(p, hop, way, size);
		if (!outer)
			return DROP(REASON_NO_HEADROOM);
		write_outer(outer, p, e, way, total, tos);
	} else {
		struct scratch *s = own_scratch();
		if (!s)
			return DROP(REASON_NO_HEADROOM);
		write_outer(s->chunk, p, e, way, total, tos);
		if (push_skb(p, hop, way, s->chunk, size))
			return DROP(REASON_NO_HEADROOM);
	}
	if (likely(hop->ifindex == ctx_device(p->ctx, p->hook)))
		return TX(reason);
	bpf_redirect(hop->ifindex, 0);
	return REDIRECT(reason);
}

// wire_len is the length of the longest IP packet that this one is sent as: what
// GRO has put together is taken apart again.
static __always_inline __u32 wire_len(const struct packet *p)
{
	__u32 segment = p->hook == HOOK_XDP ? 0 : AS_SKB(p->ctx)->gso_size;

	if (!segment || (void *)(p->tcp + 1) > ctx_end(p->ctx, p->hook))
		return l3_len(p);
	return p->l4_at - p->l3_at + segment + (p->proto == IPPROTO_TCP ? p->tcp->doff * 4 : sizeof(struct udphdr));
}

// mtu_of is the longest IP packet to a next hop; 0: unknown.
static __always_inline __u32 mtu_of(const struct next_hop *hop)
{
	if (likely(hop->mtu))
		return hop->mtu;
	struct device *d = find_device(hop->ifindex);
	return d ? d->mtu : 0;
}

// segment_of is the longest TCP segment that fits a tunnel.
static __always_inline __u16 segment_of(const struct packet *p, __u32 mtu, __u32 overhead)
{
	return mtu - overhead - ip_size(p->v6) - sizeof(struct tcphdr);
}

static __always_inline int inline_tell_too_big(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;

	return on_detour(ctx, hook, v6, d, &p) ? DROP(REASON_TOO_BIG) : too_big(&p, d->mtu);
}
GLOBAL(tell_too_big, struct detour)

// leave_for_error puts a packet longer than mtu on the detour to tell_too_big.
static __always_inline int leave_for_error(const struct packet *p, __u32 mtu)
{
	union addr none = {};
	struct detour *d = begin_detour(p, &none, 0, REASON_TOO_BIG);
	if (!d)
		return DROP(REASON_TOO_BIG);

	d->mtu = mtu;
	return VERDICT(ACT_DETOUR, REASON_TOO_BIG);
}

// send_by is send_apart in a tunnel of that kind.
static __always_inline int send_by(struct packet *p, const struct errand *e, const struct next_hop *hop, const struct node_addrs *own, int v6, int geneve)
{
	__u32 overhead = tunnel_size(v6, geneve, p->v6);
	struct way way = way_of(e, hop, v6, geneve);
	struct next_hop resolved;

	if (no_addr(v6, &way.from))
		way.from = first_addr(v6, own);
	if (no_addr(v6, &way.from) || no_addr(v6, &way.to))
		return DROP(REASON_NO_ROUTE);
	if (!hop->ifindex) {
		resolved = *hop;
		enum reason bad = resolve(p, &way, wire_len(p) + overhead, &resolved);
		if (bad)
			return bad == REASON_TOO_BIG ? leave_for_error(p, resolved.mtu - overhead) : DROP(bad);
		hop = &resolved;
	}
	__u32 mtu = mtu_of(hop);
	if (mtu && wire_len(p) + overhead > mtu)
		return leave_for_error(p, mtu - overhead);
	if (p->first && p->proto == IPPROTO_TCP && mtu && clamp_mss(p, segment_of(p, mtu, overhead)))
		return DROP(REASON_TRUNCATED);
	return encapsulate(p, e, &way, hop, l3_len(p) + overhead);
}

// send_apart sends a packet of which something is out of the ordinary.
static __always_inline int inline_send_apart(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct errand e = {
		.pod = load_addr(v6, d->addr),
		.next_hop = d->next_hop,
		.hash = d->hash,
		.geneve = d->geneve,
		.handed_on = d->handed_on,
		.reason = d->reason,
	};
	__u32 at = e.next_hop;
	struct next_hop *hop = bpf_map_lookup_elem(&next_hops, &at);
	at = 0; // the stack has no room for another key
	struct node_addrs *own = bpf_map_lookup_elem(&own_addrs, &at);
	if (!hop || !own)
		return DROP(REASON_NO_ROUTE);
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);
	if (!e.geneve)
		return send_by(&p, &e, hop, own, v6, 0);
	return over_ipv6(&p, hop) ? send_by(&p, &e, hop, own, 1, 1) : send_by(&p, &e, hop, own, 0, 1);
}
GLOBAL(send_apart, struct detour)

// leave_to_send puts a packet on the detour to send_apart.
static __always_inline int leave_to_send(const struct packet *p, const struct errand *e)
{
	struct detour *d = begin_detour(p, &e->pod, 0, e->reason);
	if (!d)
		return DROP(REASON_NO_ROUTE);

	d->next_hop = e->next_hop;
	d->hash = e->hash;
	d->geneve = e->geneve;
	d->handed_on = e->handed_on;
	return VERDICT(ACT_DETOUR, REASON_FORWARD_REMOTE);
}

// send_to_node sends a packet to the node of its backend: in IP in IP to a next hop that
// is known, if it fits.
static __always_inline int send_to_node(struct packet *p, const struct errand *e)
{
	__u32 at = e->next_hop;
	struct next_hop *hop = bpf_map_lookup_elem(&next_hops, &at);
	if (!hop)
		return DROP(REASON_NO_ROUTE);

	struct way way = way_of(e, hop, p->v6, 0);
	__u32 overhead = ip_size(p->v6), mtu = mtu_of(hop);
	if (unlikely(e->geneve || !hop->ifindex || no_addr(p->v6, &way.from) || (mtu && wire_len(p) + overhead > mtu)))
		return leave_to_send(p, e);
	if (unlikely(p->first && p->proto == IPPROTO_TCP && mtu) && clamp_first(p, segment_of(p, mtu, overhead)))
		return leave_to_send(p, e);
	return encapsulate(p, e, &way, hop, l3_len(p) + overhead);
}
