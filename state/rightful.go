package state

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Rightful returns the Services with only the addresses that Seamark is to
// serve: those of other load balancers, by class, because their programs run
// (Leavings) or because Seamark has given in to them, have no Ingress here.
// Each of the others that is left out has a Problem. Served, a node's address
// would take all the node's other traffic; a gateway's or another Service's,
// theirs; and announced, their place on the wire (CVE-2020-8554). Anyone who
// may write a Service can write spec.externalIPs, so an address of a pool is
// refused there unless LB-IPAM gave it to this very Service.
//
// What a table does not hold yet is not known: whoever decides by the result
// waits for Services, Nodes and Pools to be synced.
func Rightful(db *DB, r Reader) ([]Service, []Problem) {
	services := db.Services.Rows(r)
	holders := Holders(services, db.Nodes.Rows(r), db.NodeLeases.Rows(r), db.Devices.Rows(r))
	pools := IndexPools(db.Pools.Rows(r))
	left := LeavingsOf(db, r)
	var problems []Problem
	rightful := func(svc Service, field string, addrs []netip.Addr) []netip.Addr {
		refused := func(a netip.Addr) bool {
			who, cure := "", ""
			if h, held := holders[a.Unmap()]; held && h.object != ServiceRef(svc.Name) {
				who, cure = h.String(), h.kind.cure()
			} else if pool, ok := pools.Holding(a.Unmap()); ok && field == fieldExternalIPs && !given(svc, a) {
				who = "in pool " + pool.Name + ", whose addresses LB-IPAM gives to Services of type LoadBalancer"
				cure = "use an address that is in no pool, or type LoadBalancer"
			} else {
				return false
			}
			problems = append(problems, Problem{Object: ServiceRef(svc.Name), Field: field,
				Message: a.String() + " is " + who + ", and is neither served nor announced for this Service", Cure: cure})
			return true
		}
		return without(addrs, refused)
	}
	for i, svc := range services { // a copy of the table's
		services[i].Ingress = nil
		if svc.ForSeamark() && !disputed(svc) && left.Service(svc) == "" {
			services[i].Ingress = rightful(svc, "status.loadBalancer.ingress", svc.Ingress)
		}
		services[i].ExternalIPs = rightful(svc, fieldExternalIPs, svc.ExternalIPs)
		services[i].ClusterIPs = rightful(svc, "spec.clusterIPs", svc.ClusterIPs)
	}
	return services, problems
}

// disputed says whether the addresses in svc's status are another controller's.
func disputed(svc Service) bool {
	return slices.ContainsFunc(svc.Conditions, func(c metav1.Condition) bool {
		return c.Type == v1alpha1.ConditionIPAMRequestSatisfied && c.Reason == string(ReasonDisputed)
	})
}

const fieldExternalIPs = "spec.externalIPs"

// given says whether a load balancer gave svc the address: only those who may
// write its status can say so.
func given(svc Service, a netip.Addr) bool {
	return svc.Type == "LoadBalancer" && slices.Contains(svc.Ingress, a)
}

// without returns addrs, which are not changed, without the refused ones.
func without(addrs []netip.Addr, refused func(netip.Addr) bool) []netip.Addr {
	for i, a := range addrs {
		if !refused(a) {
			continue
		}
		rest := slices.Clone(addrs[:i])
		for _, b := range addrs[i+1:] {
			if !refused(b) {
				rest = append(rest, b)
			}
		}
		return rest
	}
	return addrs
}

// Holder is what has an address that LB-IPAM does not give and that no (other)
// Service may have.
type Holder struct {
	kind   holderKind
	object ObjectRef // the node, "" for this one, or the Service
	device string    // that leads to a gateway, or has the address
}

type holderKind uint8

const (
	nodeAddress holderKind = iota // in Node.status.addresses
	deviceAddress
	gateway
	clusterIP
)

func (k holderKind) cure() string {
	switch k {
	case nodeAddress, deviceAddress:
		return "use an address that is no node's, and keep nodes' addresses out of pools"
	case gateway:
		return "use an address that is no gateway's, and keep gateways' addresses out of pools"
	}
	return "use an address of your own, and keep the range of clusterIPs out of pools"
}

// String is what the address is, as "the address of node a".
func (h Holder) String() string {
	switch {
	case h.kind == nodeAddress:
		return "the address of node " + h.object.Name
	case h.kind == clusterIP:
		return "the clusterIP of " + h.object.String()
	case h.kind == deviceAddress && h.object.Name == "":
		return "an address of this node, on " + h.device
	case h.kind == deviceAddress:
		return "an address of node " + h.object.Name
	case h.object.Name == "":
		return "a gateway of this node, through " + h.device
	}
	return "a gateway of node " + h.object.Name + ", through " + h.device
}

func (h Holder) compare(g Holder) int {
	return cmp.Or(cmp.Compare(h.kind, g.kind), cmp.Compare(h.object.Namespace, g.object.Namespace),
		cmp.Compare(h.object.Name, g.object.Name), cmp.Compare(h.device, g.device))
}

// Holders returns who has an address: the nodes, by their objects and on their
// devices, the gateways of their default routes, as their leases and this
// node's devices name them, and the Services with their clusterIPs. Of several
// that have one, the first in that order and by name.
func Holders(services []Service, nodes []Node, leases []NodeLease, devices []Device) map[netip.Addr]Holder {
	holders := make(map[netip.Addr]Holder, len(services)+len(nodes))
	hold := func(addrs []netip.Addr, h Holder) {
		for _, a := range addrs {
			if other, held := holders[a.Unmap()]; !held || h.compare(other) < 0 {
				holders[a.Unmap()] = h
			}
		}
	}
	for _, n := range nodes {
		hold(n.Addrs, Holder{kind: nodeAddress, object: NodeRef(n.Name)})
	}
	carried := CarriedBy(slices.Values(services))
	for _, l := range leases {
		hold(l.Addrs, Holder{kind: deviceAddress, object: NodeRef(l.Node)})
		for _, i := range l.Interfaces {
			hold(i.Gateways, Holder{kind: gateway, object: NodeRef(l.Node), device: i.Name})
		}
	}
	for _, d := range devices {
		hold(OwnAddrs([]Device{d}, carried), Holder{kind: deviceAddress, object: NodeRef(""), device: d.Name})
		hold(d.Gateways, Holder{kind: gateway, object: NodeRef(""), device: d.Name})
	}
	for _, s := range services {
		hold(s.ClusterIPs, Holder{kind: clusterIP, object: ServiceRef(s.Name)})
	}
	return holders
}

// PoolIndex finds the pool that holds an address, in logarithmic time.
type PoolIndex []indexedRange

// indexedRange is a range of a pool. widest is the place of the range that
// reaches farthest of this one and those before it.
type indexedRange struct {
	Range
	pool   *Pool
	widest int
}

// IndexPools returns the index of the pools' ranges.
func IndexPools(pools []Pool) PoolIndex {
	var x PoolIndex
	for i := range pools {
		for _, r := range pools[i].Ranges {
			x = append(x, indexedRange{Range: r, pool: &pools[i]})
		}
	}
	slices.SortFunc(x, func(a, b indexedRange) int {
		return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.pool.Name, b.pool.Name))
	})
	for i := 1; i < len(x); i++ {
		x[i].widest = i
		if before := x[i-1].widest; x[i].To.Compare(x[before].To) <= 0 {
			x[i].widest = before
		}
	}
	return x
}

// Holding returns a pool that holds a; of several that overlap, one of them.
func (x PoolIndex) Holding(a netip.Addr) (Pool, bool) {
	i := sort.Search(len(x), func(i int) bool { return a.Less(x[i].From) })
	if i == 0 {
		return Pool{}, false
	}
	if r := x[x[i-1].widest]; r.Contains(a) {
		return *r.pool, true
	}
	return Pool{}, false
}
