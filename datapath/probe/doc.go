// Package probe checks backends outside the cluster, of which no kubelet says
// whether they are ready: by TCP and HTTP, from this node, over and over.
//
// Rows of state.Probe go in, rows of state.BackendHealth come out.
package probe
