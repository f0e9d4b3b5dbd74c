// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Neighbour discovery (RFC 4861) for announced addresses: Neighbor Solicitations
// are answered while this node's lease is valid, and whoever else claims such an
// address is noted, as in ARP. All else of it is left to the kernel.
#pragma once

#include "announced.h"
#include "frame.h"
#include "icmp.h"

// The types of messages: two about neighbours, which are looked at, and others.
#define ND_ROUTER_SOLICITATION 133
#define ND_SOLICITATION        135
#define ND_ADVERTISEMENT       136
#define ND_REDIRECT            137

#define ND_HOPS 255 // of every message: it was not forwarded

// Flags of an advertisement (section 4.4).
#define ND_SOLICITED bpf_htonl(0x40000000)
#define ND_OVERRIDE  bpf_htonl(0x20000000)

// Options with a link-layer address (section 4.6.1).
#define ND_SOURCE_MAC 1
#define ND_TARGET_MAC 2

// What is looked at, of a message: all of it, or it is none of ours.
#define ND_MAX         256 // bytes, with the options
#define ND_MAX_OPTIONS 8

// nd_message is either kind of message, without its options.
struct nd_message {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 flags;
	__be32 target[4];
};

// nd_frame is what a frame with a message begins with, and behind that copies of
// its MACs, where they can be compared.
struct nd_frame {
	__u16 pad; // aligns what follows
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct nd_message message;
	__u8 to[8];
	__u8 mac[8]; // of the sender: the frame's source, or what the message says in its place
};

#define ND_FRAME_SIZE (sizeof(struct ethhdr) + sizeof(struct ipv6hdr) + sizeof(struct nd_message))

// nd_answer is the packet of an advertisement.
struct nd_answer {
	struct ipv6hdr ip;
	struct nd_message message;
	__u8 option;
	__u8 option_len; // in units of 8 bytes
	__u8 mac[ETH_ALEN];
};

_Static_assert(sizeof(struct nd_answer) == 72, "no padding, which would go out");
_Static_assert(ND_MAX == sizeof(((struct scratch *)0)->chunk), "a message fits the scratch");

// is_nd says whether an IPv6 packet is of neighbour discovery: what was forwarded is
// none. Its messages have no extension headers here: to allow them would be to allow
// fragments, too (RFC 6980).
static __always_inline int is_nd(const struct cursor *c)
{
	const struct ipv6hdr *ip = c->pos;
	const __u8 *type = (void *)(ip + 1);

	return (void *)(type + 1) <= c->end && ip->nexthdr == IPPROTO_ICMPV6 && ip->hop_limit == ND_HOPS &&
	       *type >= ND_ROUTER_SOLICITATION && *type <= ND_REDIRECT;
}

static __always_inline union addr nd_source(const struct nd_frame *f) { return load_addr(1, &f->ip.saddr); }
static __always_inline union addr nd_target(const struct nd_frame *f) { return load_addr(1, f->message.target); }

// is_nd_probe says whether a message is of duplicate address detection (RFC 4862,
// section 5.4.2): a machine is about to take the target for its own.
static __always_inline int is_nd_probe(const struct nd_frame *f)
{
	union addr source = nd_source(f);

	return f->message.type == ND_SOLICITATION && no_addr(1, &source);
}

// to_solicited_node says whether a packet is to a solicited-node group, ff02::1:ff00:0/104.
static __always_inline int to_solicited_node(const struct nd_frame *f)
{
	const __be32 *to = f->ip.daddr.in6_u.u6_addr32;

	return to[0] == bpf_htonl(0xff020000) && !to[1] && to[2] == bpf_htonl(1) && *(const __u8 *)&to[3] == 0xff;
}

// nd_checksum_ok sums up a message of size bytes, and leaves it in chunk.
static __always_inline int nd_checksum_ok(void *ctx, enum hook hook, struct scratch *s, const struct nd_frame *f, __u32 size)
{
	__u64 sum = bpf_htons(size) + bpf_htons(IPPROTO_ICMPV6);

	for (int i = 0; i < 4; i++)
		sum += (__u64)f->ip.saddr.in6_u.u6_addr32[i] + f->ip.daddr.in6_u.u6_addr32[i];
	sum += sum_bytes(ctx, hook, s, ETH_HLEN + sizeof(f->ip), size);
	return csum_fold(sum) == 0xffff;
}

// read_options checks the options of the message in chunk (section 4.6), and
// copies the first MAC of a kind. It returns whether there is one; -1: they are not valid.
static __always_inline int read_options(const struct scratch *s, __u32 size, __u8 kind, __u8 *mac)
{
	__u32 at = sizeof(struct nd_message);
	int found = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < ND_MAX_OPTIONS && at < size; i++) {
		const __u8 *option = (const void *)s->chunk + (at & (ND_MAX - 8));
		__u32 length = option[1] * 8;

		if (!length || at + length > size)
			return -1;
		if (!found && option[0] == kind && length == 8) {
			copy_mac(mac, option + 2);
			found = 1;
		}
		at += length;
	}
	return at == size ? found : -1;
}

// nd_valid checks a message as sections 7.1.1 and 7.1.2 say, and fills in mac.
static __always_inline int nd_valid(void *ctx, enum hook hook, struct scratch *s, struct nd_frame *f)
{
	int asks = f->message.type == ND_SOLICITATION, probe = is_nd_probe(f);
	__u32 size = bpf_ntohs(f->ip.payload_len);
	union addr source = nd_source(f);

	if (f->ip.version != 6 || f->message.code || *(__u8 *)&source == 0xff)
		return 0;
	if (size < sizeof(f->message) || size > ND_MAX || size % 8)
		return 0;
	if (probe && !to_solicited_node(f))
		return 0;
	if (!asks && (f->message.flags & ND_SOLICITED) && f->ip.daddr.in6_u.u6_addr8[0] == 0xff)
		return 0;
	if (!nd_checksum_ok(ctx, hook, s, f, size))
		return 0;
	copy_mac(f->mac, f->eth.h_source);
	int found = read_options(s, size, asks ? ND_SOURCE_MAC : ND_TARGET_MAC, f->mac);
	return found >= 0 && !(probe && found);
}

// answer_nd makes a solicitation the advertisement that answers it: to its sender,
// or, of a probe, whose sender has no address yet, to all nodes (section 7.2.4).
static __always_inline int answer_nd(void *ctx, enum hook hook, struct scratch *s, const struct nd_frame *f, const struct announced *a)
{
	struct nd_answer *answer = (void *)s->chunk;
	int probe = is_nd_probe(f);
	__u16 macs[ETH_ALEN] = { bpf_htons(0x3333), 0, bpf_htons(1) }; // of all nodes

	if (!probe)
		copy_mac(macs, f->mac);
	copy_mac(macs + ETH_ALEN / 2, a->mac);
	enum reason bad = turn_around(ctx, hook, ETH_HLEN, sizeof(*answer) - 8, 8);
	if (bad)
		return DROP(bad);

	__builtin_memset(answer, 0, sizeof(*answer));
	answer->ip.version = 6;
	answer->ip.payload_len = bpf_htons(sizeof(*answer) - sizeof(answer->ip));
	answer->ip.nexthdr = IPPROTO_ICMPV6;
	answer->ip.hop_limit = ND_HOPS;
	union addr target = nd_target(f), to = probe ? (union addr){ .v6 = { bpf_htonl(0xff020000), 0, 0, bpf_htonl(1) } } : nd_source(f);
	store_addr(1, &answer->ip.saddr, &target);
	store_addr(1, &answer->ip.daddr, &to);
	answer->message.type = ND_ADVERTISEMENT;
	answer->message.flags = probe ? ND_OVERRIDE : ND_SOLICITED | ND_OVERRIDE;
	store_addr(1, answer->message.target, &target);
	answer->option = ND_TARGET_MAC;
	answer->option_len = 1;
	copy_mac(answer->mac, a->mac);

	__u64 sum = answer->ip.payload_len + bpf_htons(IPPROTO_ICMPV6);
	for (int i = offsetof(struct ipv6hdr, saddr) / 4; i < sizeof(*answer) / 4; i++)
		sum += s->chunk[i];
	answer->message.checksum = ~csum_fold(sum);
	if (store_bytes(ctx, hook, ETH_HLEN, answer, sizeof(*answer)))
		return DROP(REASON_TRUNCATED);
	long failed = hook == HOOK_XDP ? bpf_xdp_store_bytes(AS_XDP(ctx), 0, macs, sizeof(macs))
				       : bpf_skb_store_bytes(AS_SKB(ctx), 0, macs, sizeof(macs), 0);
	return failed ? DROP(REASON_TRUNCATED) : TX(REASON_ND_REPLY);
}

// handle_nd handles a message that came in by a device. What is about no address
// announced there is the kernel's, also where it is sent to a VIP.
static __always_inline int handle_nd(void *ctx, enum hook hook, __u32 device)
{
	struct scratch *s = own_scratch();
	struct nd_frame f = {};

	if (!s || load_bytes(ctx, hook, 0, &f.eth, ND_FRAME_SIZE) ||
	    (f.message.type != ND_SOLICITATION && f.message.type != ND_ADVERTISEMENT))
		return PASS(REASON_NOT_OURS);
	// Who asks says by its source address that it has that one (section 7.2.3).
	union addr target = nd_target(&f);
	union addr claimed = f.message.type == ND_ADVERTISEMENT || is_nd_probe(&f) ? target : nd_source(&f);
	struct announced *a = find_announced(1, &claimed, device);
	int claim = !!a;
	if (!a && f.message.type == ND_SOLICITATION)
		a = find_announced(1, &target, device);
	if (!a)
		return PASS(REASON_NOT_OURS);

	if (!nd_valid(ctx, hook, s, &f))
		return PASS(REASON_ND_INVALID);
	if (claim) {
		if (same_mac(f.mac, a->mac))
			return PASS(REASON_NOT_OURS); // our own, come back
		note_claim(1, a, &claimed, f.mac, is_nd_probe(&f), device);
		if (!is_nd_probe(&f))
			return PASS(REASON_ND_CLAIM);
	}
	// One to another machine's MAC is that one's to answer, also when the switch
	// floods it; an answer to a group's would go to many.
	copy_mac(f.to, f.eth.h_dest);
	if (!(f.to[0] & 1 || same_mac(f.to, a->mac)) || f.mac[0] & 1)
		return PASS(REASON_NOT_OURS);
	return refuse_to_answer(1, a, f.mac) ?: answer_nd(ctx, hook, s, &f, a);
}

__noinline int handle_nd_xdp(struct xdp_md *ctx, __u32 device) { return handle_nd(ctx, HOOK_XDP, device); }
__noinline int handle_nd_tc(struct __sk_buff *ctx, __u32 device) { return handle_nd(ctx, HOOK_TC_OUTSIDE, device); }
