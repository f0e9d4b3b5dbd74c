package coexist

import (
	"fmt"

	"github.com/seamark-lb/seamark/state"
)

// ClusterProblems returns which programs in the cluster do the same work as
// Seamark, and what Seamark therefore does not (state.Leavings).
func ClusterProblems(db *state.DB, r state.Reader) []state.Problem {
	const cure = "remove it, or give the Services that Seamark is to serve spec.loadBalancerClass: seamark.dev/l2 or seamark.dev/bgp; " +
		"with --ignore-other-announcers Seamark serves as if it were alone"
	left := state.LeavingsOf(db, r)
	var problems []state.Problem
	for a := range db.Agents.All(r) {
		var message string
		switch {
		case !left.HasPools(a.Product):
			continue
		case a.Role == state.AgentAllocates:
			message = a.Product + " gives Services addresses, too: "
		case a.Role == state.AgentAnnounces:
			message = a.Product + " announces Services' addresses, too: "
		default:
			continue
		}
		group := groupOf(a.Product)
		switch {
		case left.Classless() == a.Product:
			message += "Services without spec.loadBalancerClass are left to it"
			if group != "" {
				message += fmt.Sprintf(", and so are all objects of %s", group)
			}
			message += "; Seamark serves those of its own classes, and those that it gave addresses of its own pools"
		case group != "":
			message += fmt.Sprintf("all objects of %s are left to it", group)
		default:
			message += "an address that both announce has two holders"
		}
		problems = append(problems, state.Problem{Object: a.Object, Message: message, Cure: cure})
	}
	return problems
}

// groupOf is the API group of a product's kinds, if Seamark reads them.
func groupOf(product string) string {
	switch product {
	case state.ProductMetalLB:
		return "metallb.io"
	case state.ProductCilium:
		return "cilium.io"
	}
	return ""
}
