// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The outside devices: whose frames are this node's to handle.
#pragma once

#include "parse.h"

static __always_inline struct device *find_device(__u32 ifindex)
{
	__u32 at = ifindex % MAX_DEVICES;
	struct device *d = bpf_map_lookup_elem(&devices, &at);

	return d && d->ifindex == ifindex ? d : NULL;
}

// addressed_device returns the device that a packet came in by, if the frame
// is to that device's MAC.
static __always_inline struct device *addressed_device(const struct packet *p)
{
	struct device *d = find_device(ctx_device(p->ctx, p->hook));

	return d && same_mac(p->eth->h_dest, d->mac) ? d : NULL;
}
