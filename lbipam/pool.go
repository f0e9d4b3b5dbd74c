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

// pool is a state.Pool made ready to be asked.
type pool struct {
	state.Pool
	addrs set
	// free addresses of each family, size what it holds of each, used how
	// many of all are not free.
	free [2]set
	size [2]*big.Int
	used int64
	// buggy counts the pool's addresses that are not to be given unless they
	// are asked for, of all and of those in use. 0 when all are given.
	buggy, buggyUsed int64

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
	for _, f := range []family{ipv4, ipv6} {
		p.size[f] = p.addrs.of(f).size()
	}
	if p.AvoidBuggyIPs {
		p.buggy = p.addrs.buggy()
	}
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
	case !p.services.Matches(state.ServiceLabels{Service: c.svc}):
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
	left := new(big.Int)
	for _, f := range []family{ipv4, ipv6} {
		p.free[f] = slices.Clip(free.of(f)) // which grow apart
		left.Add(left, p.free[f].size())
	}
	if p.AvoidBuggyIPs {
		p.buggyUsed = p.buggy - free.buggy()
	}
	p.used = new(big.Int).Sub(new(big.Int).Add(p.size[ipv4], p.size[ipv6]), left).Int64()
}

// occupy takes a free address of the pool, vacate gives it back.
func (p *pool) occupy(addr netip.Addr) {
	p.free[familyOf(addr)].remove(addr)
	p.count(addr, 1)
}

func (p *pool) vacate(addr netip.Addr) {
	p.free[familyOf(addr)].add(addr)
	p.count(addr, -1)
}

func (p *pool) count(addr netip.Addr, n int64) {
	p.used += n
	if p.avoids(addr) {
		p.buggyUsed += n
	}
}

// avoids says whether the pool gives the address only to who asks for it.
func (p *pool) avoids(addr netip.Addr) bool { return p.AvoidBuggyIPs && buggy(addr) }

// lowest returns the lowest free address that is given without being asked for.
func (p *pool) lowest(f family) (netip.Addr, bool) { return p.free[f].lowest(p.AvoidBuggyIPs) }

// withheld counts the free addresses that are only given when they are asked for.
func (p *pool) withheld() *big.Int { return big.NewInt(p.buggy - p.buggyUsed) }

// counts says how much of a family a pool that has none left has given, as "3 of 3".
func (p *pool) counts(f family) string {
	total := p.size[f]
	if f == ipv4 {
		total = new(big.Int).Sub(total, p.withheld())
	}
	return fmt.Sprintf("%s of %s", total, total)
}

// status counts the pool's addresses, those left out that are only given when
// they are asked for and were not.
func (p *pool) status() state.PoolStatus {
	total := new(big.Int).Add(p.size[ipv4], p.size[ipv6])
	total.Sub(total, p.withheld())
	used := big.NewInt(p.used)
	return state.PoolStatus{
		Pool:      p.Name,
		Total:     total.String(),
		Available: new(big.Int).Sub(total, used).String(),
		Used:      used.String(),
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
