// Package pod is the pod datapath and the node's view of itself: the Devices
// table, the devices that face outside, the pods that seamark-cni wires up
// (the Endpoints table), and the routes to the pods of other nodes.
//
// Everything acts on the network namespace that the process runs in, which is
// the node's. A pod is wired as DESIGN §8 has it: a veth, a /32 on the pod's
// end, a link-scope gateway 169.254.1.1 that exists only as a permanent
// neighbour entry in the pod, and a /32 route on the host. Nothing on the host
// answers ARP for anybody.
package pod
