package coexist

import (
	"fmt"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// kindsOf is the API group of the kinds that tell a product what to do, and
// its pools' kind, if Seamark reads those kinds, too; "" for other products.
func kindsOf(product string) (group, pool string) {
	switch product {
	case "MetalLB":
		return "metallb.io", "IPAddressPool"
	case "Cilium":
		return "cilium.io", "CiliumLoadBalancerIPPool"
	}
	return "", ""
}

// hasPools says whether a product has pools to give addresses from. A pool
// that is left to it has no row, but a Problem that says so. Of a product
// whose kinds Seamark does not read nobody knows: it counts as if.
func hasPools(product string, pools []state.Pool, found []state.Problem) bool {
	group, kind := kindsOf(product)
	is := func(o state.ObjectRef) bool { return o.Group == group && o.Kind == kind }
	return group == "" ||
		slices.ContainsFunc(pools, func(p state.Pool) bool { return is(p.Origin) && !p.Disabled }) ||
		slices.ContainsFunc(found, func(p state.Problem) bool { return is(p.Object) })
}

// LeavesClassless says whether Services without spec.loadBalancerClass are
// left to another allocator, by product: one that runs and has pools. Seamark
// then serves Services of its own classes only. found are the SourceProblems.
func LeavesClassless(agents []state.Agent, pools []state.Pool, found ...state.Problem) (by string, yes bool) {
	for _, a := range agents {
		if a.Role == state.AgentAllocates && a.Ready > 0 && hasPools(a.Product, pools, found) {
			return a.Product, true
		}
	}
	return "", false
}

// ClusterProblems returns which programs in the cluster do the same work as
// Seamark, and what Seamark therefore does not. One without pools, of those
// whose kinds Seamark reads, does none. found are the SourceProblems.
func ClusterProblems(agents []state.Agent, pools []state.Pool, found ...state.Problem) []state.Problem {
	const cure = "remove it, or give the Services that Seamark is to serve spec.loadBalancerClass: seamark.dev/l2 or seamark.dev/bgp; " +
		"with --ignore-other-announcers Seamark serves as if it were alone"
	classlessTo, classless := LeavesClassless(agents, pools, found...)
	var problems []state.Problem
	for _, a := range agents {
		var message string
		switch {
		case a.Ready == 0 || !hasPools(a.Product, pools, found):
			continue
		case a.Role == state.AgentAllocates:
			message = a.Product + " gives Services addresses, too: "
		case a.Role == state.AgentAnnounces:
			message = a.Product + " announces Services' addresses, too: "
		default:
			continue
		}
		group, _ := kindsOf(a.Product)
		switch {
		case classless && classlessTo == a.Product:
			message += "Services without spec.loadBalancerClass are left to it"
			if group != "" {
				message += fmt.Sprintf(", and so are all objects of %s", group)
			}
			message += "; Seamark serves those of its own classes"
		case group != "":
			message += fmt.Sprintf("all objects of %s are left to it", group)
		default:
			message += "an address that both announce has two holders"
		}
		problems = append(problems, state.Problem{Object: a.Object, Message: message, Cure: cure})
	}
	return problems
}
