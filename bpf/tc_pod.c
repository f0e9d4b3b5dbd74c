// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// tc ingress of the pods' veths on the host: what a pod answers to a client of
// a VIP comes from the VIP, and goes straight out, so that neither netfilter
// nor rp_filter sees a packet with an address that is not the pod's.

#include "counters.h"
#include "detour.h"
#include "flow.h"
#include "fragment.h"
#include "icmp_error.h"
#include "inside.h"
#include "lb.h"
#include "mss.h"
#include "nat.h"
#include "skb.h"
#include "trace.h"
#include "tunnel.h"

// is_syn_ack says whether a pod's packet accepts a connection, and has its MSS.
static __always_inline int is_syn_ack(const struct packet *p)
{
	return p->proto == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK);
}

// offer_mss is the MSS that a pod may offer to the clients of a frontend, by the
// tunnel that their packets come in.
static __always_inline __u16 offer_mss(const struct packet *p, const union addr *vip, __be16 port)
{
	struct frontend *f = find_frontend(p->v6, vip, port, p->proto);
	union addr own = own_addr(p->v6);
	int geneve = f && f->flags & FRONTEND_GENEVE;
	int over6 = geneve && no_addr(p->v6, &own) ? !p->v6 : p->v6;
	__u32 less = tunnel_size(over6, geneve, p->v6) + ip_size(p->v6) - 2 * sizeof(struct iphdr);

	return mss_clamp - less;
}

// fib_query asks how a packet from a VIP gets to its client.
static __always_inline struct bpf_fib_lookup fib_query(const struct packet *p, const union addr *vip, __be16 port)
{
	struct bpf_fib_lookup fib = {
		.family = p->v6 ? AF_INET6 : AF_INET,
		.l4_protocol = p->proto,
		.ifindex = ctx_device(p->ctx, p->hook),
		.sport = port,
		.dport = p->dport,
	};
	union addr client = dest_of(p);

	if (p->v6)
		fib.flowinfo = *(__be32 *)p->ip6 & bpf_htonl(0x0fffffff);
	else
		fib.tos = p->ip->tos;
	store_addr(p->v6, fib.ipv6_src, vip);
	store_addr(p->v6, fib.ipv6_dst, &client);
	return fib;
}

// redirect_by sends a packet out as the FIB has said: without a MAC, the stack
// asks for the next hop's.
static __always_inline int redirect_by(struct packet *p, const struct bpf_fib_lookup *fib, long answer, enum reason reason)
{
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH) {
		struct bpf_redir_neigh gateway = { .nh_family = p->v6 ? AF_INET6 : AF_INET };
		__builtin_memcpy(gateway.ipv6_nh, fib->ipv6_dst, sizeof(gateway.ipv6_nh));
		bpf_redirect_neigh(fib->ifindex, &gateway, sizeof(gateway), 0);
		return REDIRECT(reason);
	}
	__builtin_memcpy(p->eth->h_dest, fib->dmac, ETH_ALEN);
	__builtin_memcpy(p->eth->h_source, fib->smac, ETH_ALEN);
	bpf_redirect(fib->ifindex, 0);
	return REDIRECT(reason);
}

// way_out asks how a packet gets to its client. It returns a BPF_FIB_LKUP_RET_*:
// NOT_FWDED also for another pod here, to which the kernel brings it.
static __always_inline long way_out(const struct packet *p, struct bpf_fib_lookup *fib)
{
	union addr client = dest_of(p);

	return find_endpoint(p->v6, &client) ? BPF_FIB_LKUP_RET_NOT_FWDED : bpf_fib_lookup(p->ctx, fib, sizeof(*fib), 0);
}

// send_out routes a packet, as the kernel would, past the kernel: its netfilter
// has not seen the client's half of the connection. Of a client on this very
// node it has, and has to see the other half. way is what way_out has said.
static __always_inline int send_out(struct packet *p, const struct bpf_fib_lookup *fib, long way, enum reason reason)
{
	if (way == BPF_FIB_LKUP_RET_NOT_FWDED)
		return PASS(reason);
	if (way != BPF_FIB_LKUP_RET_SUCCESS && way != BPF_FIB_LKUP_RET_NO_NEIGH)
		return DROP(REASON_NO_ROUTE);
	if (reload(p, 0))
		return DROP(REASON_TRUNCATED);
	decrement_hops(p);
	return redirect_by(p, fib, way, reason);
}

// answer sends a pod's packet of a flow out from the flow's VIP, which d has. One
// that does not fit its way is answered, for the pod to send smaller ones.
static __always_inline int inline_answer(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);
	union addr vip = load_addr(v6, d->addr);
	d->traced = trace_answer(v6, &vip, d->port, p.proto);
	if (hops_of(&p) <= 1)
		return DROP(REASON_TTL_EXPIRED);

	struct bpf_fib_lookup fib = fib_query(&p, &vip, d->port);
	long way = way_out(&p, &fib);
	if (unlikely(way == BPF_FIB_LKUP_RET_FRAG_NEEDED))
		return too_big(&p, fib.mtu_result);

	enum reason bad = set_source(&p, &vip, d->port);
	if (bad)
		return DROP(bad);
	if (unlikely(mss_clamp && is_syn_ack(&p)) && clamp_mss(&p, offer_mss(&p, &vip, d->port)))
		return DROP(REASON_TRUNCATED);
	return send_out(&p, &fib, way, d->reason);
}
GLOBAL_TC(answer, HOOK_TC_POD, struct detour)

// tell_client sends a pod's error about a client's packet out as an error of the
// VIP about what the client knows to have sent (RFC 5508, section 4.2).
static __always_inline int inline_tell_client(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct quoted *q;
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);
	if (!is_icmp_error(&p) || quote_of(&p, &q))
		return PASS(REASON_NOT_OURS);

	struct five_tuple t = reversed(&q->flow); // as the pod would answer
	union any_flow *f = find_flow(v6, &t);
	if (!f)
		return PASS(REASON_NOT_OURS);
	if (hops_of(&p) <= 1)
		return DROP(REASON_TTL_EXPIRED);
	q->becomes = q->flow;
	q->becomes.daddr = load_addr(v6, flow_vip(&p, f));
	q->becomes.dport = FLOW(&p, f, port);
	q->side = SOURCE;
	struct bpf_fib_lookup fib = fib_query(&p, &q->becomes.daddr, 0);
	long way = way_out(&p, &fib);
	if (rewrite_quoted(ctx, hook, v6, q) || reload(&p, 0))
		return DROP(REASON_TRUNCATED);
	return send_out(&p, &fib, way, REASON_ICMP_FORWARDED);
}
GLOBAL_TC(tell_client, HOOK_TC_POD, struct detour)

// is_spoofed says whether a pod's packet has the address of another pod: that one's
// flows are not for others to touch. What has no pod's address is of no flow.
static __always_inline int is_spoofed(const struct packet *p)
{
	union addr source = source_of(p);
	struct endpoint *e = find_endpoint(p->v6, &source);

	return e && e->ifindex != ctx_device(p->ctx, p->hook);
}

// inline_from_pod handles what a pod sends, parsed. What it answers to a VIP's client, and
// ICMP, go on.
static __always_inline int inline_from_pod(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);
	if (unlikely(is_spoofed(&p)))
		return DROP(REASON_SPOOFED_POD);
	if (unlikely(is_icmp(&p)))
		return p.fragment ? PASS(REASON_NOT_OURS) : VERDICT(ACT_DETOUR, REASON_ICMP_FORWARDED);

	union any_flow *f = answered_flow(&p);
	if (f) {
		union addr vip = load_addr(v6, flow_vip(&p, f));

		if (unlikely(p.fragment == FRAGMENT_FIRST))
			remember(&p);
		store_addr(v6, d->addr, &vip);
		d->port = FLOW(&p, f, port);
		d->reason = p.fragment == FRAGMENT_LATER ? REASON_FRAGMENT_PASSED : REASON_REPLY;
		return VERDICT(ACT_DETOUR, REASON_REPLY);
	}
	return inside(&p) ?: PASS(REASON_NOT_OURS);
}
GLOBAL_TC(from_pod, HOOK_TC_POD, struct detour)

// parse_pod parses what a pod sends, for from_pod: the verifier is not to look at that for
// every way through the headers.
static __always_inline int parse_pod(struct __sk_buff *skb, int v6)
{
	struct packet p = { .ctx = skb, .hook = HOOK_TC_POD, .v6 = v6 };
	union addr none = {};

	return parse_ports(skb, &p) || !begin_detour(&p, &none, 0, REASON_UNSPEC) ? -1 : 0;
}

// Not inlined, so that what comes after them has the stack for itself.
__noinline int parse_pod4(struct __sk_buff *skb) { return parse_pod(skb, 0); }
__noinline int parse_pod6(struct __sk_buff *skb) { return parse_pod(skb, 1); }

static __always_inline int handle_skb(struct __sk_buff *skb)
{
	int v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (skb->vlan_present || (!v6 && skb->protocol != bpf_htons(ETH_P_IP)))
		return PASS(REASON_NOT_OURS);

	struct detour *d = own_detour();
	if (!d || (v6 ? parse_pod6(skb) : parse_pod4(skb)))
		return PASS(REASON_NOT_OURS);
	d->traced = 0;
	int verdict = from_pod(skb, v6, d);
	if (verdict == VERDICT(ACT_DETOUR, REASON_REPLY))
		verdict = answer(skb, v6, d);
	else if (verdict == VERDICT(ACT_DETOUR, REASON_ICMP_FORWARDED))
		verdict = tell_client(skb, v6, d);
	return verdict | (d->traced & VERDICT_TRACED);
}

SEC("tc")
int seamark_tc_pod(struct __sk_buff *skb)
{
	__u64 bytes = skb->len;

	return finish(skb, HOOK_TC_POD, handle_skb(skb), bytes);
}
