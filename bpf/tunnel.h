// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What is between a packet and the node of its backend: IP in IP (RFC 2003; RFC
// 2473 for IPv6) to the pod's own address, or Geneve (RFC 8926) to its node's,
// with the pod in an option. encap.h writes it and decap.h reads it.
#pragma once

#include "parse.h"

// Where Geneve is received (RFC 8926, section 3.3).
volatile const __be16 geneve_port = bpf_htons(6081);

// IP in IP has no field to say in that a packet has had its second chance. An
// IPv4 header that may not be fragmented has no use for its identification, which
// may have any value (RFC 6864, section 4.1).
#define OUTER_ID           0
#define OUTER_ID_HANDED_ON 0x5ea1

// In IPv6 it is the highest bit of the flow label; the others are of the flow's
// hash (RFC 6438). A label that is not 0 is changed by nobody on the way (RFC
// 6437, section 3), so the lowest bit is always set.
#define LABEL_HANDED_ON 0x80000
#define LABEL_HASH      0x7ffff

// The fixed header of Geneve (RFC 8926, section 3.4).
struct geneve {
	__u8 options;    // version, in the high 2 bits, and words of 4 bytes of options
	__u8 flags;      // GENEVE_*
	__be16 protocol; // EtherType of the packet inside: there is no inner Ethernet
	__be32 vni;
};

enum geneve_flags {
	GENEVE_OAM = 0x80,
	GENEVE_CRITICAL = 0x40, // some option is
};

// geneve_option is the one option of a packet to a pod: the pod's address is
// behind it. Its class is one for experiments (RFC 8926, section 7).
struct geneve_option {
	__be16 class;
	__u8 type;    // the highest bit: who does not know it drops the packet
	__u8 length;  // words of 4 bytes behind the first
	__u8 version; // of what is in it
	__u8 flags;   // OPTION_*
	__be16 pad;
};

enum geneve_option_values {
	OPTION_CLASS = 0xff5e,
	OPTION_TYPE = 0x80 | 1,
	OPTION_VERSION = 1,
	OPTION_HANDED_ON = 1, // has had its second chance
};

// The most that a tunnel adds: Geneve over IPv6 with an IPv6 pod.
#define TUNNEL_MAX 80

// first_addr is what a node sends from, of a family; all zeros: it has none.
static __always_inline union addr first_addr(int v6, const struct node_addrs *own)
{
	return v6 ? load_addr(1, &own->six[0]) : load_addr(0, &own->four[0]);
}

// own_addr is first_addr of this node.
static __always_inline union addr own_addr(int v6)
{
	union addr none = {};
	__u32 zero = 0;
	struct node_addrs *own = bpf_map_lookup_elem(&own_addrs, &zero);

	return own ? first_addr(v6, own) : none;
}

// is_own_addr says whether other nodes know this one by an address.
static __always_inline int is_own_addr(int v6, const union addr *addr)
{
	__u32 zero = 0;
	struct node_addrs *own = bpf_map_lookup_elem(&own_addrs, &zero);

	if (!own || no_addr(v6, addr))
		return 0;
	for (int i = 0; i < MAX_NODE_ADDRS; i++) {
		union addr one = v6 ? load_addr(1, &own->six[i]) : load_addr(0, &own->four[i]);
		if (same_addr(v6, &one, addr))
			return 1;
	}
	return 0;
}

// traffic_class is IPv6's traffic class, and IPv4's TOS.
static __always_inline __u8 traffic_class(const struct packet *p)
{
	return p->v6 ? bpf_ntohl(*(__be32 *)p->ip6) >> 20 : p->ip->tos;
}

// addr_size is the length of an address.
static __always_inline __u32 addr_size(int v6)
{
	return v6 ? sizeof(struct in6) : sizeof(__be32);
}

static __always_inline __u32 ip_size(int v6)
{
	return v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
}

// option_size is the length of the option, with the pod's address.
static __always_inline __u32 option_size(int v6)
{
	return sizeof(struct geneve_option) + addr_size(v6);
}

// tunnel_size is how much a tunnel over IPv4 or IPv6 adds to a packet (v6: of
// IPv6).
static __always_inline __u32 tunnel_size(int over6, int geneve, int v6)
{
	return ip_size(over6) + (geneve ? sizeof(struct udphdr) + sizeof(struct geneve) + option_size(v6) : 0);
}
