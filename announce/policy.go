package announce

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/seamark-lb/seamark/state"
)

// policy is an L2Policy with its expressions compiled.
type policy struct {
	name                         string
	origin                       state.ObjectRef
	services, nodes              labels.Selector
	interfaces                   []*regexp.Regexp
	loadBalancerIPs, externalIPs bool
	// pools that loadBalancerIPs is limited to, when it is limited.
	limited bool
	pools   state.PoolIndex
	// unread: of one of those pools nobody knows the addresses. They may be any
	// that no pool holds.
	unread bool
	all    state.PoolIndex
	// preferred nodes; failback and withdraw are the policy's.
	preferred          []preference
	failback, withdraw bool
}

// preference is a state.NodePreference, compiled.
type preference struct {
	nodes  labels.Selector
	weight int
}

func (p policy) selectsService(s state.Service) bool {
	return p.services.Matches(state.ServiceLabels{Service: &s})
}

func (p policy) selectsNode(n state.Node) bool { return p.nodes.Matches(labels.Set(n.Labels)) }

// preference is how much the policy prefers the node: 0 is not at all.
func (p policy) preference(n state.Node) int {
	sum := 0
	for _, pref := range p.preferred {
		if pref.nodes.Matches(labels.Set(n.Labels)) {
			sum += pref.weight
		}
	}
	return sum
}

// matches says whether the policy means that interface of those a node reports.
func (p policy) matches(name string) bool {
	return len(p.interfaces) == 0 ||
		slices.ContainsFunc(p.interfaces, func(re *regexp.Regexp) bool { return re.MatchString(name) })
}

// meansBalanced says whether the policy announces a, which a load balancer gave.
func (p policy) meansBalanced(a netip.Addr) bool {
	if !p.loadBalancerIPs || !p.limited {
		return p.loadBalancerIPs
	}
	_, ok := p.pools.Holding(a)
	if !ok && p.unread {
		_, held := p.all.Holding(a)
		return !held
	}
	return ok
}

// compilePolicies leaves out the policies that do not compile and says why.
func compilePolicies(rows []state.L2Policy, pools []state.Pool) ([]policy, []state.Problem) {
	var policies []policy
	var problems []state.Problem
	for _, row := range rows {
		p, problem := compilePolicy(row, pools)
		if problem != nil {
			problems = append(problems, *problem)
			continue
		}
		policies = append(policies, p)
	}
	return policies, problems
}

func compilePolicy(row state.L2Policy, pools []state.Pool) (policy, *state.Problem) {
	p := policy{name: row.Name, origin: row.Origin, loadBalancerIPs: row.LoadBalancerIPs, externalIPs: row.ExternalIPs,
		failback: row.Failback, withdraw: row.Withdraw}
	var err error
	if p.services, err = selector(row.ServiceSelector); err != nil {
		return p, broken(row, "spec.serviceSelector", err.Error(), "mend the selector")
	}
	if p.nodes, err = selector(row.NodeSelector); err != nil {
		return p, broken(row, "spec.nodeSelector", err.Error(), "mend the selector")
	}
	for i, expr := range row.Interfaces {
		re, err := regexp.Compile(expr)
		if err != nil {
			return p, broken(row, fmt.Sprintf("spec.interfaces[%d]", i), fmt.Sprintf("%q: %v", expr, err),
				"write an RE2 expression such as ^eth1$")
		}
		p.interfaces = append(p.interfaces, re)
	}
	for i, pref := range row.Preferred {
		nodes, err := selector(pref.Selector)
		if err != nil {
			return p, broken(row, fmt.Sprintf("spec.preferredNodes[%d].nodeSelector", i), err.Error(), "mend the selector")
		}
		p.preferred = append(p.preferred, preference{nodes, int(pref.Weight)})
	}
	if len(row.Pools) > 0 || row.PoolSelector != nil {
		meant, err := poolSelector(row)
		if err != nil {
			return p, broken(row, "spec.poolSelector", err.Error(), "mend the selector")
		}
		means := slices.DeleteFunc(slices.Clone(pools), func(pool state.Pool) bool { return !meant(pool) })
		p.limited, p.pools = true, state.IndexPools(means)
		if p.unread = slices.ContainsFunc(means, state.Pool.Unread); p.unread {
			p.all = state.IndexPools(pools)
		}
	}
	return p, nil
}

// poolSelector says which pools the policy means: those called one of Pools,
// and those that PoolSelector matches.
func poolSelector(row state.L2Policy) (func(state.Pool) bool, error) {
	byLabels := labels.Nothing()
	if row.PoolSelector != nil {
		var err error
		if byLabels, err = metav1.LabelSelectorAsSelector(row.PoolSelector); err != nil {
			return nil, err
		}
	}
	return func(pool state.Pool) bool {
		return slices.ContainsFunc(row.Pools, pool.Called) || byLabels.Matches(labels.Set(pool.Labels))
	}, nil
}

// policyStatuses says of every policy what is wrong with it: that its spec does
// not parse, or the first of the problems.
func policyStatuses(policies []state.L2Policy, problems []state.Problem) []state.PolicyStatus {
	first := map[state.ObjectRef]string{}
	for _, p := range problems {
		if _, ok := first[p.Object]; !ok {
			first[p.Object] = p.Field + ": " + p.Message + "; " + p.Cure
		}
	}
	rows := make([]state.PolicyStatus, len(policies))
	for i, p := range policies {
		rows[i] = state.PolicyStatus{Policy: p.Name, Problem: cmp.Or(p.Invalid, first[p.Origin])}
	}
	return rows
}

func broken(row state.L2Policy, field, message, cure string) *state.Problem {
	return &state.Problem{Object: row.Origin, Field: field, Message: message,
		Cure: cure + ": the policy announces nothing until then"}
}

// selector is LabelSelectorAsSelector, except that an absent one means all.
func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// Problems returns what keeps policies from working: what does not compile,
// pools that there are not, and interfaces that no node has.
func Problems(in Inputs) []state.Problem {
	policies, problems := compilePolicies(in.Policies, in.Pools)
	for _, row := range in.Policies {
		for i, name := range row.Pools {
			if !slices.ContainsFunc(in.Pools, func(pool state.Pool) bool { return pool.Called(name) }) {
				problems = append(problems, state.Problem{Object: row.Origin, Field: fmt.Sprintf("spec.pools[%d]", i),
					Message: fmt.Sprintf("there is no pool %q", name), Cure: "create it, or name " + poolNames(in.Pools)})
			}
		}
	}
	if len(in.Leases) == 0 {
		return problems // nobody has said yet what interfaces there are
	}
	nodes := nodesByName(in.Nodes)
	for _, p := range policies {
		for i, re := range p.interfaces {
			found := slices.ContainsFunc(in.Leases, func(l state.NodeLease) bool {
				node, ok := nodes[l.Node]
				return ok && p.selectsNode(node) && slices.ContainsFunc(l.Interfaces, func(li state.LeaseInterface) bool {
					return re.MatchString(li.Name)
				})
			})
			if !found {
				problems = append(problems, state.Problem{Object: p.origin, Field: fmt.Sprintf("spec.interfaces[%d]", i),
					Message: fmt.Sprintf("%q matches no interface of any node the policy selects", re), Cure: "compare it with `ip link` there"})
			}
		}
	}
	return problems
}

// poolNames are what a policy can name, for messages.
func poolNames(pools []state.Pool) string {
	const most = 4
	var names []string
	for _, p := range pools {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	if len(names) > most {
		names = append(names[:most], fmt.Sprintf("another of the %d there are", len(pools)))
	}
	return cmp.Or(strings.Join(names, ", "), "one when there is one")
}

func nodesByName(nodes []state.Node) map[string]state.Node {
	byName := make(map[string]state.Node, len(nodes))
	for _, n := range nodes {
		byName[n.Name] = n
	}
	return byName
}
