package coexist

import (
	"fmt"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// kindsOf is the API group of the kinds that tell a product what to do, if
// Seamark reads those kinds, too; "" for other products.
func kindsOf(product string) string {
	switch product {
	case "MetalLB":
		return "metallb.io"
	case "Cilium":
		return "cilium.io"
	}
	return ""
}

// LeavesKind says whether objects of an API group are left to another
// project's program, because it runs; by is the product.
func LeavesKind(agents []state.Agent, group string) (by string, yes bool) {
	for _, a := range agents {
		if group != "" && kindsOf(a.Product) == group && acts(a) {
			return a.Product, true
		}
	}
	return "", false
}

// LeavesClassless says whether Services without spec.loadBalancerClass are
// left to another allocator, by product: one that runs and has pools. Whether
// one has whose kinds Seamark does not read, nobody knows: it counts as if.
// Seamark then serves Services of its own classes only.
func LeavesClassless(agents []state.Agent, pools []state.Pool) (by string, yes bool) {
	for _, a := range agents {
		if a.Role == state.AgentAllocates && a.Ready > 0 && hasPools(kindsOf(a.Product), pools) {
			return a.Product, true
		}
	}
	return "", false
}

// hasPools says whether there is a pool of the group's kinds.
func hasPools(group string, pools []state.Pool) bool {
	return group == "" || slices.ContainsFunc(pools, func(p state.Pool) bool { return p.Origin.Group == group && !p.Disabled })
}

// acts says whether the program runs, and does load balancer's work.
func acts(a state.Agent) bool {
	return a.Ready > 0 && (a.Role == state.AgentAllocates || a.Role == state.AgentAnnounces)
}

// ClusterProblems returns which programs in the cluster do the same work as
// Seamark, and what Seamark therefore does not. One that has no pool, of those
// whose kinds Seamark reads, does none.
func ClusterProblems(agents []state.Agent, pools []state.Pool) []state.Problem {
	const cure = "remove it, or give the Services that Seamark is to serve spec.loadBalancerClass: seamark.dev/l2 or seamark.dev/bgp"
	classlessTo, classless := LeavesClassless(agents, pools)
	var problems []state.Problem
	for _, a := range agents {
		group := kindsOf(a.Product)
		if !acts(a) || !hasPools(group, pools) {
			continue
		}
		message := a.Product + " gives Services addresses, too"
		if a.Role == state.AgentAnnounces {
			message = a.Product + " announces Services' addresses, too"
		}
		switch {
		case classless && classlessTo == a.Product:
			message += ": Services without spec.loadBalancerClass are left to it"
			if group != "" {
				message += fmt.Sprintf(", and so are all objects of %s", group)
			}
			message += "; Seamark serves those of its own classes"
		case group != "":
			message += fmt.Sprintf(": all objects of %s are left to it", group)
		default:
			message += ": an address that both announce has two holders"
		}
		problems = append(problems, state.Problem{Object: a.Object, Message: message,
			Cure: cure + "; with --ignore-other-announcers Seamark serves as if it were alone"})
	}
	return problems
}
