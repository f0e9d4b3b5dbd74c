// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// tc ingress of outside devices that XDP cannot run on: balances as XDP does, and
// delivers as seamark_tc_outside does.

#include "balance.h"
#include "tc_outside.c"

// and_deliver brings a packet that is passed on into its pod, if it is for one here.
static __always_inline int and_deliver(struct __sk_buff *skb, int verdict)
{
	if (ACTION_OF(verdict) != ACT_PASS)
		return verdict;
	int delivered = hand_over(skb);
	if (REASON_OF(verdict) == REASON_NOT_OURS || ACTION_OF(delivered) == ACT_DROP)
		return delivered | (verdict & VERDICT_TRACED);
	return VERDICT(ACTION_OF(delivered), REASON_OF(verdict)) | (verdict & VERDICT_TRACED);
}

SEC("tc")
int seamark_tc_balance(struct __sk_buff *skb)
{
	__u64 bytes = skb->len, length = bytes;

	pull_headers(skb);
	int verdict = and_deliver(skb, handle_frame(skb, HOOK_TC_OUTSIDE, &length));
	return finish(skb, HOOK_TC_OUTSIDE, verdict, bytes);
}
