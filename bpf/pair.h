// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Translated flows. Each is a pair of entries, in nat_out by what the client
// sends and in nat_in by what the backend answers; each says what that becomes,
// so either leads to the other. Whoever removes a pair takes the one in nat_out
// first: as long as the other is there, nobody else is given its port.
//
// What has a 4 or a 6 in its name is a function of its own, which the verifier
// looks at once: the path of all other packets is to stay short for it, too.
#pragma once

#include "clock.h"
#include "frame.h"
#include "handshake.h"
#include "lb.h"
#include "nat.h"
#include "parse.h"
#include "trace.h"

// The ports that are given out, first and last, in the host's byte order: above
// those that Linux gives to its own sockets (net.ipv4.ip_local_port_range).
volatile const __u16 nat_port_low = 61000;
volatile const __u16 nat_port_high = 65535;

static __always_inline int is_nat_port(__be16 port)
{
	return bpf_ntohs(port) >= nat_port_low && bpf_ntohs(port) <= nat_port_high;
}

// How many ports are tried for a new flow.
#define NAT_PROBES 32

// translation is a packet of a translated flow.
struct translation {
	struct five_tuple from; // the packet as it came
	struct five_tuple to;   // what it becomes
	__u32 backend;          // index into backends
	__u32 next_hop;         // index into next_hops: towards the backend
	__u16 mtu;              // of the way, where the packet does not fit
	__u16 vlan;             // tag to be pushed; 0: none
	__u32 proof;            // proof_shown of a client's packet, proof_asked of a backend's
	__u32 stream;           // client_sends of a client's packet, client_heard of a backend's
	__u32 crc;              // crc_change from one to the other
	__u32 l3_at;            // from here on as in struct packet
	__u32 l4_at;
	__u32 l4_len;
	__u8 tcp_flags;
	__u8 first;
	__u8 fragment;
	__u8 flags; // NAT_*
};

_Static_assert(sizeof(struct translation) <= sizeof(((struct scratch *)0)->translation), "a translation fits");

// begin_translation returns the translation of a packet, in this CPU's scratch.
static __always_inline struct translation *begin_translation(const struct packet *p, const struct five_tuple *from)
{
	struct scratch *s = own_scratch();
	if (!s)
		return NULL;

	struct translation *n = (void *)s->translation;
	*n = (struct translation){
		.from = *from,
		.l3_at = p->l3_at,
		.l4_at = p->l4_at,
		.l4_len = p->l4_len,
		.tcp_flags = p->tcp_flags,
		.first = p->first,
		.fragment = p->fragment,
	};
	return n;
}

union any_nat {
	struct nat v4;
	struct nat6 v6;
};

// nat_state is what is behind the addresses of a nat and of a nat6.
struct nat_state {
	__be16 sport;
	__be16 dport;
	__u8 flags; // NAT_*
	__u8 pad[3];
	__u32 seen; // ticks
	__u32 backend;
	__u32 proof;
};

_Static_assert(sizeof(struct nat) - offsetof(struct nat, sport) == sizeof(struct nat_state), "nat ends in nat_state");
_Static_assert(sizeof(struct nat6) - offsetof(struct nat6, sport) == sizeof(struct nat_state), "nat6 ends in nat_state");

static __always_inline struct nat_state *state_of(int v6, void *entry)
{
	return entry + (v6 ? offsetof(struct nat6, sport) : offsetof(struct nat, sport));
}

// becomes is what an entry makes of the packets of its flow.
static __always_inline struct five_tuple becomes(int v6, void *entry, __u8 proto)
{
	struct nat_state *state = state_of(v6, entry);

	return (struct five_tuple){
		.saddr = load_addr(v6, entry),
		.daddr = load_addr(v6, entry + (v6 ? offsetof(struct nat6, daddr) : offsetof(struct nat, daddr))),
		.sport = state->sport,
		.dport = state->dport,
		.proto = proto,
	};
}

static __always_inline void nat_key(int v6, union any_tuple *key, const struct five_tuple *t)
{
	tuple_key(v6, key, &t->saddr, &t->daddr, t->sport, t->dport, t->proto);
}

// find_nat returns the entry of nat_out or nat_in for a packet; NULL: there is none.
static __always_inline void *find_nat(int v6, void *table, const struct five_tuple *t)
{
	union any_tuple key;

	nat_key(v6, &key, t);
	return bpf_map_lookup_elem(table, &key);
}

// insert_nat returns 0 or an error. (An int: before Linux 6.4 there is nothing in the
// upper half of what the helper returns.)
static __always_inline int insert_nat(int v6, void *table, const struct five_tuple *from, const struct five_tuple *to, const struct translation *n)
{
	union any_tuple key;
	union any_nat entry = {};
	struct nat_state *state = state_of(v6, &entry);

	nat_key(v6, &key, from);
	store_addr(v6, &entry, &to->saddr);
	store_addr(v6, (void *)&entry + (v6 ? offsetof(struct nat6, daddr) : offsetof(struct nat, daddr)), &to->daddr);
	state->sport = to->sport;
	state->dport = to->dport;
	state->flags = n->flags;
	state->seen = now();
	state->backend = n->backend;
	return bpf_map_update_elem(table, &key, &entry, BPF_NOEXIST);
}

static __always_inline void delete_nat(int v6, void *table, const struct five_tuple *t)
{
	union any_tuple key;

	nat_key(v6, &key, t);
	bpf_map_delete_elem(table, &key);
}

// note_packet keeps the age and state of a packet's entry. It writes only what
// changed: the line is shared between CPUs.
static __always_inline void note_packet(const struct translation *n, struct nat_state *state)
{
	__u32 seen = now();

	if (state->seen != seen)
		state->seen = seen;
	if (n->tcp_flags & (TCP_FIN | TCP_RST) && !(state->flags & NAT_CLOSING))
		state->flags |= NAT_CLOSING;
}

// note_becomes notes what the packet becomes, by its entry.
static __always_inline void note_becomes(int v6, struct translation *n, void *entry)
{
	n->to = becomes(v6, entry, n->from.proto);
	n->crc = crc_change(n->to.proto, n->l4_len, (n->from.sport ^ n->to.sport) | (__u32)(n->from.dport ^ n->to.dport) << 16);
}

// twin_of is the state of a pair's other entry, in a table; NULL: it is gone.
static __always_inline struct nat_state *twin_of(int v6, const struct translation *n, void *table)
{
	struct five_tuple answer = reversed(&n->to);
	void *twin = find_nat(v6, table, &answer);

	return twin ? state_of(v6, twin) : NULL;
}

// is_over says whether a pair is over for a client's packet: this begins another
// connection, and the backend's side has ended, too. The client's end alone may
// be a forgery, unless it is a RST that the backend takes for the client's.
static __always_inline int is_over(int v6, const struct translation *n, const struct nat_state *state)
{
	if (!n->first || !(state->flags & NAT_CLOSING))
		return 0;

	struct nat_state *in = twin_of(v6, n, TABLE(v6, nat_in));
	return !in || in->flags & NAT_CLOSING;
}

// find_out fills in what a client's packet becomes, and returns whether its flow
// has a pair that says so. A pair decides while its backend is there, and until
// its connection is over and the client begins another from the same port.
static __always_inline int find_out(int v6, struct translation *n)
{
	void *entry = find_nat(v6, TABLE(v6, nat_out), &n->from);
	if (!entry)
		return 0;

	struct nat_state *state = state_of(v6, entry);
	struct target b = {};
	note_becomes(v6, n, entry);
	if (load_target(v6, state->backend, &b) || !same_addr(v6, &b.addr, &n->to.daddr) || b.port != n->to.dport || is_over(v6, n, state)) {
		struct five_tuple in = reversed(&n->to);
		delete_nat(v6, TABLE(v6, nat_out), &n->from);
		delete_nat(v6, TABLE(v6, nat_in), &in);
		return 0;
	}
	n->backend = b.id;
	n->next_hop = b.next_hop;
	int resets = n->tcp_flags & TCP_RST, ends = resets || (n->tcp_flags & TCP_FIN && !(state->flags & NAT_CLOSING));
	int replies = (state->flags & (NAT_ANSWERED | NAT_REPLIED)) == NAT_ANSWERED && goes_on(n->tcp_flags, n->first) &&
		      proves(state->proof, n->proof);
	note_packet(n, state);
	if (likely(!ends && !replies))
		return 1;
	struct nat_state *in = twin_of(v6, n, TABLE(v6, nat_in));
	if (in)
		in->flags |= (ends ? NAT_LEFT : 0) | (replies ? NAT_REPLIED : 0) |
			     (resets && in->flags & NAT_ANSWERED && fits_stream(in->proof, n->stream) ? NAT_CLOSING : 0);
	if (replies)
		state->flags |= NAT_REPLIED;
	return 1;
}

__noinline int find_out4(struct translation *n) { return n ? find_out(0, n) : 0; }
__noinline int find_out6(struct translation *n) { return n ? find_out(1, n) : 0; }

// known_out says whether a client's packet is of a translated flow.
static __always_inline int known_out(int v6, struct translation *n)
{
	return v6 ? find_out6(n) : find_out4(n);
}

// note_answer notes what a backend's packet says of both sides of its pair: that
// there is an answer, a reset for both, and that the client's end was none, or half
// of one. It looks for the other entry only where there is something to say.
static __always_inline void note_answer(int v6, const struct translation *n, struct nat_state *state)
{
	__u8 flags = state->flags;
	int reset = n->tcp_flags & TCP_RST, goes = flags & NAT_LEFT && !(flags & NAT_CLOSING);

	if (likely(flags & NAT_ANSWERED && !reset && !goes && !n->proof))
		return;
	struct nat_state *out = twin_of(v6, n, TABLE(v6, nat_out));
	if (!out)
		return;
	if (reset) {
		out->flags |= NAT_CLOSING;
		return;
	}
	if (!(flags & NAT_ANSWERED)) {
		out->proof = n->proof;
		out->flags |= NAT_ANSWERED;
		state->flags |= NAT_ANSWERED;
	} else if (n->proof) { // the client has begun anew from the same port
		out->proof = n->proof;
	}
	if (goes) {
		out->flags &= ~NAT_CLOSING;
		state->flags &= ~NAT_LEFT;
	}
}

// find_in is find_out for what a backend answers. of is NAT_INSIDE or 0: flows of
// pods here, or of clients outside.
static __always_inline int find_in(int v6, struct translation *n, __u32 of)
{
	void *entry = find_nat(v6, TABLE(v6, nat_in), &n->from);
	if (!entry)
		return 0;

	struct nat_state *state = state_of(v6, entry);
	if ((state->flags & NAT_INSIDE) != of)
		return 0;
	note_becomes(v6, n, entry);
	note_packet(n, state);
	if (n->tcp_flags & TCP_ACK && state->proof != n->stream)
		state->proof = n->stream;
	note_answer(v6, n, state);
	return 1;
}

__noinline int find_in4(struct translation *n, __u32 of) { return n ? find_in(0, n, of) : 0; }
__noinline int find_in6(struct translation *n, __u32 of) { return n ? find_in(1, n, of) : 0; }

// known_in says whether a backend's packet is of a translated flow.
static __always_inline int known_in(int v6, struct translation *n, __u32 of)
{
	return v6 ? find_in6(n, of) : find_in4(n, of);
}

#define EEXIST 17

// insert_pair makes the entries of a new flow: to is what its packets become, with
// the source port that it is to have if that is free, or 0. It returns an enum
// reason: REASON_UNSPEC when the flow has a pair, this one or, if another CPU was
// faster, another.
static __always_inline int insert_pair(int v6, struct translation *n)
{
	__u32 range = (__u16)(nat_port_high - nat_port_low) + 1;
	__u32 at = (__u64)bpf_get_prandom_u32() * range >> 32;
	struct five_tuple back = reversed(&n->from);
	int err = -EEXIST;

	for (int i = 0; i < NAT_PROBES; i++) {
		if (i || !n->to.sport) {
			at = (at + i) % range; // by growing steps, which leave no clusters behind
			n->to.sport = bpf_htons(nat_port_low + at);
		}
		struct five_tuple in = reversed(&n->to);
		err = insert_nat(v6, TABLE(v6, nat_in), &in, &back, n);
		if (err != -EEXIST)
			break;
	}
	if (err)
		return err == -EEXIST ? REASON_NAT_PORTS : REASON_NAT_TABLE;
	err = insert_nat(v6, TABLE(v6, nat_out), &n->from, &n->to, n);
	if (!err)
		return REASON_UNSPEC;
	struct five_tuple in = reversed(&n->to);
	delete_nat(v6, TABLE(v6, nat_in), &in);
	return err == -EEXIST ? REASON_UNSPEC : REASON_NAT_TABLE;
}

__noinline int insert_pair4(struct translation *n) { return n ? insert_pair(0, n) : REASON_NAT_TABLE; }
__noinline int insert_pair6(struct translation *n) { return n ? insert_pair(1, n) : REASON_NAT_TABLE; }

// open_flow makes a packet the first of a translated flow. It returns why that is
// impossible, or REASON_UNSPEC.
static __always_inline enum reason open_flow(int v6, struct translation *n)
{
	enum reason why = v6 ? insert_pair6(n) : insert_pair4(n);

	return why || known_out(v6, n) ? why : REASON_NAT_TABLE; // removed in this moment
}

// packet_of is the packet of a translation.
static __always_inline struct packet packet_of(void *ctx, enum hook hook, int v6, const struct translation *n)
{
	return (struct packet){
		.ctx = ctx,
		.hook = hook,
		.v6 = v6,
		.l3_at = n->l3_at,
		.l4_at = n->l4_at,
		.l4_len = n->l4_len,
		.sport = n->from.sport,
		.dport = n->from.dport,
		.proto = n->from.proto,
		.fragment = n->fragment,
	};
}

// is_cut_off says whether a packet is a first fragment, of SCTP, which does not say how
// much the checksum covers that is to change.
static __always_inline int is_cut_off(const struct translation *n)
{
	return n->crc && n->fragment == FRAGMENT_FIRST;
}

// translate makes a packet what it becomes.
static __always_inline int translate(struct packet *p, const struct translation *n)
{
	if (reload(p, p->fragment == FRAGMENT_LATER ? 0 : 2 * sizeof(__be16))) // as far as the ports
		return -1;
	// The change of the checksum is that of both ports.
	return rewrite(p, DESTINATION, &n->to.daddr, n->to.dport, n->crc) || rewrite(p, SOURCE, &n->to.saddr, n->to.sport, 0) ? -1 : 0;
}

// trace_translated is trace_answer for the answer that this CPU has translated last.
static __always_inline int trace_translated(int v6)
{
	struct scratch *s = own_scratch();
	if (!s)
		return 0;

	struct translation *n = (void *)s->translation;
	return trace_answer(v6, &n->to.saddr, n->to.sport, n->to.proto);
}
