// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// XDP on the outside devices: answers ARP and ping for VIPs, sends their
// packets to pods, and takes in what other nodes send to pods here.

#include "balance.h"

SEC("xdp.frags")
int seamark_xdp(struct xdp_md *ctx)
{
	__u64 bytes = frame_len(ctx, HOOK_XDP);
	int verdict = handle_frame(ctx, HOOK_XDP, &bytes);

	return finish(ctx, HOOK_XDP, verdict, bytes);
}
