// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// All programs in one object, so that they share their maps by construction.

#include "tc_balance.c"
#include "tc_pod.c"
#include "tc_to_pod.c"
#include "xdp.c"

// Types that userspace shares and no map names, so that BTF has them.
#define SHARE(kind, name) const kind name *const share_##name[0] SEC(".types")
SHARE(enum, reason);
SHARE(enum, hook);
SHARE(enum, layout_version);
SHARE(enum, verdict_stride);
SHARE(enum, max_devices);
SHARE(enum, frontend_flags);
SHARE(enum, set_look);
SHARE(enum, slot);
SHARE(enum, small_slot);
SHARE(enum, backend_flags);
SHARE(enum, flow_flags);
SHARE(enum, nat_flags);
SHARE(enum, muted);
SHARE(enum, action);
SHARE(struct, claim);
SHARE(struct, event);
SHARE(struct, traced);

char dual_license[] SEC("license") = "Dual BSD/GPL";
