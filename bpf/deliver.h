// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Into a pod of this node: a packet that was rewritten for it leaves by the host's end
// of its veth, past the kernel's stack. XDP in a driver sends a frame there itself, if the
// pod's end takes those; tc behind it (tc_outside.c) sends all others.
#pragma once

#include "device.h"
#include "nat.h"

// into_pod sends a packet into its pod.
static __always_inline int into_pod(struct packet *p, const struct endpoint *e, enum reason reason)
{
	if (unlikely(hops_of(p) <= 1))
		return DROP(REASON_TTL_EXPIRED);
	decrement_hops(p);
	const __u32 *macs = (const __u32 *)e->pod_mac; // and host_mac: they are neighbours here and there
	__u32 *frame = (__u32 *)p->eth;
	frame[0] = macs[0];
	frame[1] = macs[1];
	frame[2] = macs[2];
	if (p->hook == HOOK_XDP)
		bpf_redirect(e->ifindex, 0);
	else
		bpf_redirect_peer(e->ifindex, 0);
	return REDIRECT(reason);
}

// is_native says whether XDP is in the driver of the device that a frame came in by, and
// that one can redirect. In the stack it would send by the pod's device as the stack
// does, past tc on its way.
static __always_inline int is_native(const struct packet *p)
{
	struct device *d = find_device(ctx_device(p->ctx, p->hook));

	return d && d->flags & DEVICE_NATIVE;
}

// fits says whether a device of that MTU takes the frame of a packet from XDP. A frame
// is longer than its packet where it was filled up.
static __always_inline int fits(const struct packet *p, __u32 mtu)
{
	__u64 length = frame_len(p->ctx, p->hook);

	if (unlikely(length < p->l3_at + l3_len(p))) // it has further buffers
		length = whole_len(p->ctx, p->hook);
	return length <= mtu + ETH_HLEN;
}

// deliver sends a packet that was rewritten for a pod into it, or leaves that to tc.
static __always_inline int deliver(struct packet *p, const union addr *pod, enum reason reason)
{
	if (p->hook != HOOK_XDP || !is_native(p))
		return PASS(reason);
	struct endpoint *e = find_endpoint(p->v6, pod);
	return e && fits(p, e->xdp_mtu) ? into_pod(p, e, reason) : PASS(reason);
}
