package lbipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/api/meta"
)

// family of an address: an index of what there is of each.
type family int

const (
	ipv4 family = iota
	ipv6
)

// String is the family as state.Service.Families names it.
func (f family) String() string { return [...]string{"IPv4", "IPv6"}[f] }

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// preferDualStack is the policy, as in Kubernetes, of a Service that takes one of
// two families when it cannot have both. Others that want two must have both.
const preferDualStack = "PreferDualStack"

// claim is one Service and what it has been given so far.
type claim struct {
	svc       *state.Service
	namespace namespaceLabels
	families  []family
	// requested addresses of each family; carried are those of its status, or
	// decided before and on their way there, that are this Service's.
	requested, carried, given [2][]netip.Addr
	// foreign are requested addresses of a family that the Service lacks.
	foreign []netip.Addr
	// holds are all addresses that this Service is a tenant of.
	holds []netip.Addr
	// withheld: it must have both families, and cannot: what is given is kept
	// for it, and it has none.
	withheld bool

	// row is what was decided, now or before; waits says whether the claim is
	// among those that wait for the rest.
	row       state.Allocation
	waits     bool
	waitsFor  []netip.Addr // of requested
	contested []netip.Addr // of its status, and another Service's
	short     [2]bool      // lacks an address of the family, any
}

// newClaim returns what svc, of a namespace with those labels, asks for; decided
// is what a Service of that name was given before, if one was.
func newClaim(svc *state.Service, namespace map[string]string, decided state.Allocation) *claim {
	c := &claim{svc: svc, namespace: namespaceLabels{svc.Name.Namespace, namespace}, row: decided}
	for _, f := range []family{ipv4, ipv6} {
		if slices.Contains(svc.Families, f.String()) {
			c.families = append(c.families, f)
		}
	}
	if len(c.families) == 2 && svc.Families[0] == ipv6.String() {
		slices.Reverse(c.families)
	}
	if len(c.families) == 0 {
		c.families = []family{ipv4}
	}
	for _, addr := range svc.RequestedIPs {
		if f := familyOf(addr); !slices.Contains(c.families, f) {
			c.foreign = append(c.foreign, addr)
		} else if !slices.Contains(c.requested[f], addr) {
			c.requested[f] = append(c.requested[f], addr)
		}
	}
	return c
}

// older orders claims by the age of their Services.
func older(c, d *claim) int {
	return cmp.Or(c.svc.Created.Compare(d.svc.Created), c.svc.Name.Compare(d.svc.Name))
}

// asked begins a message about an address that c asks for.
func (c *claim) asked(addr netip.Addr) string {
	return fmt.Sprintf("%s, asked for in %s,", addr, c.svc.RequestField)
}

// mayUse says whether c takes addresses of p: it names none, or p.
func (c *claim) mayUse(p *pool) bool { return c.svc.Pool == "" || p.Called(c.svc.Pool) }

// ours says whether Seamark gave the Service what it carries.
func (c *claim) ours() bool {
	return meta.FindStatusCondition(c.svc.Conditions, v1alpha1.ConditionIPAMRequestSatisfied) != nil
}

// lacks says whether c is to have any address of the family, and has none.
func (c *claim) lacks(f family) bool { return len(c.given[f]) == 0 && len(c.requested[f]) == 0 }

// decided are the addresses that the Service was given before.
func (c *claim) decided() []netip.Addr {
	if c.row.UID != c.svc.UID {
		return nil // another Service of the name
	}
	return c.row.Addrs
}

// lost are the addresses that the Service was given before, or had lost by then,
// of families of which it has none now.
func (c *claim) lost(has []netip.Addr) (lost []netip.Addr) {
	if c.row.UID != c.svc.UID {
		return nil
	}
	for _, f := range c.families {
		ofFamily := func(addr netip.Addr) bool { return familyOf(addr) == f }
		if slices.ContainsFunc(has, ofFamily) {
			continue
		}
		before := c.row.Addrs
		if !slices.ContainsFunc(before, ofFamily) {
			before = c.row.Lost
		}
		for _, addr := range before {
			if ofFamily(addr) {
				lost = append(lost, addr)
			}
		}
	}
	return lost
}

// needsBoth says whether c must have an address of each of two families, or none. Who
// has one already keeps it.
func (c *claim) needsBoth() bool {
	return len(c.families) == 2 && c.svc.FamilyPolicy != preferDualStack && len(c.carried[ipv4])+len(c.carried[ipv6]) == 0
}

// has returns the addresses that the Service is to have.
func (c *claim) has() []netip.Addr {
	if c.withheld {
		return nil
	}
	var addrs []netip.Addr
	for _, f := range c.families {
		addrs = append(addrs, c.given[f]...)
	}
	return addrs
}

// other returns the family that f is not.
func (f family) other() family { return 1 - f }
