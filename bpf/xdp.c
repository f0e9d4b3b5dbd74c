// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// XDP on the outside devices: answers ARP and ping for VIPs, sends their
// packets to pods, and takes in what other nodes send to pods here.

#include "arp.h"
#include "counters.h"
#include "decap.h"
#include "fragment.h"
#include "icmp_error.h"
#include "lb.h"
#include "nat.h"
#include "parse.h"
#include "refuse.h"
#include "snat.h"

static __always_inline int forward_remote(struct packet *p, const struct frontend *f, const struct five_tuple *t, const struct target *b, enum reason reason)
{
	struct errand e = {
		.pod = b->addr,
		.next_hop = b->next_hop,
		.hash = flow_hash(p->v6, t),
		.geneve = !!(f->flags & FRONTEND_GENEVE),
		.reason = reason,
	};
	return send_to_node(p, &e);
}

// icmp_to_vip answers a ping, and hands an error about what a backend sent to
// that backend.
static __always_inline int icmp_to_vip(struct packet *p)
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
	return forward_remote(p, f, &t, &b, REASON_ICMP_FORWARDED);
}

// icmp_to_node hands an error about a translated packet to its client.
static __always_inline int icmp_to_node(struct packet *p)
{
	struct quoted *q;

	if (!is_icmp_error(p) || !addressed_device(p) || quote_of(p, &q))
		return PASS(REASON_NOT_OURS);
	return translated_error(p, q, TABLE(p->v6, nat_in)) ?: PASS(REASON_NOT_OURS);
}

static __always_inline int inline_handle_icmp(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);
	union addr dest = dest_of(&p);
	return find_vip(v6, &dest) ? icmp_to_vip(&p) : icmp_to_node(&p);
}
GLOBAL(handle_icmp, struct detour)

static __always_inline int leave_for_icmp(const struct packet *p)
{
	union addr none = {};
	return begin_detour(p, &none, 0, REASON_ICMP_FORWARDED) ? VERDICT(ACT_DETOUR, REASON_ICMP_FORWARDED) : DROP(REASON_NO_ROUTE);
}

// not_served handles what no frontend takes: ping and refusals for a VIP, and
// all the packets that are none of ours.
static __always_inline int not_served(struct packet *p, const union addr *dest, enum reason bad)
{
	struct frontend *f = find_vip(p->v6, dest);
	if (!f)
		return bad ? PASS(REASON_NOT_OURS) : is_icmp(p) && addressed_device(p) ? leave_for_icmp(p) : PASS(REASON_NOT_OURS);
	if (!addressed_device(p))
		return PASS(REASON_NOT_OURS);
	if (bad)
		return DROP(bad);
	if (is_icmp(p))
		return leave_for_icmp(p);
	return f->flags & FRONTEND_REFUSE ? refuse(p, REASON_UNSERVED_PORT) : DROP(REASON_UNSERVED_PORT);
}

static __always_inline int handle_ip(void *ctx, enum hook hook, int v6, struct cursor *c, struct ethhdr *eth)
{
	struct packet p = { .ctx = ctx, .hook = hook, .v6 = v6, .eth = eth, .l3_at = ETH_HLEN };
	enum reason bad = parse_ip(c, c->end - c->pos, &p);
	if (bad)
		return DROP(bad);
	struct five_tuple t = tuple_of(&p);
	if (unlikely(is_ipip(&p) && find_endpoint(v6, &t.daddr)))
		return take_out(&p);

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
		if (unlikely(is_geneve(&p)))
			return take_out(&p);
		return not_served(&p, &t.daddr, REASON_UNSPEC);
	}
	if (!addressed_device(&p))
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
		return send_to_pod(&p, &b.addr, b.port, 0, REASON_FORWARD_LOCAL);
	if (unlikely(f->flags & FRONTEND_SNAT))
		verdict = snat_out(&p, f, &t, &b);
	return fragment_verdict(&p, verdict ?: forward_remote(&p, f, &t, &b, REASON_FORWARD_REMOTE));
}

// One for each family, not inlined: what one needs of the stack is then not the
// other's loss, nor that of what comes after it.
static __noinline int handle_ipv4(struct xdp_md *ctx)
{
	struct cursor c = { ctx_data(ctx, HOOK_XDP), ctx_end(ctx, HOOK_XDP) };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	return eth ? handle_ip(ctx, HOOK_XDP, 0, &c, eth) : DROP(REASON_TRUNCATED);
}

static __noinline int handle_ipv6(struct xdp_md *ctx)
{
	struct cursor c = { ctx_data(ctx, HOOK_XDP), ctx_end(ctx, HOOK_XDP) };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	return eth ? handle_ip(ctx, HOOK_XDP, 1, &c, eth) : DROP(REASON_TRUNCATED);
}

static __always_inline int handle_frame(struct xdp_md *ctx)
{
	struct cursor c = { ctx_data(ctx, HOOK_XDP), ctx_end(ctx, HOOK_XDP) };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	if (!eth)
		return DROP(REASON_TRUNCATED);
	if (likely(eth->h_proto == bpf_htons(ETH_P_IP)))
		return handle_ipv4(ctx);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return handle_ipv6(ctx);
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return handle_arp(ctx, &c, eth);
	return PASS(REASON_NOT_OURS);
}

SEC("xdp")
int seamark_xdp(struct xdp_md *ctx)
{
	__u64 bytes = bpf_xdp_get_buff_len(ctx);

	int verdict = handle_frame(ctx);
	struct detour *d = own_detour();
	if (verdict == VERDICT(ACT_DETOUR, REASON_ICMP_FORWARDED) && d)
		verdict = handle_icmp(ctx, HOOK_XDP, d->v6, d);
	return finish(ctx, HOOK_XDP, take_detours(ctx, HOOK_XDP, verdict), bytes);
}
