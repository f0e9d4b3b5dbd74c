// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The ends of the paths that testlab/bench measures: what sends packets, and what
// counts them where they come out. Loaded by benchmarks only. All of it runs on one CPU.

#include "bpf.h"
#include "csum.h"

// Flow n of flows (a power of two) is from address clients + n to one of the services'
// addresses from vips on, TCP port 80; addresses in the host's byte order.
__u32 flows;
__u32 clients;
__u32 vips;
__u32 services;

__u32 device;    // that packets are sent from
__u32 macs[3];   // destination and source of each frame
__u8 tcp_flags;  // of each packet: SYN, or ACK as of a connection that is there
__u32 sent;      // packets made: which flow is next
__u64 received;  // IP packets that came out
__u8 look;       // keep what comes out
__u8 last[54];   // the beginning of the last packet kept

#define TH_SYN 2
#define TH_ACK 16

struct frame {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

static __always_inline void *ip_of(void *frame) { return frame + offsetof(struct frame, ip); }

static __always_inline void *tcp_of(void *frame) { return frame + offsetof(struct frame, tcp); }

// checksums are IP's and TCP's of a packet, over its words as they stand in it
// but for the checksums.
static __always_inline void checksums(struct iphdr *ip, struct tcphdr *tcp)
{
	__u32 *words = (void *)ip;
	__u64 addrs = (__u64)words[3] + words[4];

	ip->check = ~csum_fold((__u64)words[0] + words[1] + (words[2] & 0xffff) + addrs);
	words = (void *)tcp;
	tcp->check = ~csum_fold(addrs + bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(*tcp)) +
				words[0] + words[1] + words[2] + words[3] + tcp->urg_ptr);
}

// make_packet makes the next flow's packet of whatever the frame was before: live
// frames come back as the last path left them. Whole words, since to read a word
// that was written in parts would take longer than the rest. 0: there is no room.
static __always_inline int make_packet(struct xdp_md *ctx)
{
	struct frame *f = (void *)(long)ctx->data;
	if ((void *)(f + 1) > (void *)(long)ctx->data_end)
		return 0;

	__u32 n = (sent++ * 0x9e3779b1) & (flows - 1);
	__u32 service = ((__u64)(n * 0x9e3779b1) * services) >> 32;
	__u32 *eth = (void *)f;
	for (int i = 0; i < 3; i++)
		eth[i] = macs[i];
	f->eth.h_proto = bpf_htons(ETH_P_IP);

	__u32 *ip = ip_of(f), *tcp = tcp_of(f);
	ip[0] = bpf_htonl(0x45000000 + sizeof(f->ip) + sizeof(f->tcp));
	ip[1] = bpf_htonl(0x4000); // do not fragment
	ip[2] = bpf_htonl(64 << 24 | IPPROTO_TCP << 16);
	ip[3] = bpf_htonl(clients + n);
	ip[4] = bpf_htonl(vips + service);
	tcp[0] = bpf_htonl((1024 + (n & 0x7fff)) << 16 | 80);
	tcp[1] = tcp_flags & TH_SYN ? 0 : bpf_htonl(1);
	tcp[2] = tcp_flags & TH_ACK ? bpf_htonl(1) : 0;
	tcp[3] = bpf_htonl(5 << 28 | tcp_flags << 16 | 0xffff);
	tcp[4] = 0;
	checksums((void *)ip, (void *)tcp);
	return 1;
}

// traffic_send sends packets from the device.
SEC("xdp")
int traffic_send(struct xdp_md *ctx)
{
	return make_packet(ctx) ? bpf_redirect(device, 0) : XDP_ABORTED;
}

// traffic_make only makes them: the generator alone.
SEC("xdp")
int traffic_make(struct xdp_md *ctx)
{
	if (!make_packet(ctx))
		return XDP_ABORTED;
	received++;
	return XDP_DROP;
}

// traffic_pass is on devices that are to take frames, which a veth does only with
// a program of its own.
SEC("xdp")
int traffic_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

// traffic_back sends frames back where they came from: what anything on a stick
// does at least.
SEC("xdp")
int traffic_back(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	struct ethhdr was = *eth;
	__builtin_memcpy(eth->h_dest, was.h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, was.h_dest, ETH_ALEN);
	return XDP_TX;
}

// accepts counts a frame, and turns a SYN into its SYN-ACK, as a server's: the
// connections have to be there for both ends before they are measured.
static __always_inline int accepts(void *data, void *end)
{
	struct frame *f = data;
	if ((void *)(f + 1) > end || f->eth.h_proto != bpf_htons(ETH_P_IP))
		return 0;
	received++;
	if (unlikely(look))
		__builtin_memcpy(last, f, sizeof(last));
	struct iphdr *ip = ip_of(f);
	struct tcphdr *tcp = tcp_of(f);
	__u8 *flags = (void *)tcp + 13;
	if (ip->protocol != IPPROTO_TCP || *flags != TH_SYN)
		return 0;

	struct ethhdr eth = f->eth;
	__builtin_memcpy(f->eth.h_dest, eth.h_source, ETH_ALEN);
	__builtin_memcpy(f->eth.h_source, eth.h_dest, ETH_ALEN);
	__be32 client = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = client;
	ip->ttl = 64;
	__be16 port = tcp->source;
	tcp->source = tcp->dest;
	tcp->dest = port;
	tcp->ack_seq = bpf_htonl(1);
	*flags = TH_SYN | TH_ACK;
	checksums(ip, tcp);
	return 1;
}

// traffic_sink is where frames of XDP come out.
SEC("xdp")
int traffic_sink(struct xdp_md *ctx)
{
	return accepts((void *)(long)ctx->data, (void *)(long)ctx->data_end) ? XDP_TX : XDP_DROP;
}

// traffic_sink_tc is where packets of the kernel's stack come out.
SEC("tc")
int traffic_sink_tc(struct __sk_buff *skb)
{
	bpf_skb_pull_data(skb, sizeof(struct frame));
	return accepts((void *)(long)skb->data, (void *)(long)skb->data_end) ? bpf_redirect(skb->ifindex, 0) : TC_ACT_SHOT;
}

char dual_license[] SEC("license") = "Dual BSD/GPL";
