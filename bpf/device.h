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

// is_addressed says whether a frame that came in by a device is to that one's MAC.
static __always_inline int is_addressed(__u32 device, const struct ethhdr *eth)
{
	struct device *d = find_device(device);

	return d && same_mac(eth->h_dest, d->mac);
}

// by_carrier has what is to leave by a VLAN device leave by the one it is on, with a tag: from
// a driver's XDP no VLAN device takes frames.
static __always_inline void by_carrier(enum hook hook, __u32 *ifindex, __u16 *vlan)
{
	struct device *d = hook == HOOK_XDP ? find_device(*ifindex) : NULL;

	if (d && d->carrier) {
		*ifindex = d->carrier;
		*vlan = d->vlan;
	}
}
