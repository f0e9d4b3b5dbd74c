// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Verdicts: what to do with a packet and why, in one number, so that every
// path of a program ends in finish, which counts it.
#pragma once

#include "maps.h"

#define VERDICT(action, reason) ((int)((reason) << 8 | (__u8)(action)))

static __always_inline int finish(enum hook hook, int verdict, __u64 bytes)
{
	__u32 at = hook * VERDICT_STRIDE + ((__u32)verdict >> 8);
	struct verdict_count *count = bpf_map_lookup_elem(&verdicts, &at);
	if (likely(count)) {
		count->packets++;
		count->bytes += bytes;
	}
	return (__s8)verdict; // TC_ACT_UNSPEC is -1
}
