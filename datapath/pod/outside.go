package pod

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Outside returns the devices, in the order given, that face outside: those
// that carry one of the node's InternalIPs, and those whose name an interface
// expression of a policy that selects the node matches. Loopback and the veths
// of pods never do. What is wrong with an expression comes back as a Problem that names the policy; the rest of it is in force.
func Outside(devices []state.Device, node state.Node, policies []state.L2Policy) ([]state.Device, []state.Problem) {
	var candidates []state.Device
	var names []string
	for _, d := range devices {
		if d.Type != loopback && !IsPodDevice(d.Name) {
			candidates = append(candidates, d)
			names = append(names, d.Name)
		}
	}
	outside := map[string]bool{}
	for _, d := range candidates {
		outside[d.Name] = slices.ContainsFunc(d.Prefixes, func(p netip.Prefix) bool {
			return slices.Contains(node.Addrs, p.Addr())
		})
	}

	var problems []state.Problem
	for _, policy := range policies {
		selected, err := selects(policy.NodeSelector, node)
		if err != nil {
			problems = append(problems, state.Problem{Object: policy.Origin, Field: "spec.nodeSelector",
				Message: err.Error(), Cure: "correct the selector: until then the policy selects no node"})
			continue
		}
		if !selected {
			continue
		}
		for i, expr := range policy.Interfaces {
			field := fmt.Sprintf("spec.interfaces[%d]", i)
			re, err := regexp.Compile(expr)
			if err != nil {
				problems = append(problems, state.Problem{Object: policy.Origin, Field: field,
					Message: fmt.Sprintf("%q is no RE2 expression (%v)", expr, err), Cure: "write one such as ^eth1$"})
				continue
			}
			matched := false
			for _, name := range names {
				if re.MatchString(name) {
					matched, outside[name] = true, true
				}
			}
			if !matched {
				problems = append(problems, state.Problem{Object: policy.Origin, Field: field,
					Message: fmt.Sprintf("%q matches no interface of node %s, which has %s", expr, node.Name, orNone(names)),
					Cure:    "correct the expression, or leave the node out with spec.nodeSelector"})
			}
		}
	}
	return slices.DeleteFunc(candidates, func(d state.Device) bool { return !outside[d.Name] }), problems
}

func selects(selector *metav1.LabelSelector, node state.Node) (bool, error) {
	if selector == nil {
		return true, nil
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return false, err
	}
	return s.Matches(labels.Set(node.Labels)), nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
