// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Flows whose backend their slot alone does not say: those of slots that moved
// in the window of changes that is open now, and those to frontends with affinity.
// No packet of another flow comes here.
#pragma once

#include "clock.h"
#include "lb.h"

// What a packet says of the age of its flow.
enum packet_age {
	AGE_FIRST,   // begins a flow: TCP SYN, SCTP INIT
	AGE_LATER,   // belongs to one
	AGE_UNKNOWN, // UDP: one or the other
	AGE_ABOUT,   // only tells of a flow (ICMP errors): nothing is written for it
	AGE_MASK = 3,
	AGE_PAIRED = 4, // besides: a pair of translation is to say its backend, and no pin
};

static __always_inline enum packet_age age_of(const struct packet *p)
{
	if (p->first)
		return AGE_FIRST;
	return p->proto == IPPROTO_UDP ? AGE_UNKNOWN : AGE_LATER;
}

// choice is what there is to know for choosing. It is handed to functions that are not
// inlined, so that the others keep their registers.
struct choice {
	union any_tuple key;
	__u32 hash;
	__u32 set;
	__u32 look;    // of the set, as it was when slot was read
	__u32 slot;    // of the active table
	__u32 service; // with affinity: whose; without: 0
	__u8 affinity; // 0 or 1
	__u8 age;      // enum packet_age, without AGE_PAIRED
	__u8 paired;   // AGE_PAIRED, or 0
	__u8 tcp_flags;
};

// What choose_pinned returns: the backend, and why it.
#define CHOSEN(reason, backend) ((reason) << 20 | (backend))

// row_flags returns BACKEND_*, or -1 when there is no such backend (any more).
static __always_inline int row_flags(int v6, __u32 id)
{
	struct target b;

	return load_target(v6, id, &b) ? -1 : b.flags;
}

// takes_new says whether a backend is there for new flows.
static __always_inline int takes_new(int v6, __u32 id)
{
	int flags = row_flags(v6, id);

	return flags >= 0 && !(flags & BACKEND_DRAINING);
}

static __always_inline int ends(const struct choice *c)
{
	return c->tcp_flags & (TCP_FIN | TCP_RST);
}

// refresh_pin notes a packet of a pinned flow. It writes only what changed: the
// line is shared between CPUs. A flow is to last (FLOW_REPLIED) when a second packet
// of it has come: those of floods have one.
static __always_inline void refresh_pin(struct pin *pin, const struct choice *c)
{
	__u32 seen = now(), flags = pin->flags;

	if (c->age != AGE_FIRST && !(c->tcp_flags & TCP_RST))
		flags |= FLOW_REPLIED;
	if (ends(c))
		flags |= FLOW_CLOSING;
	if (pin->seen != seen)
		pin->seen = seen;
	if (pin->flags != flags)
		pin->flags = flags;
}

// pin_flow makes a backend that of the flow, also instead of another: who begins a
// flow with the ports of an old one has given that up. It returns 0, or an error
// when there is no room.
static __always_inline long pin_flow(int v6, struct choice *c, struct pin *pin, __u32 backend)
{
	struct pin fresh = {
		.backend = backend,
		.set = c->set,
		.seen = now(),
		.flags = ends(c) ? FLOW_CLOSING : 0,
	};

	if (c->paired)
		return 0;
	if (pin) {
		*pin = fresh;
		return 0;
	}
	return bpf_map_update_elem(TABLE(v6, pins), &c->key, &fresh, BPF_ANY);
}

union any_affinity_key {
	struct affinity_key v4;
	struct affinity_key6 v6;
	__u64 words[3];
};

static __always_inline void affinity_key_of(int v6, union any_affinity_key *key, const struct choice *c)
{
	if (v6) {
		key->words[0] = c->key.words[0];
		key->words[1] = c->key.words[1];
		key->words[2] = c->service;
	} else {
		key->words[0] = (__u64)c->service << 32 | c->key.v4.saddr;
	}
}

// client_backend returns the backend that the client had last, if its time is not
// over; -1: none.
static __always_inline int client_backend(int v6, const struct choice *c, __u32 timeout)
{
	union any_affinity_key key;

	affinity_key_of(v6, &key, c);
	struct affinity *a = bpf_map_lookup_elem(TABLE(v6, affinity), &key);
	return a && now() - a->seen <= timeout && takes_new(v6, a->backend) ? (int)a->backend : -1;
}

static __always_inline void note_client(int v6, const struct choice *c, __u32 backend)
{
	struct affinity a = { .backend = backend, .seen = now() };
	union any_affinity_key key;

	affinity_key_of(v6, &key, c);
	bpf_map_update_elem(TABLE(v6, affinity), &key, &a, BPF_ANY);
}

// previous_backend returns the backend of the flow before its slot moved; -1: it is
// gone, or the slot has not moved. One that is gone while its row stays may still
// know the flow (a pod that is not ready any more): then the second chance finds it.
// Sent there at once, newer flows that came by another node would be lost.
static __always_inline int previous_backend(int v6, const struct choice *c, const struct backend_set *s)
{
	if (!(c->slot & SLOT_MOVED && c->look & SET_MOVING))
		return -1;
	int slot = slot_of(c->set, s, (c->look & SET_PREVIOUS) >> SET_PREVIOUS_SHIFT, c->hash);
	if (slot < 0)
		return -1;
	int flags = row_flags(v6, slot & SLOT_BACKEND);
	return flags >= 0 && !(flags & BACKEND_GONE) ? slot & SLOT_BACKEND : -1;
}

// choose_first chooses for the first packet of a flow: the new backend, and from
// then on its pin says so. Without room for pins it is the previous one: that is
// where the packets to follow are sent that have none. A flow that goes on keeps its
// backend: its client begins no other, and a forgery is to change nothing.
static __always_inline __u32 choose_first(int v6, struct choice *c, struct pin *pin, const struct backend_set *s)
{
	__u32 active = c->slot & SLOT_BACKEND;

	if (pin && pin->set == c->set && !(pin->flags & FLOW_CLOSING) && takes_new(v6, pin->backend)) {
		refresh_pin(pin, c);
		return CHOSEN(REASON_FORWARD_PINNED, pin->backend & SLOT_BACKEND);
	}
	if (c->affinity) {
		int last = client_backend(v6, c, s->affinity);
		__u32 backend = last >= 0 ? (__u32)last : active;
		note_client(v6, c, backend);
		pin_flow(v6, c, pin, backend); // without room, what follows is the client's, too
		return CHOSEN(REASON_FORWARD_REMOTE, backend);
	}
	if (!pin_flow(v6, c, pin, active))
		return CHOSEN(REASON_FORWARD_REMOTE, active);
	int previous = previous_backend(v6, c, s);
	return previous >= 0 && takes_new(v6, previous) ? CHOSEN(REASON_FORWARD_PREVIOUS, previous) : CHOSEN(REASON_FORWARD_REMOTE, active);
}

// choose_later chooses for a packet without a pin that may be of an older flow.
static __always_inline __u32 choose_later(int v6, struct choice *c, struct pin *pin, const struct backend_set *s)
{
	int last = c->affinity ? client_backend(v6, c, s->affinity) : -1;
	int previous = previous_backend(v6, c, s);
	__u32 chosen = CHOSEN(REASON_FORWARD_REMOTE, c->slot & SLOT_BACKEND);
	int known = 1; // what is chosen is what an older flow would have

	if (last >= 0)
		chosen = CHOSEN(REASON_FORWARD_REMOTE, last);
	else if (previous >= 0 && (c->age != AGE_UNKNOWN || takes_new(v6, previous)))
		chosen = CHOSEN(REASON_FORWARD_PREVIOUS, previous);
	else
		known = c->affinity || c->age == AGE_UNKNOWN;
	if (c->age == AGE_ABOUT || c->tcp_flags & TCP_RST)
		return chosen;
	if (known)
		pin_flow(v6, c, pin, chosen & SLOT_BACKEND);
	if (c->affinity && c->age == AGE_UNKNOWN)
		note_client(v6, c, chosen & SLOT_BACKEND);
	return chosen;
}

static __always_inline __u32 choose_pinned(int v6, const struct choice *from)
{
	if (!from)
		return CHOSEN(REASON_NO_BACKEND, 0);

	struct choice on_stack = *from, *c = &on_stack; // where Linux 6.1 wants keys
	struct backend_set *s = bpf_map_lookup_elem(&sets, &c->set);
	if (!s)
		return CHOSEN(REASON_NO_BACKEND, 0);
	struct pin *pin = bpf_map_lookup_elem(TABLE(v6, pins), &c->key);
	if (c->age == AGE_FIRST)
		return choose_first(v6, c, pin, s);
	if (!pin || row_flags(v6, pin->backend) < 0)
		return choose_later(v6, c, pin, s);
	if (c->age != AGE_ABOUT)
		refresh_pin(pin, c);
	return CHOSEN(REASON_FORWARD_PINNED, pin->backend & SLOT_BACKEND);
}

// Global, so that the verifier looks at each once, and not on every way there is to it.
__noinline __u32 choose_pinned4(struct choice *c)
{
	return choose_pinned(0, c);
}

__noinline __u32 choose_pinned6(struct choice *c)
{
	return choose_pinned(1, c);
}

// choose_backend finds the backend of a packet to a frontend. It returns why that one:
// one of REASON_FORWARD_*, or REASON_NO_BACKEND. t and hash are the flow's,
// as the client sends it.
static __always_inline enum reason choose_backend(int v6, const struct frontend *f, const struct five_tuple *t, __u32 hash,
						  enum packet_age age, __u8 tcp_flags, struct target *b)
{
	__u32 set = f->set;
	struct backend_set *s = bpf_map_lookup_elem(&sets, &set);
	if (unlikely(!s))
		return REASON_NO_BACKEND;

	__u32 look = *(volatile __u32 *)&s->look;
	int slot = slot_of(set, s, look & SET_ACTIVE, hash);
	if (unlikely(slot < 0))
		return REASON_NO_BACKEND;
	int moved = slot & SLOT_MOVED && look & SET_MOVING;
	if (likely(!moved && !(f->flags & FRONTEND_AFFINITY)))
		return load_target(v6, slot & SLOT_BACKEND, b) ? REASON_NO_BACKEND : REASON_FORWARD_REMOTE;

	struct choice c = {
		.hash = hash,
		.set = set,
		.look = look,
		.slot = slot,
		.service = f->service,
		.affinity = !!(f->flags & FRONTEND_AFFINITY),
		.age = age & AGE_MASK,
		.paired = age & AGE_PAIRED,
		.tcp_flags = tcp_flags,
	};
	tuple_key(v6, &c.key, &t->saddr, &t->daddr, t->sport, t->dport, t->proto);
	__u32 chosen = v6 ? choose_pinned6(&c) : choose_pinned4(&c);
	return load_target(v6, chosen & SLOT_BACKEND, b) ? REASON_NO_BACKEND : chosen >> 20;
}

union any_source_key {
	struct source_key v4;
	struct source_key6 v6;
};

// may_use says whether a client is in the prefixes of a service port (FRONTEND_SOURCES).
static __always_inline int may_use(int v6, __u32 service, const union addr *client)
{
	union any_source_key key = {};

	if (v6) {
		key.v6.prefixlen = 8 * (sizeof(service) + sizeof(key.v6.addr));
		key.v6.service = service;
		__builtin_memcpy(key.v6.addr, client->v6, sizeof(key.v6.addr));
	} else {
		key.v4.prefixlen = 8 * (sizeof(service) + sizeof(key.v4.addr));
		key.v4.service = service;
		key.v4.addr = client->v4;
	}
	return bpf_map_lookup_elem(TABLE(v6, sources), &key) != NULL;
}
