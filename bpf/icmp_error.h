// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// ICMP errors of others about a flow of ours: the head of a packet that they
// quote says which. Quote and error are brought to what the receiver knows of
// (RFC 5508, section 4.2): a pod knows of no VIP, a client of no pod.
#pragma once

#include "icmp.h"
#include "nat.h"
#include "parse.h"

// quoted is what an error says, as offsets into the frame, and what is to become of it.
struct quoted {
	__u32 outer_at; // of the error: its IP header, its ICMP header, its end
	__u32 icmp_at;
	__u32 end;
	__u32 l3_at; // of the packet that it is about
	__u32 l4_at;
	struct five_tuple flow;    // of that packet, which came to grief
	struct five_tuple becomes; // what takes the place of it
	__u32 side;                // of the error itself that changes, too (enum side)
	union addr old;            // the address there
	__u64 before;              // sums of what changes under the error's checksum
	__u64 after;
};

// is_icmp_error says whether a packet tells of a packet (RFC 792: unreachable,
// time exceeded, parameter problem; RFC 4443: those, and too big).
static __always_inline int is_icmp_error(const struct packet *p)
{
	if (!is_icmp(p))
		return 0;
	__u8 type = icmp_kind(p) >> 8;
	return p->v6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
}

// parse_quoted fills l3_at, l4_at and flow. Routers quote at least 8 bytes behind
// the IP header (RFC 792), ports among them; a later fragment has none.
static __always_inline int inline_parse_quoted(void *ctx, enum hook hook, int v6, struct quoted *q)
{
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
		struct ipv6_fragment fragment;
	} h;
	__be16 ports[2];
	__u32 at = q->icmp_at + sizeof(struct icmphdr);
	__u8 proto;

	q->l3_at = at;
	if (at + (v6 ? sizeof(h.v6) : sizeof(h.v4)) > q->end || load_bytes(ctx, hook, at, &h, v6 ? sizeof(h.v6) : sizeof(h.v4)))
		return REASON_TRUNCATED;
	if (v6) {
		q->flow.saddr = load_addr(1, &h.v6.saddr);
		q->flow.daddr = load_addr(1, &h.v6.daddr);
		proto = h.v6.nexthdr;
		if (h.v6.version != 6)
			return REASON_BAD_HEADER;
		at += sizeof(h.v6);
		if (proto == IPPROTO_FRAGMENT) {
			if (at + sizeof(h.fragment) > q->end || load_bytes(ctx, hook, at, &h, sizeof(h.fragment)))
				return REASON_TRUNCATED;
			if (h.fragment.offset & IP6_OFFSET_MASK)
				return REASON_ICMP_UNKNOWN;
			proto = h.fragment.nexthdr;
			at += sizeof(h.fragment);
		}
	} else {
		q->flow.saddr = load_addr(0, &h.v4.saddr);
		q->flow.daddr = load_addr(0, &h.v4.daddr);
		proto = h.v4.protocol;
		if (h.v4.version != 4 || h.v4.ihl < 5)
			return REASON_BAD_HEADER;
		if (h.v4.frag_off & IP_OFFSET_MASK)
			return REASON_ICMP_UNKNOWN;
		at += h.v4.ihl * 4;
	}
	if (proto != IPPROTO_TCP && proto != IPPROTO_UDP && proto != IPPROTO_SCTP)
		return REASON_ICMP_UNKNOWN;
	if (at + 8 > q->end || load_bytes(ctx, hook, at, ports, sizeof(ports)))
		return REASON_TRUNCATED;
	q->l4_at = at;
	q->flow.sport = ports[0];
	q->flow.dport = ports[1];
	q->flow.proto = proto;
	return REASON_UNSPEC;
}
OUT_OF_LINE(parse_quoted, struct quoted)

// quote_of reads what an error is about into this CPU's scratch. An error goes to
// who sent that, unless it is a forgery. It returns REASON_UNSPEC, or what to
// drop the error for.
static __always_inline enum reason quote_of(const struct packet *p, struct quoted **quote)
{
	union addr to = dest_of(p);
	struct scratch *s = own_scratch();
	if (!s)
		return REASON_TRUNCATED;
	struct quoted *q = (void *)s->quoted;

	_Static_assert(sizeof(*q) <= sizeof(s->quoted), "quoted fits");
	q->outer_at = p->l3_at;
	q->icmp_at = p->l4_at;
	q->end = p->l4_at + p->l4_len;
	q->side = DESTINATION;
	*quote = q;
	enum reason bad = parse_quoted(p->ctx, p->hook, p->v6, q);
	if (bad)
		return bad;
	return same_addr(p->v6, &to, &q->flow.saddr) ? REASON_UNSPEC : REASON_ICMP_UNKNOWN;
}

// replace_check brings the checksum at an offset up to date. It is itself a part
// of what the error's checksum covers.
static __always_inline long replace_check(void *ctx, enum hook hook, struct quoted *q, __u32 at, __u64 from, __u64 to, int udp)
{
	__sum16 check;

	if (load_bytes(ctx, hook, at, &check, sizeof(check)))
		return -1;
	if (udp && !check) // the sender left it out (RFC 768)
		return 0;
	q->before += check;
	csum_replace(&check, from, to);
	if (udp && !check)
		check = 0xffff;
	q->after += check;
	return store_bytes(ctx, hook, at, &check, sizeof(check));
}

// rewrite_quoted makes the error one about becomes, and brings it to the sender
// of that (side is DESTINATION) or makes it come from the receiver (SOURCE). All
// that quotes may lack is the checksum behind the ports. SCTP's stays as it is: few
// quotes have all that it covers, and nobody checks it.
static __always_inline int inline_rewrite_quoted(void *ctx, enum hook hook, int v6, struct quoted *q)
{
	struct five_tuple *t = &q->becomes;
	__u32 size = v6 ? sizeof(q->old.v6) : sizeof(q->old.v4);
	__u32 addrs = v6 ? offsetof(struct ipv6hdr, saddr) : offsetof(struct iphdr, saddr);
	union addr *outer = q->side == SOURCE ? &t->daddr : &t->saddr;
	__u32 outer_at = q->outer_at + addrs + (q->side == SOURCE ? 0 : size);

	if (load_bytes(ctx, hook, outer_at, &q->old, size) || store_bytes(ctx, hook, outer_at, outer, size) ||
	    store_bytes(ctx, hook, q->l3_at + addrs, &t->saddr, size) ||
	    store_bytes(ctx, hook, q->l3_at + addrs + size, &t->daddr, size) ||
	    store_bytes(ctx, hook, q->l4_at, &t->sport, sizeof(t->sport) + sizeof(t->dport)))
		return -1;

	__u64 from = sum_addr(v6, &q->flow.saddr) + sum_addr(v6, &q->flow.daddr);
	__u64 to = sum_addr(v6, &t->saddr) + sum_addr(v6, &t->daddr);
	__u64 ports_from = (__u32)q->flow.sport + q->flow.dport, ports_to = (__u32)t->sport + t->dport;

	q->before = from + ports_from;
	q->after = to + ports_to;
	if (v6) { // whose ICMP sums up a pseudo header
		q->before += sum_addr(1, &q->old);
		q->after += sum_addr(1, outer);
	} else if (replace_check(ctx, hook, q, q->l3_at + offsetof(struct iphdr, check), from, to, 0)) {
		return -1;
	}
	int udp = t->proto == IPPROTO_UDP;
	__u32 check = q->l4_at + (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	if (t->proto != IPPROTO_SCTP && check + sizeof(__sum16) <= q->end &&
	    replace_check(ctx, hook, q, check, from + ports_from, to + ports_to, udp))
		return -1;
	if (replace_check(ctx, hook, q, q->icmp_at + offsetof(struct icmphdr, checksum), q->before, q->after, 0))
		return -1;
	return v6 || !replace_check(ctx, hook, q, q->outer_at + offsetof(struct iphdr, check), q->old.v4, outer->v4, 0) ? 0 : -1;
}
OUT_OF_LINE(rewrite_quoted, struct quoted)

// known_flow says whether a pod has, or begins to have, a flow: as it sends it.
static __always_inline int known_flow(int v6, const struct five_tuple *t)
{
	union any_tuple key;

	tuple_key(v6, &key, &t->saddr, &t->daddr, t->sport, t->dport, t->proto);
	return bpf_map_lookup_elem(TABLE(v6, flows), &key) || bpf_map_lookup_elem(TABLE(v6, half_open), &key);
}

// error_of_flow says whether a packet to a pod of this node is an error about a VIP's flow.
static __always_inline int error_of_flow(const struct packet *p)
{
	struct quoted *q;

	return is_icmp_error(p) && !quote_of(p, &q) && known_flow(p->v6, &q->flow);
}

// error_to_pod brings an error about what a pod of this node sent as a VIP to
// the pod, as one about what the pod knows to have sent.
static __always_inline int error_to_pod(struct packet *p, struct quoted *q, const union addr *pod)
{
	union any_local_key key;

	local_key_of(p->v6, &key, &q->flow.saddr, pod, q->flow.sport, q->flow.proto);
	struct local_target *target = bpf_map_lookup_elem(TABLE(p->v6, local_targets), &key);
	if (!target)
		return DROP(REASON_ICMP_UNKNOWN);
	q->becomes = q->flow;
	q->becomes.saddr = *pod;
	q->becomes.sport = target->port;
	if (!known_flow(p->v6, &q->becomes))
		return DROP(REASON_ICMP_UNKNOWN);
	return rewrite_quoted(p->ctx, p->hook, p->v6, q) ? DROP(REASON_TRUNCATED) : PASS(REASON_ICMP_FORWARDED);
}

// find_translated looks for the flow that an error is about among the translated
// ones, and says what the error becomes: one about the packet before translation.
// table is nat_out for what a backend answered, and nat_in for what was sent to
// one. It returns NAT_* of the entry, or -1 when there is none.
static __always_inline int find_translated(int v6, struct quoted *q, void *table)
{
	struct five_tuple t = reversed(&q->flow);
	union any_tuple key;

	tuple_key(v6, &key, &t.saddr, &t.daddr, t.sport, t.dport, t.proto);
	void *entry = bpf_map_lookup_elem(table, &key);
	if (!entry)
		return -1;
	struct nat *n = entry;
	struct nat6 *n6 = entry;
	q->becomes = (struct five_tuple){
		.saddr = load_addr(v6, v6 ? (void *)n6->daddr : &n->daddr),
		.daddr = load_addr(v6, v6 ? (void *)n6->saddr : &n->saddr),
		.sport = v6 ? n6->dport : n->dport,
		.dport = v6 ? n6->sport : n->sport,
		.proto = t.proto,
	};
	return v6 ? n6->flags : n->flags;
}

// send_error_on sends an error that was rewritten to its new destination. What
// the FIB has no way for yet is left to the kernel, which forwards it or says so.
static __always_inline int send_error_on(struct packet *p, const union addr *to)
{
	if (reload(p, 0))
		return DROP(REASON_TRUNCATED);
	if (hops_of(p) <= 1)
		return DROP(REASON_TTL_EXPIRED);

	union addr from = source_of(p);
	struct bpf_fib_lookup fib __attribute__((aligned(8))) = { // its addresses are stored in words of 64 bits
		.family = p->v6 ? AF_INET6 : AF_INET,
		.l4_protocol = p->proto,
		.tot_len = p->hook == HOOK_XDP ? l3_len(p) : 0,
		.ifindex = ctx_device(p->ctx, p->hook),
	};
	store_addr(p->v6, fib.ipv6_src, &from);
	store_addr(p->v6, fib.ipv6_dst, to);
	if (bpf_fib_lookup(p->ctx, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return PASS(REASON_ICMP_FORWARDED);
	// Whether another device takes frames from XDP, XDP does not know.
	if (p->hook == HOOK_XDP && fib.ifindex != ctx_device(p->ctx, p->hook))
		return PASS(REASON_ICMP_FORWARDED);
	copy_mac(p->eth->h_dest, fib.dmac);
	copy_mac(p->eth->h_source, fib.smac);
	decrement_hops(p);
	if (fib.ifindex == ctx_device(p->ctx, p->hook))
		return TX(REASON_ICMP_FORWARDED);
	bpf_redirect(fib.ifindex, 0);
	return REDIRECT(REASON_ICMP_FORWARDED);
}

// translated_error sends an error about a translated flow on to where the packet
// came from: the backend, or the client. It returns 0 when there is no such flow.
// Those of pods here are not brought to them until they are at their door
// (tc_to_pod.c).
static __always_inline int translated_error(struct packet *p, struct quoted *q)
{
	int flags = find_translated(p->v6, q, TABLE(p->v6, nat_out));
	if (flags < 0)
		flags = find_translated(p->v6, q, TABLE(p->v6, nat_in));
	if (flags < 0 || flags & NAT_INSIDE)
		return 0;
	union addr to = q->becomes.saddr;
	return rewrite_quoted(p->ctx, p->hook, p->v6, q) ? DROP(REASON_TRUNCATED) : send_error_on(p, &to);
}

// error_of_inside brings an error about what a pod of this node sent to a Service
// to what the pod knows to have sent. It returns a verdict, or 0.
static __always_inline int error_of_inside(struct packet *p, struct quoted *q)
{
	int flags = find_translated(p->v6, q, TABLE(p->v6, nat_in));
	if (flags < 0 || !(flags & NAT_INSIDE))
		return 0;
	return rewrite_quoted(p->ctx, p->hook, p->v6, q) ? DROP(REASON_TRUNCATED) : PASS(REASON_ICMP_FORWARDED);
}
