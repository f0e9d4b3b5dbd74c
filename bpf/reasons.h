// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Why a packet went where it went. Shared with Go through BTF; the order is
// part of the layout (verdicts is indexed by it), so new ones go at the end.
#pragma once

enum reason {
	REASON_UNSPEC,
	// Forwarded or answered.
	REASON_NOT_OURS,         // passed to the kernel untouched
	REASON_FORWARD_LOCAL,    // DNAT to a pod on this node
	REASON_FORWARD_REMOTE,   // encapsulated to a pod on another node
	REASON_DECAP,            // DSR packet for a pod of this node
	REASON_REPLY,            // pod's answer, source rewritten to the VIP
	REASON_POD_DELIVERED,    // redirected into the pod of a flow
	REASON_ARP_REPLY,        // answered for an announced address
	REASON_ICMP_ECHO_REPLY,  // ping of a VIP answered
	// Passed on, with something to say.
	REASON_ARP_EXPIRED,      // for an address of ours, but the lease has run out
	REASON_ARP_MUTED,        // for an address of ours that another node claims
	REASON_ARP_CLAIM,        // another machine claims an address of ours
	// Dropped.
	REASON_TRUNCATED,        // a header does not fit in the packet
	REASON_BAD_HEADER,       // version, header length or total length is wrong
	REASON_FRAGMENT,         // fragment to a VIP that cannot be brought there: over a header, of a ping, of SCTP with another port
	REASON_UNSERVED_PORT,    // VIP without that port
	REASON_UNSERVED_PROTO,   // VIP, protocol that is not balanced
	REASON_NO_BACKEND,       // frontend has no backend
	REASON_STALE_BACKEND,    // DSR packet for a pod that does not serve it
	REASON_NO_ROUTE,         // no next hop towards the backend
	REASON_NO_HEADROOM,      // the driver left no room for the outer header
	REASON_TOO_BIG,          // does not fit the next hop's MTU with the outer header
	REASON_TTL_EXPIRED,      // TTL would reach 0
	REASON_FLOW_TABLE,       // flow table refused the entry
	// Since layout 2. Forwarded or answered.
	REASON_FORWARD_PINNED,   // as FORWARD_REMOTE, to the backend that a pin says
	REASON_FORWARD_PREVIOUS, // as FORWARD_REMOTE, to the backend before the change: a flow older than it
	REASON_FORWARD_SNAT,     // translated, to a backend on another node
	REASON_REPLY_SNAT,       // the backend's answer, translated back
	REASON_SERVICE_LOCAL,    // of a pod here to a Service, translated
	REASON_SECOND_CHANCE,    // of a flow unknown here: handed to the slot's other backend
	REASON_ICMP_FORWARDED,   // ICMP error handed to the backend that owns the flow
	REASON_ICMP_TOO_BIG,     // answered: packet too big, fragmentation needed
	REASON_REFUSED,          // answered: port unreachable, or reset
	REASON_FRAGMENT_PASSED,  // fragment that went where its first one did
	// Dropped.
	REASON_FRAGMENT_ORPHAN,  // fragment whose first one was not seen
	REASON_SOURCE_RANGE,     // client is outside loadBalancerSourceRanges
	REASON_NAT_PORTS,        // no free port to translate to
	REASON_NAT_TABLE,        // nat table refused the entry
	REASON_BAD_TUNNEL,       // Geneve packet that no node of ours sent
	REASON_ICMP_UNKNOWN,     // ICMP error about no flow of ours
	REASON_SPOOFED_POD,      // a pod's packet with the address of another pod of this node
	// Neighbour discovery. Answered, or passed on with something to say.
	REASON_ND_REPLY,         // a Neighbor Solicitation for an announced address, answered
	REASON_ND_EXPIRED,       // for an address of ours, but the lease has run out
	REASON_ND_MUTED,         // for an address of ours that another node claims
	REASON_ND_CLAIM,         // another machine claims an address of ours
	REASON_ND_INVALID,       // about an address of ours, and not valid (RFC 4861, section 7.1)
	// Dropped.
	REASON_NEIGHBOUR_QUOTA,  // a neighbour that was answered too often lately
	REASON_MAX,
};
