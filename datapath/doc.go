// Package datapath brings rows into the kernel's BPF maps: frontends and
// their Maglev tables, next hops, announced addresses, pods.
//
// A packet to a frontend is looked up in this order, and everything is
// written in the reverse order, so that no packet ever meets a half-made
// entry:
//
//	frontends[addr:port/proto] → sets[set] → tables[4*set+active][hash·size/2³²]
//	    → backends[id] → next_hops[next_hop]
//
// When the backends of a set change, a window of changes opens: the table from
// before stays, slots that have moved say so, and there pins decide, which
// flows get as they are heard of (window.go).
//
// The maps are pinned and outlive the daemon. They, and not a file, are what
// it remembers: on start it learns from them which set, id and index is whose,
// so that a restart rewrites nothing that has not changed.
package datapath
