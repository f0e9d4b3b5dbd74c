// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What becomes of a frame from outside: to which pod its packet goes and how, or
// why not. XDP and tc do the same. Most packets to a VIP go the fast way; what has
// more to it is left to the long way, and to detours from either.
#pragma once

#include "arp.h"
#include "counters.h"
#include "decap.h"
#include "fragment.h"
#include "icmp_tunnel.h"
#include "link.h"
#include "nd.h"
#include "pins.h"
#include "refuse.h"
#include "snat.h"

// The detours of this file, in the order in which they are taken.
#define TO_LONG_WAY   VERDICT(ACT_DETOUR, REASON_UNSPEC)
#define TO_SCREEN     VERDICT(ACT_DETOUR, REASON_SOURCE_RANGE)
#define TO_TRANSLATE  VERDICT(ACT_DETOUR, REASON_FORWARD_SNAT)
#define TO_FORWARD    VERDICT(ACT_DETOUR, REASON_FORWARD_LOCAL)
#define TO_NOT_SERVED VERDICT(ACT_DETOUR, REASON_UNSERVED_PORT)
#define TO_REFUSAL    VERDICT(ACT_DETOUR, REASON_REFUSED)
#define TO_ICMP       VERDICT(ACT_DETOUR, REASON_UNSERVED_PROTO)

// leave puts a packet on a detour. reason is why, or what it is counted as in the end.
static __always_inline int leave(const struct packet *p, const union addr *dest, int detour, enum reason reason)
{
	return begin_detour(p, dest, 0, reason) ? detour : DROP(REASON_NO_ROUTE);
}

// no_backend is the verdict on a packet whose frontend has no backend.
static __always_inline int no_backend(const struct packet *p, const union addr *dest, const struct frontend *f)
{
	return f->flags & FRONTEND_REFUSE ? leave(p, dest, TO_REFUSAL, REASON_NO_BACKEND) : DROP(REASON_NO_BACKEND);
}

// forward_remote sends a packet to a pod on another node. Its hops are taken off
// at that node: the two count as one. One that has none left is not sent.
static __always_inline int forward_remote(struct packet *p, const struct frontend *f, __u32 hash, const struct target *b, enum reason reason)
{
	struct errand e = {
		.pod = b->addr,
		.next_hop = b->next_hop,
		.hash = hash,
		.geneve = !!(f->flags & FRONTEND_GENEVE),
		.reason = p->fragment == FRAGMENT_LATER ? REASON_FRAGMENT_PASSED : reason,
	};

	return unlikely(hops_of(p) <= 1) ? DROP(REASON_TTL_EXPIRED) : send_to_node(p, &e);
}

// forward sends a packet of a client to a backend of its frontend.
static __always_inline int forward(struct packet *p, const struct frontend *f, const struct five_tuple *t)
{
	__u32 hash = flow_hash(p->v6, t);
	struct target b = {};
	enum reason reason = choose_backend(p->v6, f, t, hash, age_of(p), p->tcp_flags, &b);
	if (unlikely(reason == REASON_NO_BACKEND))
		return no_backend(p, &t->daddr, f);

	count_forwarded(f->service, b.id, l3_len(p));
	if (b.flags & BACKEND_LOCAL)
		return send_to_pod(p, &b.addr, b.port, 0, REASON_FORWARD_LOCAL);
	return forward_remote(p, f, hash, &b, reason);
}

// inline_forward_translated is where packets go whose frontend has, or had, its
// packets translated. Those that are not go on to forward_plain.
static __always_inline int inline_forward_translated(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);

	struct five_tuple t = tuple_of(&p);
	struct frontend *f = find_frontend(v6, &t.daddr, t.dport, t.proto);
	if (!f)
		return TO_FORWARD;
	int verdict = snat_known(&p, f, &t);
	if (verdict)
		return verdict;
	struct target b = {};
	if (!(f->flags & FRONTEND_SNAT) ||
	    choose_backend(v6, f, &t, flow_hash(v6, &t), age_of(&p) | AGE_PAIRED, p.tcp_flags, &b) == REASON_NO_BACKEND || b.flags & BACKEND_LOCAL)
		return TO_FORWARD;
	return snat_out(&p, f, &t, &b) ?: TO_FORWARD;
}
GLOBAL(forward_translated, struct detour)

// find_own_vip is find_vip for what comes from outside.
static __always_inline struct frontend *find_own_vip(int v6, const union addr *addr)
{
	struct frontend *vip = find_vip(v6, addr);

	return vip && !(vip->flags & FRONTEND_INSIDE) ? vip : NULL;
}

// icmp_to_vip is the verdict on ICMP to a VIP that is no error: a ping is answered.
static __always_inline int icmp_to_vip(struct packet *p)
{
	if (is_echo(p))
		return answer_echo(p);
	if (is_neighbour_discovery(p))
		return PASS(REASON_NOT_OURS); // the kernel's, also where the address is ours
	return DROP(REASON_UNSERVED_PROTO);
}

// error_of_frontend hands an error about what a backend has sent from a frontend to that
// backend. It returns 0 when there is no such frontend.
static __always_inline int error_of_frontend(struct packet *p, struct quoted *q, struct detour *d)
{
	struct five_tuple t = reversed(&q->flow);
	struct frontend *f = find_frontend(p->v6, &t.daddr, t.dport, t.proto);
	struct target b = {};
	__u32 hash = flow_hash(p->v6, &t);

	if (!f)
		return 0;
	if (f->flags & FRONTEND_INSIDE) // about what kube-proxy has translated
		return PASS(REASON_NOT_OURS);
	if (choose_backend(p->v6, f, &t, hash, AGE_ABOUT, 0, &b) == REASON_NO_BACKEND)
		return DROP(REASON_ICMP_UNKNOWN);
	if (b.flags & BACKEND_LOCAL)
		return error_to_pod(p, q, &b.addr);
	if (hops_of(p) <= 1)
		return DROP(REASON_TTL_EXPIRED);
	store_addr(p->v6, d->addr, &b.addr);
	d->next_hop = b.next_hop;
	d->hash = hash;
	d->geneve = !!(f->flags & FRONTEND_GENEVE);
	d->handed_on = 0;
	d->reason = REASON_ICMP_FORWARDED;
	return VERDICT(ACT_DETOUR, REASON_FORWARD_REMOTE);
}

// inline_handle_icmp is where ICMP goes. An error to a VIP, or to this node, is about what
// was sent from a frontend there, or what this node has sent on, translated or in a tunnel:
// it goes to who sent that. What is of none of these is dropped, or this node's own.
static __always_inline int inline_handle_icmp(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);

	union addr dest = dest_of(&p);
	int to_vip = !!find_own_vip(v6, &dest);
	if (!is_icmp_error(&p))
		return to_vip ? icmp_to_vip(&p) : PASS(REASON_NOT_OURS);
	struct quoted *q = NULL;
	enum reason bad = quote_of(&p, &q);
	int verdict = 0;
	if (!bad)
		verdict = translated_error(&p, q) ?: error_of_frontend(&p, q, d);
	if (!verdict && to_vip)
		return DROP(bad ?: REASON_ICMP_UNKNOWN);
	if (!verdict && q)
		verdict = error_of_tunnel(&p, q);
	return verdict ?: PASS(REASON_NOT_OURS);
}
GLOBAL(handle_icmp, struct detour)

// inline_not_served is where packets go that no frontend takes: answers to
// translated packets, tunnels, and what is sent to a VIP in vain.
static __always_inline int inline_not_served(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);

	struct five_tuple t = tuple_of(&p);
	int verdict = is_nat_port(t.dport) ? snat_back(&p, &t) : 0;
	if (verdict) {
		d->traced = trace_translated(v6);
		return verdict;
	}
	if (reload(&p, l4_size(&p))) // snat_back may have looked, and in tc pointers do not outlive that
		return DROP(REASON_TRUNCATED);
	if (is_geneve(&p))
		return take_out(&p);
	struct frontend *vip = find_own_vip(v6, &t.daddr);
	if (!vip)
		return PASS(REASON_NOT_OURS);
	d->reason = REASON_UNSERVED_PORT;
	return vip->flags & FRONTEND_REFUSE ? TO_REFUSAL : DROP(REASON_UNSERVED_PORT);
}
GLOBAL(not_served, struct detour)

static __always_inline int inline_answer_refused(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;

	return on_detour(ctx, hook, v6, d, &p) ? DROP(d->reason) : refuse(&p, d->reason);
}
GLOBAL(answer_refused, struct detour)

// leave_unserved puts a packet that no frontend takes on a detour, unless it is
// plainly none of ours.
static __always_inline int leave_unserved(const struct packet *p, const struct five_tuple *t)
{
	if (is_icmp(p))
		return leave(p, &t->daddr, TO_ICMP, REASON_UNSPEC);
	if (likely(!find_vip(p->v6, &t->daddr) && !is_nat_port(t->dport) && t->dport != geneve_port))
		return PASS(REASON_NOT_OURS);
	return leave(p, &t->daddr, TO_NOT_SERVED, REASON_UNSPEC);
}

// begin_packet is the packet of a frame without tags.
static __always_inline struct packet begin_packet(void *ctx, enum hook hook, int v6, struct cursor *c)
{
	*c = (struct cursor){ ctx_data(ctx, hook), ctx_end(ctx, hook) };
	return (struct packet){ .ctx = ctx, .hook = hook, .v6 = v6, .eth = take(c, sizeof(struct ethhdr)), .l3_at = ETH_HLEN };
}

// inline_look_close parses a packet of which anything may be true, for the long way.
static __always_inline int inline_look_close(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct cursor c;
	struct packet p = begin_packet(ctx, hook, v6, &c);
	if (!p.eth)
		return DROP(REASON_TRUNCATED);
	enum reason bad = parse_ip(&c, whole_len(ctx, hook) - ETH_HLEN, &p);
	if (bad)
		return DROP(bad);

	union addr dest = dest_of(&p);
	if (is_ipip(&p) && find_endpoint(v6, &dest))
		return take_out(&p);
	bad = p.fragment ? parse_fragment(&c, &p) : parse_l4(&c, &p);
	if (!bad)
		return begin_detour(&p, &dest, 0, REASON_UNSPEC) ? TO_SCREEN : DROP(REASON_NO_ROUTE);
	// For the kernel to judge, unless it is to a VIP.
	return find_own_vip(v6, &dest) ? DROP(bad) : PASS(REASON_NOT_OURS);
}
GLOBAL(look_close, struct detour)

// inline_screen looks at what plain frontends have not.
static __always_inline int inline_screen(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);

	struct five_tuple t = tuple_of(&p);
	struct frontend *f = is_icmp(&p) ? NULL : find_frontend(v6, &t.daddr, t.dport, t.proto);
	if (!f)
		return leave_unserved(&p, &t);
	d->traced = trace(v6, f, &t.daddr, t.dport, t.proto);
	if (f->flags & FRONTEND_INSIDE)
		return PASS(REASON_NOT_OURS);
	if (f->flags & FRONTEND_SOURCES && !may_use(v6, f->service, &t.saddr))
		return DROP(REASON_SOURCE_RANGE);
	return f->flags & (FRONTEND_SNAT | FRONTEND_SWITCHED) ? TO_TRANSLATE : TO_FORWARD;
}
GLOBAL(screen, struct detour)

// inline_forward_plain is forward for what went the long way.
static __always_inline int inline_forward_plain(void *ctx, enum hook hook, int v6, struct detour *d)
{
	struct packet p;
	if (on_detour(ctx, hook, v6, d, &p))
		return DROP(REASON_TRUNCATED);

	struct five_tuple t = tuple_of(&p);
	struct frontend *f = find_frontend(v6, &t.daddr, t.dport, t.proto);
	return f ? forward(&p, f, &t) : DROP(REASON_NO_BACKEND); // it has just gone
}
GLOBAL(forward_plain, struct detour)

// fast_way is the way of whole packets to frontends with nothing special. Others
// go the long way. It knows the first buffer of a frame alone.
static __always_inline int fast_way(void *ctx, enum hook hook, int v6)
{
	struct cursor c;
	struct packet p = begin_packet(ctx, hook, v6, &c);
	if (!p.eth || parse_fixed(&c, frame_len(ctx, hook) - ETH_HLEN, &p) || p.fragment)
		return TO_LONG_WAY;
	if (unlikely(is_ipip(&p))) {
		union addr pod = dest_of(&p);
		return find_endpoint(v6, &pod) ? take_out(&p) : TO_LONG_WAY;
	}
	if (parse_l4(&c, &p) || is_icmp(&p))
		return TO_LONG_WAY;

	struct five_tuple t = tuple_of(&p);
	struct frontend *f = find_recent(v6, &t.daddr, t.dport, t.proto);
	if (!f)
		return leave_unserved(&p, &t);
	return unlikely(f->flags & FRONTEND_SLOW) ? TO_LONG_WAY : forward(&p, f, &t);
}

// The ways for each kind of program and family, not inlined: what one needs of
// the stack is then not the others' loss. The verifier looks at each once.
__noinline int fast_way_xdp4(struct xdp_md *ctx) { return fast_way(ctx, HOOK_XDP, 0); }
__noinline int fast_way_xdp6(struct xdp_md *ctx) { return fast_way(ctx, HOOK_XDP, 1); }
__noinline int fast_way_tc4(struct __sk_buff *ctx) { return fast_way(ctx, HOOK_TC_OUTSIDE, 0); }
__noinline int fast_way_tc6(struct __sk_buff *ctx) { return fast_way(ctx, HOOK_TC_OUTSIDE, 1); }

// take_detours goes on with a packet until there is a verdict on it. Each detour
// leads only to those below it.
static __always_inline int take_detours(void *ctx, enum hook hook, int v6, int verdict)
{
	struct detour *d = own_detour();
	if (!d)
		return DROP(REASON_NO_ROUTE);

	d->traced = 0;
	if (verdict == TO_LONG_WAY)
		verdict = look_close(ctx, hook, v6, d);
	if (verdict == TO_SCREEN)
		verdict = screen(ctx, hook, v6, d);
	if (verdict == TO_TRANSLATE)
		verdict = forward_translated(ctx, hook, v6, d);
	if (verdict == TO_FORWARD)
		verdict = forward_plain(ctx, hook, v6, d);
	if (verdict == TO_NOT_SERVED)
		verdict = not_served(ctx, hook, v6, d);
	if (verdict == TO_REFUSAL)
		verdict = answer_refused(ctx, hook, v6, d);
	if (verdict == TO_ICMP)
		verdict = handle_icmp(ctx, hook, v6, d);
	if (verdict == VERDICT(ACT_DETOUR, REASON_DECAP))
		verdict = decapsulate(ctx, hook, v6, d);
	// Inside a tunnel may be a packet of the other family.
	if (verdict == VERDICT(ACT_DETOUR, REASON_POD_DELIVERED))
		verdict = let_in(ctx, hook, d->v6, d);
	if (verdict == VERDICT(ACT_DETOUR, REASON_ICMP_FORWARDED))
		verdict = error_in(ctx, hook, d->v6, d);
	if (verdict == VERDICT(ACT_DETOUR, REASON_SECOND_CHANCE))
		verdict = hand_on(ctx, hook, d->v6, d);
	if (verdict == VERDICT(ACT_DETOUR, REASON_FORWARD_REMOTE))
		verdict = send_apart(ctx, hook, d->v6, d);
	if (verdict == VERDICT(ACT_DETOUR, REASON_TOO_BIG))
		verdict = tell_too_big(ctx, hook, d->v6, d);
	return verdict | (d->traced & VERDICT_TRACED);
}

// handle_untagged handles a frame without tags, or without those it had, of a
// device. length becomes the frame's, if it has further buffers.
static __always_inline int handle_untagged(void *ctx, enum hook hook, __u32 device, __u64 *length)
{
	struct cursor c = { ctx_data(ctx, hook), ctx_end(ctx, hook) };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	if (!eth)
		return DROP(REASON_TRUNCATED);
	__be16 type = eth->h_proto;
	if (unlikely(type == bpf_htons(ETH_P_ARP)))
		return hook == HOOK_XDP ? handle_arp_xdp(ctx, device) : handle_arp_tc(ctx, device);
	int v6 = type == bpf_htons(ETH_P_IPV6);
	if (unlikely(v6) && unlikely(is_nd(&c)))
		return hook == HOOK_XDP ? handle_nd_xdp(ctx, device) : handle_nd_tc(ctx, device);
	if ((!v6 && type != bpf_htons(ETH_P_IP)) || !is_addressed(device, eth))
		return PASS(REASON_NOT_OURS);

	int verdict;
	if (hook == HOOK_XDP)
		verdict = unlikely(v6) ? fast_way_xdp6(ctx) : fast_way_xdp4(ctx);
	else
		verdict = v6 ? fast_way_tc6(ctx) : fast_way_tc4(ctx);
	if (likely(ACTION_OF(verdict) != ACT_DETOUR))
		return verdict;
	*length = whole_len(ctx, hook);
	return take_detours(ctx, hook, v6, verdict);
}

// handle_frame handles a frame that came in by an outside device. length is its
// length as far as known, and becomes all of it.
static __always_inline int handle_frame(void *ctx, enum hook hook, __u64 *length)
{
	struct ethhdr *eth = ctx_data(ctx, hook);
	__u32 device = ctx_device(ctx, hook);
	struct tags tags;
	int tagged = 0;

	if ((void *)(eth + 1) > ctx_end(ctx, hook))
		return DROP(REASON_TRUNCATED);
	if (unlikely(has_tag(ctx, hook, eth))) {
		__builtin_memset(&tags, 0, sizeof(tags));
		enum reason bad = hook == HOOK_XDP ? take_tags_xdp(ctx, &tags) : take_tags_tc(ctx, &tags);
		if (bad)
			return bad == REASON_NOT_OURS ? PASS(bad) : DROP(bad);
		device = tags.device;
		*length = frame_len(ctx, hook);
		tagged = 1;
	}
	int verdict = handle_untagged(ctx, hook, device, length);
	if (likely(!tagged))
		return verdict;
	if (hook == HOOK_XDP)
		*length += tags.count * sizeof(struct vlan_tag);
	if (!goes_back(verdict))
		return verdict;
	enum reason bad = hook == HOOK_XDP ? put_tags_xdp(ctx, &tags) : put_tags_tc(ctx, &tags);
	return bad ? DROP(bad) : verdict;
}
