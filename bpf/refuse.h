// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Refusing: what is sent to a port that nobody serves is answered as a host
// would, so that clients need not wait for a timeout. Each kind has its own answer:
// a reset, an ABORT, or an ICMP error.
#pragma once

#include "crc32c.h"
#include "icmp.h"

// send_reset answers a segment to a closed port (RFC 9293, section 3.10.7.1).
static __always_inline int inline_send_reset(void *ctx, enum hook hook, int v6, const struct answer *a)
{
	__u32 ip_size = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct scratch *s = own_scratch();
	struct tcphdr got;

	if (!s || load_addrs(ctx, hook, v6, a->l3_at, s->addrs) || load_bytes(ctx, hook, a->l4_at, &got, sizeof(got)))
		return DROP(REASON_TRUNCATED);
	enum reason bad = turn_around(ctx, hook, a->l3_at, ip_size + sizeof(got), 0);
	if (bad)
		return DROP(bad);

	struct tcphdr *tcp = (void *)s->head + ip_size;
	__builtin_memset(tcp, 0, sizeof(*tcp));
	__u64 sum = answer_header(v6, s, sizeof(*tcp), IPPROTO_TCP, 0);
	tcp->source = got.dest;
	tcp->dest = got.source;
	tcp->doff = sizeof(*tcp) / 4;
	tcp->rst = 1;
	if (got.ack) {
		tcp->seq = got.ack_seq;
	} else { // all of the segment is acknowledged: its data, and SYN and FIN
		tcp->ack = 1;
		tcp->ack_seq = bpf_htonl(bpf_ntohl(got.seq) + a->l4_len - got.doff * 4 + got.syn + got.fin);
	}
	for (int i = 0; i < sizeof(*tcp) / 4; i++)
		sum += s->head[ip_size / 4 + i];
	tcp->check = ~csum_fold(sum);
	return store_bytes(ctx, hook, a->l3_at, s->head, ip_size + sizeof(*tcp)) ? DROP(REASON_TRUNCATED) : TX(REASON_REFUSED);
}
OUT_OF_LINE(send_reset, const struct answer)

// What an SCTP packet begins with; value is the first word of the chunk's own.
struct sctp_chunk {
	struct sctphdr header;
	__u8 type;
	__u8 flags;
	__be16 length;
	__be32 value;
};

#define SCTP_SHUTDOWN_ACK 8
#define SCTP_ERROR        9
#define SCTP_COOKIE_ACK   11
#define SCTP_REFLECTED    1 // flag T: the verification tag is the other's own

// send_abort answers a packet of no association (RFC 9260, section 8.4), by its
// first chunk. What is not answered is dropped for the reason kind.
static __always_inline int inline_send_abort(void *ctx, enum hook hook, int v6, const struct answer *a)
{
	__u32 ip_size = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 size = offsetof(struct sctp_chunk, value);
	struct scratch *s = own_scratch();
	struct sctp_chunk got;

	if (a->l4_len < sizeof(got))
		return DROP(a->kind);
	if (!s || load_addrs(ctx, hook, v6, a->l3_at, s->addrs) || load_bytes(ctx, hook, a->l4_at, &got, sizeof(got)))
		return DROP(REASON_TRUNCATED);
	if (got.type == SCTP_ABORT || got.type == SCTP_SHUTDOWN_COMPLETE || got.type == SCTP_COOKIE_ACK || got.type == SCTP_ERROR)
		return DROP(a->kind);
	enum reason bad = turn_around(ctx, hook, a->l3_at, ip_size + size, 0);
	if (bad)
		return DROP(bad);

	struct sctp_chunk *sctp = (void *)s->head + ip_size;
	answer_header(v6, s, size, IPPROTO_SCTP, 0);
	sctp->header.source = got.header.dest;
	sctp->header.dest = got.header.source;
	sctp->header.vtag = got.type == SCTP_INIT ? got.value : got.header.vtag; // an INIT's value is its tag
	sctp->type = got.type == SCTP_SHUTDOWN_ACK ? SCTP_SHUTDOWN_COMPLETE : SCTP_ABORT;
	sctp->flags = got.type == SCTP_INIT ? 0 : SCTP_REFLECTED;
	sctp->length = bpf_htons(size - sizeof(sctp->header));
	sctp->header.checksum = 0; // as it is summed up
	sctp->header.checksum = crc32c((void *)sctp, size);
	return store_bytes(ctx, hook, a->l3_at, s->head, ip_size + size) ? DROP(REASON_TRUNCATED) : TX(REASON_REFUSED);
}
OUT_OF_LINE(send_abort, const struct answer)

// refuse answers a packet to a VIP that is not served for a reason; where there
// is nothing to say, or too much was said, it drops the packet for that reason.
static __always_inline int refuse(struct packet *p, enum reason why)
{
	struct answer a = answer_to(p);
	int verdict = DROP(why);

	if (p->proto == IPPROTO_TCP) {
		// A fragment does not say how long its segment is.
		if (!(p->tcp_flags & TCP_RST) && p->fragment == FRAGMENT_NONE && may_tell(p, QUOTA_REFUSALS))
			verdict = send_reset(p->ctx, p->hook, p->v6, &a);
	} else if (p->proto == IPPROTO_SCTP) {
		a.kind = why;
		if (may_tell(p, QUOTA_REFUSALS))
			verdict = send_abort(p->ctx, p->hook, p->v6, &a);
	} else if (p->proto == IPPROTO_UDP && may_tell(p, QUOTA_REFUSALS)) {
		a.kind = p->v6 ? ERROR6_PORT : ERROR4_PORT;
		verdict = send_error(p->ctx, p->hook, p->v6, &a);
		if (verdict == TX(REASON_UNSPEC))
			verdict = TX(REASON_REFUSED);
	}
	return verdict;
}
