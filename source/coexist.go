package source

import (
	"fmt"
	"iter"

	"github.com/seamark-lb/seamark/state"
)

// LeftTo says whose the objects of another project's kind are: while a program
// of that project runs that gives Services addresses or announces them, it
// acts on them, and Seamark does not.
func LeftTo(kind Kind, agents iter.Seq[state.Agent]) (by state.Agent, left bool) {
	product, ok := map[string]string{GroupCilium: state.ProductCilium, GroupMetalLB: state.ProductMetalLB}[kind.Group]
	if !ok {
		return by, false
	}
	for a := range agents {
		if a.Product == product && (a.Role == state.AgentAllocates || a.Role == state.AgentAnnounces) {
			return a, true
		}
	}
	return by, false
}

// leftProblem is what is said of an object that is left to by.
func leftProblem(kind Kind, by state.Agent) Problem {
	p := Problem{Message: fmt.Sprintf("%s runs here (%s) and this %s is left to it", by.Product, by.Object, kind.Kind),
		Cure: "remove " + by.Product}
	switch kind.Kind {
	case "CiliumLoadBalancerIPPool", "IPAddressPool":
		p.Cure += ", or write an IPPool"
	case "CiliumL2AnnouncementPolicy", "L2Advertisement":
		p.Cure += ", or write an L2Policy"
	default:
		p.Cure += ", or write Seamark's own kinds: seamark convert -f prints them"
	}
	return p
}
