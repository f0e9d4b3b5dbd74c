// Package bench measures whole paths: packets through devices in network
// namespaces, Seamark's programs as the daemon loads and fills them, and beside
// them, in the same run, a router that does the same by kube-proxy's nftables
// rules. It has no code but its benchmarks, which need root.
package bench
