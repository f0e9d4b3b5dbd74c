package lbipam

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// day is a moment to count ages from; a row's age is its place in a test.
var day = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func age(n int) time.Time { return day.Add(time.Duration(n) * time.Minute) }

// svc returns a Service of type LoadBalancer. Its fields are set by with.
func svc(name string, created int, with ...func(*state.Service)) state.Service {
	namespace, name, ok := strings.Cut(name, "/")
	if !ok {
		namespace, name = "default", namespace
	}
	s := state.Service{
		Name: state.ObjectName{Namespace: namespace, Name: name}, UID: "uid-" + name,
		Created: age(created), Type: "LoadBalancer", Families: []string{"IPv4"},
	}
	for _, f := range with {
		f(&s)
	}
	return s
}

func carries(addrs ...string) func(*state.Service) {
	return func(s *state.Service) { s.Ingress = ips(addrs) }
}

func asks(addrs ...string) func(*state.Service) {
	return func(s *state.Service) { s.RequestedIPs, s.RequestField = ips(addrs), "spec.loadBalancerIP" }
}

func families(f ...string) func(*state.Service) {
	return func(s *state.Service) { s.Families = f }
}

func prefers(f ...string) func(*state.Service) {
	return func(s *state.Service) { s.Families, s.FamilyPolicy = f, "PreferDualStack" }
}

func labelled(key, value string) func(*state.Service) {
	return func(s *state.Service) { s.Labels = map[string]string{key: value} }
}

func fromPool(name string) func(*state.Service) {
	return func(s *state.Service) { s.Pool, s.PoolField = name, "annotation seamark.dev/pool" }
}

func class(name string) func(*state.Service) {
	return func(s *state.Service) { s.Class = name }
}

func ips(addrs []string) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		out = append(out, ip(a))
	}
	return out
}

// pl returns a pool that gives the ranges, each "from-to" or one address.
func pl(name string, created int, ranges string, with ...func(*state.Pool)) state.Pool {
	p := state.Pool{Name: name, Created: age(created), AutoAssign: true}
	for r := range strings.FieldsSeq(ranges) {
		from, to, ok := strings.Cut(r, "-")
		if !ok {
			to = from
		}
		p.Ranges = append(p.Ranges, span(from, to))
	}
	for _, f := range with {
		f(&p)
	}
	return p
}

func disabled(p *state.Pool) { p.Disabled = true }
func onDemand(p *state.Pool) { p.AutoAssign = false }
func invalid(p *state.Pool) {
	p.Ranges, p.Invalid = nil, "spec.blocks[0]: start is after stop: swap them"
}
func unreadable(p *state.Pool) { p.ServiceSelector = matching(metav1.LabelSelectorOpIn, "app") }

func priority(n int32) func(*state.Pool) { return func(p *state.Pool) { p.Priority = n } }

func selecting(key, value string) func(*state.Pool) {
	return func(p *state.Pool) {
		p.ServiceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	}
}

func inNamespaces(key, value string) func(*state.Pool) {
	return func(p *state.Pool) {
		p.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	}
}

func matching(op metav1.LabelSelectorOperator, key string, values ...string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: op, Values: values}}}
}

func allocate(services []state.Service, pools []state.Pool) ([]state.Allocation, []state.PoolStatus) {
	return Inputs{Services: services, Pools: pools}.Allocate()
}

// text is one line per row, for tables.
func text(rows []state.Allocation) string {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "%s", strings.TrimPrefix(r.Service.String(), "default/"))
		for i, a := range r.Addrs {
			fmt.Fprintf(&b, " %s@%s", a, r.Pools[i])
		}
		if r.Reason != state.ReasonSatisfied || r.Message != "" {
			fmt.Fprintf(&b, " %s: %s", r.Reason, r.Message)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

const few = "10.0.0.1-10.0.0.3"

func TestAllocate(t *testing.T) {
	for _, c := range []struct {
		name     string
		services []state.Service
		pools    []state.Pool
		want     string
	}{
		{"lowest free address, oldest Service first",
			[]state.Service{svc("young", 2), svc("old", 1)},
			[]state.Pool{pl("p", 0, few)},
			"old 10.0.0.1@p\nyoung 10.0.0.2@p\n"},
		{"of one age, by name",
			[]state.Service{svc("b", 1), svc("a", 1)},
			[]state.Pool{pl("p", 0, few)},
			"a 10.0.0.1@p\nb 10.0.0.2@p\n"},
		{"lowest over blocks in any order",
			[]state.Service{svc("a", 1), svc("b", 2)},
			[]state.Pool{pl("p", 0, "10.0.0.9 10.0.0.4")},
			"a 10.0.0.4@p\nb 10.0.0.9@p\n"},
		{"gaps are filled",
			[]state.Service{svc("a", 1, carries("10.0.0.1")), svc("b", 2, carries("10.0.0.3")), svc("c", 3)},
			[]state.Pool{pl("p", 0, "10.0.0.1-10.0.0.5")},
			"a 10.0.0.1@p\nb 10.0.0.3@p\nc 10.0.0.2@p\n"},
		{"only ours",
			[]state.Service{
				svc("cluster", 1, func(s *state.Service) { s.Type = "ClusterIP" }), svc("other", 2, class("example.com/lb")),
				svc("l2", 3, class("seamark.dev/l2")), svc("bgp", 4, class("seamark.dev/bgp")),
				svc("theirs", 5, class("io.cilium/l2-announcer"))}, // the source translates what means ours
			[]state.Pool{pl("p", 0, "10.0.0.1-10.0.0.9")},
			"bgp 10.0.0.2@p\nl2 10.0.0.1@p\n"},

		{"what is carried comes first, whatever the age",
			[]state.Service{svc("old", 1), svc("asks", 2, asks("10.0.0.1")), svc("young", 3, carries("10.0.0.1"))},
			[]state.Pool{pl("p", 0, few)},
			"asks AlreadyAssigned: 10.0.0.1, asked for in spec.loadBalancerIP, belongs to Service default/young: ask for another address, or take it from that Service first\n" +
				"old 10.0.0.2@p\nyoung 10.0.0.1@p\n"},
		{"carried stays in a disabled pool, in one that does not select, in one on demand and in one in conflict",
			[]state.Service{svc("a", 1, carries("10.0.0.1")), svc("b", 2, carries("10.0.1.1")), svc("c", 3, carries("10.0.2.1")), svc("d", 4, carries("10.0.3.2"))},
			[]state.Pool{pl("off", 0, "10.0.0.1", disabled), pl("sel", 0, "10.0.1.1", selecting("app", "x")), pl("demand", 0, "10.0.2.1", onDemand),
				pl("one", 1, "10.0.3.1"), pl("two", 2, "10.0.3.1-10.0.3.2")},
			"a 10.0.0.1@off\nb 10.0.1.1@sel\nc 10.0.2.1@demand\nd 10.0.3.2@two\n"},
		{"carried from a pool in conflict and one that gives: it is the latter's",
			[]state.Service{svc("a", 1, carries("10.0.0.5"))},
			[]state.Pool{pl("one", 1, "10.0.0.1"), pl("two", 2, "10.0.0.1-10.0.0.5"), pl("three", 3, "10.0.0.5")},
			"a 10.0.0.5@three\n"},
		{"carried by two: the older has it, the other gets another",
			[]state.Service{svc("young", 2, carries("10.0.0.1")), svc("old", 1, carries("10.0.0.1"))},
			[]state.Pool{pl("p", 0, few)},
			"old 10.0.0.1@p\nyoung 10.0.0.2@p\n"},
		{"carried from no pool is given up",
			[]state.Service{svc("a", 1, carries("192.0.2.1"))},
			[]state.Pool{pl("p", 0, few)},
			"a 10.0.0.1@p\n"},
		{"several carried stay, in their order",
			[]state.Service{svc("a", 1, carries("10.0.0.3", "10.0.0.2"))},
			[]state.Pool{pl("p", 0, few)},
			"a 10.0.0.3@p 10.0.0.2@p\n"},

		{"requests, oldest first",
			[]state.Service{svc("auto", 1), svc("late", 3, asks("10.0.0.1")), svc("early", 2, asks("10.0.0.1"))},
			[]state.Pool{pl("p", 0, few)},
			"auto 10.0.0.2@p\nearly 10.0.0.1@p\n" +
				"late AlreadyAssigned: 10.0.0.1, asked for in spec.loadBalancerIP, belongs to Service default/early: ask for another address, or take it from that Service first\n"},
		{"several requested, one of them twice",
			[]state.Service{svc("a", 1, asks("10.0.0.3", "10.0.0.1", "10.0.0.3"))},
			[]state.Pool{pl("p", 0, few)},
			"a 10.0.0.3@p 10.0.0.1@p\n"},
		{"outside every pool: which there are",
			[]state.Service{svc("a", 1, asks("192.0.2.9"))},
			[]state.Pool{pl("p", 0, few), pl("q", 0, "10.0.1.1 10.0.1.7"), pl("six", 0, "fd00::1")},
			"a OutsidePools: 192.0.2.9, asked for in spec.loadBalancerIP, is in no pool: ask for an address of p (10.0.0.1–10.0.0.3), q (10.0.1.1, 10.0.1.7), or add a block that holds it to a pool\n"},
		{"outside, and no pool of the family",
			[]state.Service{svc("a", 1, asks("192.0.2.9"))},
			[]state.Pool{pl("six", 0, "fd00::1")},
			"a OutsidePools: 192.0.2.9, asked for in spec.loadBalancerIP, is in no pool, and no pool holds IPv4 addresses: create one that holds it\n"},
		{"one of two outside: the other is given",
			[]state.Service{svc("a", 1, asks("192.0.2.9", "10.0.0.2"))},
			[]state.Pool{pl("p", 0, few)},
			"a 10.0.0.2@p OutsidePools: 192.0.2.9, asked for in spec.loadBalancerIP, is in no pool: ask for an address of p (10.0.0.1–10.0.0.3), or add a block that holds it to a pool\n"},
		{"asked of a pool that does not give",
			[]state.Service{svc("a", 1, asks("10.0.0.1")), svc("b", 2, asks("10.0.1.1")), svc("c", 3, asks("10.0.2.2")), svc("d", 4, asks("10.0.0.2"), fromPool("sel"))},
			[]state.Pool{pl("off", 0, "10.0.0.1-10.0.0.2", disabled), pl("sel", 0, "10.0.1.1", selecting("app", "x")), pl("one", 1, "10.0.2.1"), pl("two", 2, "10.0.2.1-10.0.2.2")},
			"a PoolNotAllowed: 10.0.0.1, asked for in spec.loadBalancerIP, is in pool off, which does not give it: disabled: ask for another address, or change the pool\n" +
				"b PoolNotAllowed: 10.0.1.1, asked for in spec.loadBalancerIP, is in pool sel, which does not give it: its serviceSelector does not select this Service: ask for another address, or change the pool\n" +
				"c PoolNotAllowed: 10.0.2.2, asked for in spec.loadBalancerIP, is in pool two, which does not give it: in conflict: pool one, which is older, also holds 10.0.2.1: take it out of one of the two: ask for another address, or change the pool\n" +
				"d PoolNotAllowed: 10.0.0.2, asked for in spec.loadBalancerIP, is in pool off, but annotation seamark.dev/pool names pool sel: make the two agree\n"},
		{"a new request is given in the place of what is carried",
			[]state.Service{svc("a", 1, carries("10.0.0.1"), asks("10.0.0.3"))},
			[]state.Pool{pl("p", 0, few)},
			"a 10.0.0.3@p\n"},
		{"what is given up is free when nobody carries it",
			[]state.Service{svc("a", 1, carries("10.0.0.1"), asks("10.0.0.3")), svc("b", 2)},
			[]state.Pool{pl("p", 0, few)},
			"a 10.0.0.3@p\nb 10.0.0.2@p\n"},
		{"a request that cannot be given takes nothing away",
			[]state.Service{svc("a", 1, carries("10.0.0.1"), asks("192.0.2.9"))},
			[]state.Pool{pl("p", 0, few)},
			"a 10.0.0.1@p OutsidePools: 192.0.2.9, asked for in spec.loadBalancerIP, is in no pool: ask for an address of p (10.0.0.1–10.0.0.3), or add a block that holds it to a pool\n"},
		{"of a family the Service lacks",
			[]state.Service{svc("a", 1, asks("fd00::1"))},
			[]state.Pool{pl("p", 0, few+" fd00::1")},
			"a 10.0.0.1@p WrongFamily: fd00::1, asked for in spec.loadBalancerIP, is IPv6, but spec.ipFamilies of the Service is IPv4: add the family there, or ask for another address\n"},

		{"two families, in the Service's order",
			[]state.Service{svc("a", 1, families("IPv6", "IPv4")), svc("b", 2, families("IPv4", "IPv6"))},
			[]state.Pool{pl("four", 0, few), pl("six", 0, "fd00::1-fd00::9")},
			"a fd00::1@six 10.0.0.1@four\nb 10.0.0.2@four fd00::2@six\n"},
		{"one of two families asked for, the other given",
			[]state.Service{svc("a", 1, families("IPv4", "IPv6"), asks("10.0.0.3"))},
			[]state.Pool{pl("p", 0, few+" fd00::1")},
			"a 10.0.0.3@p fd00::1@p\n"},
		{"one of two families cannot be had: both or none, and nothing is used up",
			[]state.Service{svc("a", 1, families("IPv4", "IPv6")), svc("b", 2)},
			[]state.Pool{pl("p", 0, few)},
			"a NoPool: no pool holds IPv6 addresses: create one, or add a block; it gets both families or none: write PreferDualStack as spec.ipFamilyPolicy to have one alone\n" +
				"b 10.0.0.1@p\n"},
		{"one of two families cannot be had: what was given stays",
			[]state.Service{svc("a", 1, families("IPv4", "IPv6"), carries("10.0.0.2"))},
			[]state.Pool{pl("p", 0, few)},
			"a 10.0.0.2@p NoPool: no pool holds IPv6 addresses: create one, or add a block\n"},
		{"one of two families is asked for, and the other cannot be had: it is kept, and not given",
			[]state.Service{svc("a", 1, families("IPv4", "IPv6"), asks("10.0.0.1")), svc("b", 2)},
			[]state.Pool{pl("p", 0, few)},
			"a NoPool: no pool holds IPv6 addresses: create one, or add a block; it gets both families or none: write PreferDualStack as spec.ipFamilyPolicy to have one alone\n" +
				"b 10.0.0.2@p\n"},
		{"one of two families is another's",
			[]state.Service{svc("a", 1, families("IPv4", "IPv6"), asks("10.0.0.1")), svc("b", 0, asks("10.0.0.1"))},
			[]state.Pool{pl("p", 0, few+" fd00::1-fd00::9")},
			"a AlreadyAssigned: 10.0.0.1, asked for in spec.loadBalancerIP, belongs to Service default/b: ask for another address, or take it from that Service first; it gets both families or none: write PreferDualStack as spec.ipFamilyPolicy to have one alone\n" +
				"b 10.0.0.1@p\n"},
		{"both preferred, and had",
			[]state.Service{svc("a", 1, prefers("IPv6", "IPv4"))},
			[]state.Pool{pl("p", 0, few+" fd00::1-fd00::9")},
			"a fd00::1@p 10.0.0.1@p\n"},
		{"both preferred: one will do, and it is said",
			[]state.Service{svc("a", 1, prefers("IPv4", "IPv6")), svc("b", 2, prefers("IPv6", "IPv4"))},
			[]state.Pool{pl("p", 0, few), pl("six", 0, "fd00::1", disabled)},
			"a 10.0.0.1@p Satisfied: IPv4 alone, as PreferDualStack allows: no pool gives this Service an IPv6 address: six (disabled): change one of them, or create another\n" +
				"b 10.0.0.2@p Satisfied: IPv4 alone, as PreferDualStack allows: no pool gives this Service an IPv6 address: six (disabled): change one of them, or create another\n"},
		{"both preferred, and neither had",
			[]state.Service{svc("a", 1, prefers("IPv4", "IPv6"))},
			nil,
			"a NoPool: no pool holds IPv4 addresses: create one, or add a block; no pool holds IPv6 addresses: create one, or add a block\n"},
		{"both preferred: one that is asked for must be had",
			[]state.Service{svc("a", 1, prefers("IPv4", "IPv6"), asks("fd00::9"))},
			[]state.Pool{pl("p", 0, few)},
			"a 10.0.0.1@p OutsidePools: fd00::9, asked for in spec.loadBalancerIP, is in no pool, and no pool holds IPv6 addresses: create one that holds it\n"},
		{"a family no longer wanted is given up",
			[]state.Service{svc("a", 1, carries("10.0.0.1", "fd00::1"))},
			[]state.Pool{pl("p", 0, few+" fd00::1")},
			"a 10.0.0.1@p\n"},
		{"no family said: IPv4",
			[]state.Service{svc("a", 1, families())},
			[]state.Pool{pl("p", 0, few+" fd00::1")},
			"a 10.0.0.1@p\n"},

		{"pools by priority, then age, then name",
			[]state.Service{svc("a", 1), svc("b", 2), svc("c", 3), svc("d", 4)},
			[]state.Pool{pl("name2", 5, "10.0.3.1"), pl("old", 1, "10.0.1.1"), pl("first", 9, "10.0.9.1", priority(7)), pl("name1", 5, "10.0.2.1")},
			"a 10.0.9.1@first\nb 10.0.1.1@old\nc 10.0.2.1@name1\nd 10.0.3.1@name2\n"},
		{"selected by label, namespace and name",
			[]state.Service{svc("a", 1, labelled("app", "x")), svc("blue/b", 2), svc("c", 3), svc("green/d", 4), svc("e", 5)},
			[]state.Pool{pl("label", 0, "10.0.1.1-10.0.1.9", selecting("app", "x")),
				pl("ns", 0, "10.0.2.1-10.0.2.9", selecting("io.kubernetes.service.namespace", "blue")),
				pl("name", 0, "10.0.3.1-10.0.3.9", selecting("io.kubernetes.service.name", "c")),
				pl("space", 0, "10.0.4.1-10.0.4.9", inNamespaces("kubernetes.io/metadata.name", "green"))},
			"blue/b 10.0.2.1@ns\na 10.0.1.1@label\nc 10.0.3.1@name\n" +
				"e NoPool: no pool gives this Service an IPv4 address: label (its serviceSelector does not select this Service), name (its serviceSelector does not select this Service), ns (its serviceSelector does not select this Service), space (its namespaceSelector does not select namespace default): change one of them, or create another\n" +
				"green/d 10.0.4.1@space\n"},
		{"not in: a label that is not there is not in",
			[]state.Service{svc("a", 1), svc("b", 2, labelled("app", "x"))},
			[]state.Pool{pl("p", 0, few, func(p *state.Pool) { p.ServiceSelector = matching(metav1.LabelSelectorOpNotIn, "app", "x") })},
			"a 10.0.0.1@p\nb NoPool: no pool gives this Service an IPv4 address: p (its serviceSelector does not select this Service): change one of them, or create another\n"},
		{"on demand: by pool, by address, not otherwise",
			[]state.Service{svc("a", 1), svc("b", 2, fromPool("p")), svc("c", 3, asks("10.0.0.3"))},
			[]state.Pool{pl("p", 0, few, onDemand)},
			"a NoPool: no pool gives this Service an IPv4 address: p (autoAssign is false, so it must be named in annotation seamark.dev/pool): change one of them, or create another\n" +
				"b 10.0.0.1@p\nc 10.0.0.3@p\n"},
		{"the pool named, and no other",
			[]state.Service{svc("a", 1, fromPool("q")), svc("b", 2, fromPool("q")), svc("c", 3, fromPool("none"))},
			[]state.Pool{pl("p", 0, few), pl("q", 0, "10.0.1.1")},
			"a 10.0.1.1@q\nb PoolExhausted: no free IPv4 address in pool q (1 of 1 in use): add a block, or release an address\n" +
				"c NoPool: annotation seamark.dev/pool names pool none, and there is none: create it, or name another\n"},
		{"no pool at all",
			[]state.Service{svc("a", 1)}, nil,
			"a NoPool: no pool holds IPv4 addresses: create one, or add a block\n"},
		{"disabled and invalid give nothing",
			[]state.Service{svc("a", 1)},
			[]state.Pool{pl("off", 0, few, disabled), pl("bad", 1, few, invalid), pl("worse", 2, "10.0.9.1", unreadable)},
			"a NoPool: no pool gives this Service an IPv4 address: off (disabled), bad (invalid: spec.blocks[0]: start is after stop: swap them), worse (invalid: spec.serviceSelector: values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty): change one of them, or create another\n"},
		{"exhausted, counted",
			[]state.Service{svc("a", 1), svc("b", 2), svc("c", 3)},
			[]state.Pool{pl("p", 0, "10.0.0.1"), pl("q", 0, "10.0.1.1", priority(1))},
			"a 10.0.1.1@q\nb 10.0.0.1@p\nc PoolExhausted: no free IPv4 address in pool q (1 of 1 in use), p (1 of 1 in use): add a block, or release an address\n"},
		{"a pool in conflict gives nothing new",
			[]state.Service{svc("a", 1), svc("b", 2)},
			[]state.Pool{pl("new", 2, "10.0.0.1-10.0.0.9", priority(9)), pl("old", 1, "10.0.0.1")},
			"a 10.0.0.1@old\nb PoolExhausted: no free IPv4 address in pool old (1 of 1 in use): add a block, or release an address\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rows, _ := allocate(c.services, c.pools)
			if got := text(rows); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}

func TestPoolStatuses(t *testing.T) {
	services := []state.Service{
		svc("a", 1, carries("10.0.0.5")), svc("b", 2), svc("c", 3, families("IPv6")), svc("d", 4, carries("10.0.0.1"), asks("10.0.0.9")),
	}
	pools := []state.Pool{
		pl("aaa", 5, "10.0.0.4-10.0.0.6 10.0.0.1", priority(1)), // overlaps old twice: the lowest range is named
		pl("old", 1, "10.0.0.1-10.0.0.10"),
		pl("third", 7, "10.0.0.6-10.0.0.6 10.0.5.1"), // overlaps old and aaa: the oldest is named
		pl("fourth", 8, "10.0.5.1"),                  // overlaps third only, which gives nothing anyway
		pl("off", 3, "10.0.7.1-10.0.7.4", disabled),
		pl("six", 3, "fd00:10::-fd00:10:0:ffff:ffff:ffff:ffff:ffff"),
		pl("bad", 3, few, invalid),
	}
	_, got := allocate(services, pools)
	want := []state.PoolStatus{
		{Pool: "aaa", Total: "4", Available: "2", Used: "2", Conflict: "pool old, which is older, also holds 10.0.0.1: take it out of one of the two"},
		{Pool: "bad", Total: "0", Available: "0", Used: "0", Invalid: "spec.blocks[0]: start is after stop: swap them"},
		{Pool: "fourth", Total: "1", Available: "1", Used: "0"},
		{Pool: "off", Total: "4", Available: "4", Used: "0"},
		{Pool: "old", Total: "10", Available: "6", Used: "4"}, // .1 is carried still, .2 given, .5 carried, .9 asked for
		{Pool: "six", Total: "1208925819614629174706176", Available: "1208925819614629174706175", Used: "1"},
		{Pool: "third", Total: "2", Available: "2", Used: "0", Conflict: "pool old, which is older, also holds 10.0.0.6: take it out of one of the two"},
	}
	if len(got) != len(want) {
		t.Fatalf("got %d rows, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
}

// Whoever asks for very much is told a part of why it has none.
func TestMessageIsBounded(t *testing.T) {
	var asked []string
	for i := range 64 {
		asked = append(asked, fmt.Sprintf("192.0.2.%d", i))
	}
	pools := []state.Pool{}
	for i := range 9 {
		pools = append(pools, pl(fmt.Sprint(strings.Repeat("n", 250), i), i, fmt.Sprintf("10.0.%d.1 10.0.%d.3 10.0.%d.5 10.0.%d.7 10.0.%d.9", i, i, i, i, i)))
	}
	rows, _ := allocate([]state.Service{svc("a", 1, asks(asked...))}, pools)
	if m := rows[0].Message; len(m) > 32<<10 || !strings.HasSuffix(m, "; and 48 more of what it asks for") {
		t.Errorf("%d bytes, %q at the end", len(m), m[max(0, len(m)-60):])
	}
}

// A decision that is not in the Service's status yet holds.
func TestDecidedHolds(t *testing.T) {
	pools := []state.Pool{pl("p", 0, few)}
	late := svc("late", 1)
	decided, _ := allocate([]state.Service{late}, pools)
	older := svc("early", 0) // learnt of only now
	rows, _ := Inputs{Services: []state.Service{older, late}, Decided: decided, Pools: pools}.Allocate()
	if got, want := text(rows), "early 10.0.0.2@p\nlate 10.0.0.1@p\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	recreated := late
	recreated.UID = "another"
	rows, _ = Inputs{Services: []state.Service{older, recreated}, Decided: decided, Pools: pools}.Allocate()
	if got, want := text(rows), "early 10.0.0.1@p\nlate 10.0.0.2@p\n"; got != want {
		t.Errorf("recreated: got\n%swant\n%s", got, want)
	}
	decided[0].Status.Phase = state.Deleting
	rows, _ = Inputs{Services: []state.Service{older, late}, Decided: decided, Pools: pools}.Allocate()
	if got, want := text(rows), "early 10.0.0.1@p\nlate 10.0.0.2@p\n"; got != want {
		t.Errorf("taken back: got\n%swant\n%s", got, want)
	}
}
