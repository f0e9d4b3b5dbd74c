// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Handshakes: who begins a flow has to show that it gets the answers, before its
// flow is one to keep. Otherwise two blind packets, a SYN and an ACK, from any
// address would do, and answered floods would fill the tables of what is established.
#pragma once

#include "parse.h"

// proof_asked is what the answer to a first packet asks its sender to show: of TCP
// the number behind its SYN (RFC 9293, section 3.5), of an SCTP INIT ACK its tag (RFC
// 9260, section 5.1). 0: it is no such answer, so whoever sends it knows the client.
static __always_inline __u32 proof_asked(const struct packet *p)
{
	if (p->fragment == FRAGMENT_LATER)
		return 0;
	if (p->proto == IPPROTO_TCP) {
		if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) != (TCP_SYN | TCP_ACK) || (void *)(p->tcp + 1) > ctx_end(p->ctx, p->hook))
			return 0;
		return bpf_ntohl(p->tcp->seq) + 1;
	}
	if (p->proto != IPPROTO_SCTP)
		return 0;
	__u8 *chunk = (__u8 *)(p->sctp + 1); // type, flags, length, and of INIT ACK the tag
	if ((void *)(chunk + 8) > ctx_end(p->ctx, p->hook) || *chunk != SCTP_INIT_ACK)
		return 0;
	return bpf_ntohl(*(__be32 *)(chunk + 4));
}

// proof_shown is what a client's packet shows.
static __always_inline __u32 proof_shown(const struct packet *p)
{
	if (p->fragment == FRAGMENT_LATER)
		return 0;
	if (p->proto == IPPROTO_TCP)
		return (void *)(p->tcp + 1) > ctx_end(p->ctx, p->hook) || !(p->tcp_flags & TCP_ACK) ? 0 : bpf_ntohl(p->tcp->ack_seq);
	return p->proto != IPPROTO_SCTP || (void *)(p->sctp + 1) > ctx_end(p->ctx, p->hook) ? 0 : bpf_ntohl(p->sctp->vtag);
}

// How much a client may have acknowledged of what came right behind the SYN (RFC 7413).
#define PROOF_WINDOW 0x10000

// proves says whether what a packet shows is what was asked for.
static __always_inline int proves(__u32 asked, __u32 shown)
{
	return !asked || shown - asked < PROOF_WINDOW;
}

// How far what a TCP packet of each side says of the client's stream has come: a
// client's with its own number, the other side's with what that has acknowledged.
// All that SCTP has of the kind is the tag of what the client sends. 0: it says nothing.
static __always_inline __u32 client_sends(const struct packet *p)
{
	if (p->proto == IPPROTO_SCTP)
		return proof_shown(p);
	return p->proto != IPPROTO_TCP || p->fragment == FRAGMENT_LATER || (void *)(p->tcp + 1) > ctx_end(p->ctx, p->hook) ? 0 : bpf_ntohl(p->tcp->seq);
}

static __always_inline __u32 client_heard(const struct packet *p)
{
	if (p->proto == IPPROTO_SCTP)
		return proof_asked(p);
	return p->proto == IPPROTO_TCP ? proof_shown(p) : 0;
}

// fits_stream says whether a client's packet is where the other side has come to. A
// RST that is ends the connection there (RFC 9293, section 3.10.7.4; of SCTP, an ABORT
// with the tag: RFC 9260, section 8.5.1), and a blind one hits one time in 2^16.
static __always_inline int fits_stream(__u32 heard, __u32 sent)
{
	return sent - heard < PROOF_WINDOW;
}

// goes_on says whether a packet with these flags is of a connection that both
// sides have agreed to. Many who never asked for one answer the SYN-ACK with a RST.
static __always_inline int goes_on(__u8 tcp_flags, __u8 first)
{
	return !first && !(tcp_flags & (TCP_SYN | TCP_RST));
}
