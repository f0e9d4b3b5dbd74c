// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// IP in IP (RFC 2003): to a pod on another node, and off again there.
#pragma once

#include "counters.h"
#include "csum.h"
#include "parse.h"

#define OUTER_TTL 64

// What the FIB fallback sends from, on kernels that do not choose it there
// (before 6.7). 0: unknown.
volatile const __be32 node_addr;
volatile const struct in6 node_addr6;

// own_addr is this node's address of a family.
static __always_inline union addr own_addr(int v6)
{
	union addr a = {};

	if (v6) {
		a.v6[0] = node_addr6.addr[0];
		a.v6[1] = node_addr6.addr[1];
		a.v6[2] = node_addr6.addr[2];
		a.v6[3] = node_addr6.addr[3];
	} else {
		a.v4 = node_addr;
	}
	return a;
}

// resolve asks the FIB for a next hop that userspace has not resolved.
static __always_inline enum reason resolve(void *ctx, struct next_hop *hop, __be32 dst, __u16 total)
{
	if (!hop->saddr)
		hop->saddr = node_addr;
	if (!hop->saddr)
		return REASON_NO_ROUTE;

	struct bpf_fib_lookup fib = {
		.family = AF_INET,
		.l4_protocol = IPPROTO_IPIP,
		.tot_len = total,
		.ifindex = ctx_device(ctx, HOOK_XDP),
		.ipv4_src = hop->saddr,
		.ipv4_dst = dst,
	};
	long err = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	if (err == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return REASON_TOO_BIG;
	if (err) // also NO_NEIGH: XDP cannot wait for an ARP reply
		return REASON_NO_ROUTE;
	hop->ifindex = fib.ifindex;
	__builtin_memcpy(hop->dmac, fib.dmac, ETH_ALEN);
	__builtin_memcpy(hop->smac, fib.smac, ETH_ALEN);
	return REASON_UNSPEC;
}

// encapsulate puts an outer header of total bytes in all before a packet. ECN is
// off in the outer header, so that none has to be carried over at the other end
// (RFC 6040, section 4.1, compatibility mode).
static __always_inline int encapsulate(void *ctx, const struct next_hop *hop, __be32 dst, __u32 total, __u8 tos)
{
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct iphdr)))
		return DROP(REASON_NO_HEADROOM);

	struct cursor c = { ctx_data(ctx, HOOK_XDP), ctx_end(ctx, HOOK_XDP) };
	__u32 *w = take(&c, ETH_HLEN + sizeof(struct iphdr));
	if (!w)
		return DROP(REASON_TRUNCATED);

	struct iphdr *ip = (void *)w + ETH_HLEN;
	const __u32 *macs = (const __u32 *)hop->dmac; // and smac: they are neighbours here and there
	w[0] = macs[0];
	w[1] = macs[1];
	w[2] = macs[2];
	((struct ethhdr *)w)->h_proto = bpf_htons(ETH_P_IP);

	__u32 version = bpf_htonl(0x45000000 | (__u32)(tos & 0xfc) << 16 | total);
	__u32 id = bpf_htonl(0x4000); // id 0, DF
	__u32 ttl = bpf_htonl(OUTER_TTL << 24 | IPPROTO_IPIP << 16);
	__u16 check = ~csum_fold((__u64)version + id + ttl + hop->saddr + dst);

	w = (__u32 *)ip;
	w[0] = version;
	w[1] = id;
	w[2] = ttl;
	ip->check = check;
	ip->saddr = hop->saddr;
	ip->daddr = dst;
	if (likely(hop->ifindex == ctx_device(ctx, HOOK_XDP)))
		return TX(REASON_FORWARD_REMOTE);
	bpf_redirect(hop->ifindex, 0);
	return REDIRECT(REASON_FORWARD_REMOTE);
}

// strip_outer takes the outer header off, and keeps the Ethernet header.
static __always_inline int strip_outer(void *ctx)
{
	__u32 mac[3];
	struct cursor c = { ctx_data(ctx, HOOK_XDP), ctx_end(ctx, HOOK_XDP) };
	__u32 *from = take(&c, ETH_HLEN + sizeof(struct iphdr));
	if (!from)
		return -1;
	mac[0] = from[0];
	mac[1] = from[1];
	mac[2] = from[2];
	if (bpf_xdp_adjust_head(ctx, sizeof(struct iphdr)))
		return -1;

	struct cursor d = { ctx_data(ctx, HOOK_XDP), ctx_end(ctx, HOOK_XDP) };
	__u32 *to = take(&d, ETH_HLEN);
	if (!to)
		return -1;
	to[0] = mac[0];
	to[1] = mac[1];
	to[2] = mac[2];
	((struct ethhdr *)to)->h_proto = bpf_htons(ETH_P_IP);
	return 0;
}
