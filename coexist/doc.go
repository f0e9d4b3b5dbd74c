// Package coexist finds out who else does Seamark's work, on this node and in
// the cluster, and says what Seamark then does and what a person should mend.
//
// Host.Look reads a node: container network configurations, network devices,
// kernel settings, the rules of kube-proxy. The rest is pure: Problems and
// Notes of a node, ClusterProblems of the cluster.
package coexist
