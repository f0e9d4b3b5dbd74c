package state

import (
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"k8s.io/apimachinery/pkg/api/meta"
)

// Products whose kinds, and classes of Services, Seamark understands, as
// Agents name them.
const (
	ProductCilium  = "Cilium"
	ProductMetalLB = "MetalLB"
)

// Leavings is what Seamark leaves to other projects while their own programs
// run.
type Leavings struct {
	// products whose programs give addresses or announce them.
	products map[string]bool
	// pools says of each whether it has pools to give addresses from.
	pools map[string]bool
	// classless is the product that Services without a class are left to.
	classless string
	// own are the pools that are Seamark's; not filled in for no classless.
	own PoolIndex
}

// LeavingsOf works the Leavings out. Whoever decides by them waits for Agents
// to be synced.
//
// Services without spec.loadBalancerClass are left to an allocator that runs
// and has pools, or, of a product whose kinds Seamark reads, to any program of it, since
// its pools are left to it with the first that is seen: what has an address of theirs
// would get another until the allocator is seen. Pools that are left to it are known by the Problem that says
// so. Of a product whose kinds Seamark does not read nobody knows whether it
// has any: it counts as if.
func LeavingsOf(db *DB, r Reader) Leavings {
	l := Leavings{products: map[string]bool{}, pools: map[string]bool{}}
	for a := range db.Agents.All(r) {
		if a.Role != AgentAllocates && a.Role != AgentAnnounces {
			continue
		}
		if !l.products[a.Product] {
			l.products[a.Product] = true
			l.pools[a.Product] = hasPools(db, r, a.Product)
		}
		allocates := a.Role == AgentAllocates || poolKind(a.Product) != ""
		if allocates && l.classless == "" && l.pools[a.Product] {
			l.classless = a.Product
		}
	}
	if l.classless != "" {
		l.own = IndexPools(slices.DeleteFunc(db.Pools.Rows(r), func(p Pool) bool {
			return l.products[ProductCilium] && p.Origin.Kind == poolKind(ProductCilium) ||
				l.products[ProductMetalLB] && p.Origin.Kind == poolKind(ProductMetalLB)
		}))
	}
	return l
}

// poolKind is the product's kind of pools, "" when Seamark reads none.
func poolKind(product string) string {
	switch product {
	case ProductCilium:
		return "CiliumLoadBalancerIPPool"
	case ProductMetalLB:
		return "IPAddressPool"
	}
	return ""
}

// hasPools says whether the product has pools to give addresses from.
func hasPools(db *DB, r Reader, product string) bool {
	kind := poolKind(product)
	if kind == "" {
		return true
	}
	for p := range db.Pools.All(r) {
		if p.Origin.Kind == kind && !p.Disabled {
			return true
		}
	}
	for p := range db.SourceProblems.All(r) {
		if p.Object.Kind == kind {
			return true
		}
	}
	return false
}

// HasPools says whether a program of the product runs, and has pools.
func (l Leavings) HasPools(product string) bool { return l.pools[product] }

// Classless is the product that Services without a class are left to, "" when
// they are Seamark's.
func (l Leavings) Classless() string { return l.classless }

// Service is the product that svc is left to, "" when it is not. A Service
// without a class that Seamark gave an address of its own pools keeps it; one
// of a pool that is the product's, since it runs, is handed over as it is.
func (l Leavings) Service(svc Service) string {
	if svc.ClassOf != "" {
		if l.products[svc.ClassOf] {
			return svc.ClassOf
		}
		return ""
	}
	if svc.Class == "" && !l.given(svc) {
		return l.classless
	}
	return ""
}

// given says whether Seamark gave svc an address of its own pools, if not all
// that it wants.
func (l Leavings) given(svc Service) bool {
	return meta.FindStatusCondition(svc.Conditions, v1alpha1.ConditionIPAMRequestSatisfied) != nil &&
		slices.ContainsFunc(svc.Ingress, func(a netip.Addr) bool {
			_, own := l.own.Holding(a.Unmap())
			return own
		})
}

// ForSeamark says whether a Service is for Seamark to serve, by its type and
// class, if nobody else is (Leavings).
func (s Service) ForSeamark() bool {
	return s.Type == "LoadBalancer" && (s.Class == "" || s.Class == v1alpha1.ClassL2 || s.Class == v1alpha1.ClassBGP)
}
