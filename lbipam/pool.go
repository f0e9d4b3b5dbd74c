package lbipam

import (
	"cmp"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
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

// pool is a state.Pool made ready to be asked.
type pool struct {
	state.Pool
	addrs set
	// free addresses that may still be given without being asked for by
	// address: what an incremental allocator would keep from pass to pass.
	// total is all that the pool has to give, free or not.
	free  [2]set
	total [2]*big.Int

	services, namespaces labels.Selector
	// conflict and invalid are the PoolStatus columns.
	conflict, invalid string
	// closed says why the pool gives nothing new to anyone; "" when it is open.
	closed string
}

// newPools returns the pools in the order of their age. Of two that overlap,
// the later one is in conflict, unless the older one is itself: then it gives
// nothing either, and there is nothing to dispute.
func newPools(rows []state.Pool) []*pool {
	pools := make([]*pool, len(rows))
	for i, row := range rows {
		pools[i] = newPool(row)
	}
	slices.SortFunc(pools, byAge)
	for i, p := range pools {
		for _, older := range pools[:i] {
			if shared, ok := p.addrs.overlap(older.addrs); ok && older.conflict == "" {
				p.conflict = fmt.Sprintf("pool %s, which is older, also holds %s: take it out of one of the two", older.Name, rangeText(shared))
				break
			}
		}
		switch {
		case p.invalid != "":
			p.closed = "invalid: " + p.invalid
		case p.conflict != "":
			p.closed = "in conflict: " + p.conflict
		case p.Disabled:
			p.closed = "disabled"
		}
	}
	return pools
}

func newPool(row state.Pool) *pool {
	p := &pool{Pool: row, addrs: newSet(row.Ranges), invalid: row.Invalid}
	p.services = p.selector("spec.serviceSelector", row.ServiceSelector)
	p.namespaces = p.selector("spec.namespaceSelector", row.NamespaceSelector)
	return p
}

// selector compiles s; an absent one selects all, a wrong one nothing.
func (p *pool) selector(field string, s *metav1.LabelSelector) labels.Selector {
	if s == nil {
		return labels.Everything()
	}
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		p.invalid = cmp.Or(p.invalid, fmt.Sprintf("%s: %v", field, err))
		return labels.Nothing()
	}
	return sel
}

func byAge(a, b *pool) int {
	return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Name, b.Name))
}

func byPreference(a, b *pool) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), byAge(a, b))
}

// refuses says why p gives c nothing new, "" when it does. asked: c names the
// pool, or one of its addresses.
func (p *pool) refuses(c *claim, asked bool) string {
	switch {
	case p.closed != "":
		return p.closed
	case !p.services.Matches(serviceLabels{c.svc}):
		return "its serviceSelector does not select this Service"
	case !p.namespaces.Matches(c.namespace):
		return "its namespaceSelector does not select namespace " + c.svc.Name.Namespace
	case !p.AutoAssign && !asked:
		return "autoAssign is false, so it must be named in annotation " + v1alpha1.AnnotationPool
	}
	return ""
}

// open fills in what is free: all that is not used (ascending).
func (p *pool) open(used []netip.Addr) {
	free := p.addrs.minus(used)
	for _, f := range []family{ipv4, ipv6} {
		// A copy: what is taken from it is cut off in place.
		p.free[f] = slices.Clone(free.of(f))
		p.total[f] = p.addrs.of(f).size()
		p.total[f].Sub(p.total[f], p.withheld(p.free[f]))
	}
}

// withheld counts those of the free addresses that are only given when they
// are asked for.
func (p *pool) withheld(free set) *big.Int {
	if !p.AvoidBuggyIPs {
		return new(big.Int)
	}
	return big.NewInt(free.buggy())
}

// takeLowest removes and returns the lowest free address that may be given
// without being asked for.
func (p *pool) takeLowest(f family) (netip.Addr, bool) {
	for {
		addr, ok := p.free[f].takeLowest()
		if !ok || !p.AvoidBuggyIPs || !buggy(addr) {
			return addr, ok
		}
	}
}

// status counts the pool's addresses, those left out that are only given when
// they are asked for and were not; used are all that are not free (ascending).
func (p *pool) status(used []netip.Addr) state.PoolStatus {
	free := p.addrs.minus(used)
	size, left := p.addrs.size(), free.size()
	inUse := new(big.Int).Sub(size, left)
	available := left.Sub(left, p.withheld(free))
	return state.PoolStatus{
		Pool:      p.Name,
		Total:     new(big.Int).Add(inUse, available).String(),
		Available: available.String(),
		Used:      inUse.String(),
		Conflict:  p.conflict,
		Invalid:   p.invalid,
	}
}

// maxListed bounds how many pools, or ranges of one, a message names.
const maxListed = 4

// text is the pool's name with its ranges of one family, for messages.
func (p *pool) text(f family) string {
	return p.Name + " (" + list(p.addrs.of(f), rangeText) + ")"
}

func rangeText(r state.Range) string {
	if r.From == r.To {
		return r.From.String()
	}
	return r.String()
}

// list joins the text of the first items, and counts the others.
func list[T any](items []T, text func(T) string) string {
	var texts []string
	for _, item := range items[:min(len(items), maxListed)] {
		texts = append(texts, text(item))
	}
	if more := len(items) - maxListed; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, ", ")
}

// Pseudo-labels that a serviceSelector can select by, as in Cilium.
const (
	namespaceLabel = "io.kubernetes.service.namespace"
	nameLabel      = "io.kubernetes.service.name"
)

// serviceLabels are a Service's labels and the pseudo-labels.
type serviceLabels struct{ svc *state.Service }

func (l serviceLabels) Lookup(label string) (string, bool) {
	switch label {
	case namespaceLabel:
		return l.svc.Name.Namespace, true
	case nameLabel:
		return l.svc.Name.Name, true
	}
	value, ok := l.svc.Labels[label]
	return value, ok
}

func (l serviceLabels) Has(label string) bool { _, ok := l.Lookup(label); return ok }

func (l serviceLabels) Get(label string) string { value, _ := l.Lookup(label); return value }

// metadataName is the label that Kubernetes puts on every namespace.
const metadataName = "kubernetes.io/metadata.name"

// namespaceLabels are a namespace's labels; its name is known also of one
// that is not.
type namespaceLabels struct {
	name   string
	labels map[string]string
}

func (l namespaceLabels) Lookup(label string) (string, bool) {
	if label == metadataName {
		return l.name, true
	}
	value, ok := l.labels[label]
	return value, ok
}

func (l namespaceLabels) Has(label string) bool { _, ok := l.Lookup(label); return ok }

func (l namespaceLabels) Get(label string) string { value, _ := l.Lookup(label); return value }
