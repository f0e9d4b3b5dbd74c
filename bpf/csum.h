// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Internet checksums (RFC 1071), whole and incremental (RFC 1624). One's
// complement sums are the same in either byte order, so nothing is swapped.
#pragma once

#include "bpf.h"

static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16); // at most 0x2fffe
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

// csum_replace brings a checksum up to date after from became to. Several
// changes can be summed up and made at once.
static __always_inline void csum_replace(__sum16 *check, __u64 from, __u64 to)
{
	// RFC 1624, equation 3: HC' = ~(~HC + ~m + m')
	__u64 sum = (__u16)~*check;

	sum += (__u16)~csum_fold(from);
	sum += to;
	*check = ~csum_fold(sum);
}
