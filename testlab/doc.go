// Package testlab builds a lab of machines on one kernel: hosts are network
// namespaces, networks are bridges between them, and every node has its own
// bpffs, cgroup, state directory and daemon. It also breaks them: power, cable,
// daemon and control plane faults are methods of a Lab.
//
// A Lab lives in the kernel and in a directory, not in the process that made
// it: Up returns, and Open finds it again, from any later process. Everything
// needs root. The traffic drivers are in testlab/traffic.
package testlab
