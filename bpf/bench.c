// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What the XDP program is measured with, under BPF_PROG_TEST_RUN, and the one in tc
// behind it. Loaded by benchmarks only.

#include "bpf.h"

// Flow n of flows (a power of two) goes to VIP n % VIPS.
#define VIPS 100

__u32 flows;
__u32 macs[3];   // destination and source of each frame
__u8 tcp_flags; // of each packet

// What each CPU has sent, a cache line apart from all else.
#define CPUS 64
#define LINE 16
__u32 counts[CPUS * LINE] __attribute__((aligned(64)));

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} measured SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} measured_tc SEC(".maps");

// The pods that XDP has chosen for flows.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 20);
	__type(key, __u32);
	__type(value, __be32);
} pods SEC(".maps");

struct vip_key {
	__be32 addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, VIPS);
	__type(key, struct vip_key);
	__type(value, __u64);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VIPS);
	__type(key, __u32);
	__type(value, __u64);
} rows SEC(".maps");

struct headers {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

struct headers6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

// next_flow is the number of the flow that the next packet is of.
static __always_inline __u32 next_flow(void)
{
	__u32 *count = &counts[(bpf_get_smp_processor_id() % CPUS) * LINE];

	return ((*count)++ * 0x9e3779b1) & (flows - 1);
}

// begin takes off what the program put on the frame in the last run, and returns
// it, with room for size bytes, and its MACs as they were; NULL: there is none.
static __always_inline void *begin(struct xdp_md *ctx, __u32 size)
{
	__u32 outer = ctx->data_end - ctx->data - size;
	if (outer && bpf_xdp_adjust_head(ctx, outer))
		return NULL;
	__u32 *frame = (void *)(long)ctx->data;
	if ((void *)frame + size > (void *)(long)ctx->data_end)
		return NULL;
	for (int i = 0; i < 3; i++)
		frame[i] = macs[i];
	return frame;
}

static __always_inline void write_tcp(void *at, __u32 n, __u16 port)
{
	struct tcphdr *tcp = at;

	tcp->source = bpf_htons(1024 + (n & 0x7fff));
	tcp->dest = bpf_htons(port);
	((__u8 *)at)[13] = tcp_flags;
}

// bench_wrap brings the packet back to what it was before the last run, as one
// of the next flow, and runs the program in measured. A repeated test run does
// neither by itself.
SEC("xdp.frags")
int bench_wrap(struct xdp_md *ctx)
{
	struct headers *h = begin(ctx, sizeof(*h));
	if (!h)
		return XDP_ABORTED;

	__u32 n = next_flow();
	h->eth.h_proto = bpf_htons(ETH_P_IP);
	h->ip.tot_len = bpf_htons(sizeof(h->ip) + sizeof(h->tcp));
	h->ip.ttl = 64;
	h->ip.saddr = bpf_htonl(0x0a000000 + n);
	h->ip.daddr = bpf_htonl(0xc0a80a00 + n % VIPS);
	write_tcp((void *)(h + 1) - sizeof(h->tcp), n, 80);
	bpf_tail_call(ctx, &measured, 0);
	return XDP_ABORTED;
}

// bench_wrap6 is bench_wrap for IPv6.
SEC("xdp.frags")
int bench_wrap6(struct xdp_md *ctx)
{
	struct headers6 *h = begin(ctx, sizeof(*h));
	if (!h)
		return XDP_ABORTED;

	__u32 n = next_flow();
	h->eth.h_proto = bpf_htons(ETH_P_IPV6);
	h->ip.payload_len = bpf_htons(sizeof(h->tcp));
	h->ip.saddr.in6_u.u6_addr32[3] = bpf_htonl(0x0a000000 + n);
	h->ip.daddr.in6_u.u6_addr32[3] = bpf_htonl(n % VIPS);
	write_tcp((void *)(h + 1) - sizeof(h->tcp), n, 80);
	bpf_tail_call(ctx, &measured, 0);
	return XDP_ABORTED;
}

// bench_wrap_tc is bench_wrap for a packet that XDP has rewritten for a pod here.
SEC("tc")
int bench_wrap_tc(struct __sk_buff *skb)
{
	struct headers *h = (void *)(long)skb->data;
	if ((void *)(h + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;

	__u32 n = next_flow();
	__be32 *pod = bpf_map_lookup_elem(&pods, &n);
	if (!pod)
		return TC_ACT_SHOT;
	__u32 *frame = (void *)h;
	for (int i = 0; i < 3; i++)
		frame[i] = macs[i];
	h->ip.ttl = 64;
	h->ip.saddr = bpf_htonl(0x0a000000 + n);
	h->ip.daddr = *pod;
	write_tcp((void *)(h + 1) - sizeof(h->tcp), n, 8080);
	bpf_tail_call(skb, &measured_tc, 0);
	return TC_ACT_SHOT;
}

SEC("tc")
int bench_empty_tc(struct __sk_buff *skb)
{
	return TC_ACT_REDIRECT;
}

SEC("xdp.frags")
int bench_empty(struct xdp_md *ctx)
{
	return XDP_TX;
}

// bench_push makes room as an encapsulation does, and nothing else: what it
// costs beyond bench_empty is an adjust_head here and one in bench_wrap.
SEC("xdp.frags")
int bench_push(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, -(int)sizeof(struct iphdr)) ? XDP_ABORTED : XDP_TX;
}

// bench_push6 is bench_push for IPv6.
SEC("xdp.frags")
int bench_push6(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, -(int)sizeof(struct ipv6hdr)) ? XDP_ABORTED : XDP_TX;
}

// bench_floor is the least a load balancer can do: parse, find the VIP, find
// one thing more.
SEC("xdp.frags")
int bench_floor(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	struct iphdr *ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > end || ip->ihl != 5 || ip->protocol != IPPROTO_TCP)
		return XDP_PASS;
	struct tcphdr *tcp = (void *)(ip + 1);
	if ((void *)(tcp + 1) > end)
		return XDP_PASS;

	struct vip_key key = { .addr = ip->daddr, .port = tcp->dest, .proto = ip->protocol };
	__u64 *vip = bpf_map_lookup_elem(&vips, &key);
	if (!vip)
		return XDP_PASS;
	__u32 at = *vip;
	__u64 *row = bpf_map_lookup_elem(&rows, &at);
	if (!row)
		return XDP_PASS;
	(*row)++;
	return XDP_TX;
}

char dual_license[] SEC("license") = "Dual BSD/GPL";
