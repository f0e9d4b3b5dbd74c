// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What every program needs of the kernel's and libbpf's headers.
#pragma once

#include <stddef.h>
#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define AF_INET  2 // <sys/socket.h> is libc's
#define AF_INET6 10

// <linux/icmp.h> and <linux/if_arp.h> include libc; this is what is used of them.
struct icmphdr {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 rest;
};

// <linux/sctp.h> has no packet header (RFC 9260, section 3.1).
struct sctphdr {
	__be16 source;
	__be16 dest;
	__be32 vtag;
	__le32 checksum; // CRC32c
};

#define ICMP_ECHOREPLY 0
#define ICMP_ECHO      8

#define ARPHRD_ETHER  1
#define ARPOP_REQUEST 1
#define ARPOP_REPLY   2

// Fragment bits of iphdr.frag_off (RFC 791), network byte order.
#define IP_FRAGMENT    bpf_htons(0x3fff) // MF or an offset
#define IP_OFFSET_MASK bpf_htons(0x1fff)

// The fragment header of IPv6 (RFC 8200, section 4.5).
struct ipv6_fragment {
	__u8 nexthdr;
	__u8 reserved;
	__be16 offset; // in its high 13 bits
	__be32 id;
};

#define IP6_OFFSET_MASK bpf_htons(0xfff8)
#define IP6_MORE        bpf_htons(1)
