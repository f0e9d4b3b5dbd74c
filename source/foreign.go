package source

import (
	"fmt"
	"iter"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source/foreign"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// followForeign gives rows to the objects of other projects that mean an
// IPPool or L2Policies.
func (t *Tables) followForeign() {
	for _, kind := range ForeignKinds() {
		switch kind.Kind {
		case "CiliumLoadBalancerIPPool", "IPAddressPool":
			t.follow(kind, newRows(t.db.Pools, func(r state.Reader, obj *unstructured.Unstructured) ([]state.Pool, Problems) {
				var last *state.Pool
				if row, ok := t.db.Pools.Get(r, foreignRowName(kind, obj, 0)); ok {
					last = &row
				}
				row, problems := foreignPoolRow(kind, obj, last)
				return []state.Pool{row}, problems
			}))
		case "CiliumL2AnnouncementPolicy", "L2Advertisement":
			t.follow(kind, newRows(t.db.L2Policies, func(r state.Reader, obj *unstructured.Unstructured) ([]state.L2Policy, Problems) {
				var last []state.L2Policy
				for {
					row, ok := t.db.L2Policies.Get(r, foreignRowName(kind, obj, len(last)))
					if !ok {
						return foreignPolicyRows(kind, obj, last)
					}
					last = append(last, row)
				}
			}))
		}
	}
}

// foreignRowName is the name of the i-th row of the object, counted from 0:
// Kind/name, Kind/namespace/name, and for further ones that with a number.
func foreignRowName(kind Kind, obj *unstructured.Unstructured, i int) string {
	name := kind.Kind + "/" + ObjectKey(obj.GetNamespace(), obj.GetName())
	if i > 0 {
		name += fmt.Sprintf("/%d", i+1)
	}
	return name
}

// foreignPoolRow is PoolRow of another project's object.
func foreignPoolRow(kind Kind, obj *unstructured.Unstructured, last *state.Pool) (state.Pool, Problems) {
	objects, findings := foreign.Translate(obj, nil)
	fatal, unhonoured := problemsOfFindings(findings)
	pool := &v1alpha1.IPPool{}
	if len(objects) > 0 {
		pool = objects[0].(*v1alpha1.IPPool)
	}
	row := PoolRow(pool, last)
	row.Name, row.Origin = foreignRowName(kind, obj, 0), kind.ref(ObjectKey(obj.GetNamespace(), obj.GetName()))
	row.UID, row.Labels = string(obj.GetUID()), obj.GetLabels()
	row.Created, row.Conditions = obj.GetCreationTimestamp().Time, ConditionsOf(obj)
	row.Invalid = theirField(kind, row.Invalid)
	if len(fatal) > 0 {
		row.Invalid = oneLine(fatal)
	}
	return row, unhonoured
}

// foreignPolicyRows is L2PolicyRow of another project's object, which may mean
// several. last are the rows there were.
func foreignPolicyRows(kind Kind, obj *unstructured.Unstructured, last []state.L2Policy) ([]state.L2Policy, Problems) {
	objects, findings := foreign.Translate(obj, nil)
	fatal, unhonoured := problemsOfFindings(findings)
	var rows []state.L2Policy
	for i, o := range objects {
		var before *state.L2Policy
		if i < len(last) {
			before = &last[i]
		}
		rows = append(rows, L2PolicyRow(o.(*v1alpha1.L2Policy), before))
	}
	if len(fatal) > 0 {
		if rows = slices.Clone(last); len(rows) == 0 {
			rows = make([]state.L2Policy, 1)
		}
	}
	for i := range rows {
		row := &rows[i]
		row.Name, row.Origin = foreignRowName(kind, obj, i), kind.ref(ObjectKey(obj.GetNamespace(), obj.GetName()))
		row.UID = string(obj.GetUID())
		row.Created, row.Conditions = obj.GetCreationTimestamp().Time, ConditionsOf(obj)
		if len(fatal) > 0 {
			row.Invalid = oneLine(fatal)
		}
	}
	return rows, unhonoured
}

// problemsOfFindings tells what is wrong from what is not honoured. What only
// other objects could tell is neither.
func problemsOfFindings(findings []foreign.Finding) (fatal, unhonoured Problems) {
	for _, f := range findings {
		p := Problem{Field: f.Field, Message: f.Message, Cure: f.Cure}
		switch {
		case f.Fatal:
			fatal = append(fatal, p)
		case !f.Unresolved:
			unhonoured = append(unhonoured, p)
		}
	}
	return fatal, unhonoured
}

// theirField names in text the field that the blocks of a pool are from instead
// of them.
func theirField(kind Kind, text string) string {
	if kind.Kind == "IPAddressPool" {
		return strings.ReplaceAll(text, "spec.blocks", "spec.addresses")
	}
	return text
}

// admitForeign names what is wrong with another project's object: that it
// cannot be translated, or that what it means would be refused.
func admitForeign(obj *unstructured.Unstructured, kind Kind) Problems {
	objects, findings := foreign.Translate(obj, nil)
	problems, _ := problemsOfFindings(findings)
	for _, o := range objects {
		problems = append(problems, admitTranslated(o, kind)...)
	}
	return problems
}

// admitTranslated names what is wrong with what an object of another project's
// kind was translated into.
func admitTranslated(o runtime.Object, kind Kind) (problems Problems) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return Problems{{Message: err.Error(), Cure: "correct it"}}
	}
	ours := &unstructured.Unstructured{Object: content}
	delete(content, "status")
	ourKind, err := KindOf(ours.GetAPIVersion(), ours.GetKind())
	if err != nil {
		return Problems{{Message: err.Error(), Cure: "correct it"}}
	}
	for _, p := range admitCustom(ours, ourKind) {
		switch ourKind.Kind {
		case "IPPool":
			p.Field, p.Message = theirField(kind, p.Field), theirField(kind, p.Message)
		case "L2Policy": // its fields are called the same
		default:
			p.Field, p.Message = "", fmt.Sprintf("would be %s, where %s %s", objectName(ours), p.Field, p.Message)
		}
		problems = append(problems, p)
	}
	return problems
}

// Unhonoured names what of an object that Admit takes is not in force in this
// version. Each problem carries the object and the field, and no file.
func Unhonoured(obj *unstructured.Unstructured) Problems {
	kind, err := KindOf(obj.GetAPIVersion(), obj.GetKind())
	if err != nil {
		return nil // Admit does not take it
	}
	var problems Problems
	switch {
	case kind.Foreign():
		_, findings := foreign.Translate(obj, nil)
		_, problems = problemsOfFindings(findings)
	case kind.key() == KindBGPPeer().key():
		if peer, err := typedObject[v1alpha1.BGPPeer](obj); err == nil {
			_, problems = BGPPeerRow(peer)
		}
	case kind.key() == KindBGPAdvertisement().key():
		if advertisement, err := typedObject[v1alpha1.BGPAdvertisement](obj); err == nil {
			_, problems = BGPAdvertisementRow(advertisement)
		}
	case kind.key() == KindBFDProfile().key():
		if profile, err := typedObject[v1alpha1.BFDProfile](obj); err == nil {
			_, problems = BFDProfileRow(profile)
		}
	case kind.Kind == KindService().Kind:
		if svc, err := typedObject[corev1.Service](obj); err == nil {
			_, problems = ServiceRow(svc)
		}
	}
	for i := range problems {
		problems[i].Object = objectName(obj)
	}
	return problems
}

// Cilium's conditions of a CiliumLoadBalancerIPPool. Its columns in kubectl
// are made of them.
const (
	conditionPoolConflict = "cilium.io/PoolConflict"
	conditionIPsTotal     = "cilium.io/IPsTotal"
	conditionIPsAvailable = "cilium.io/IPsAvailable"
	conditionIPsUsed      = "cilium.io/IPsUsed"
)

// foreignPoolChange is PoolStatusChange of another project's pool. (MetalLB's
// has no conditions: seamark status and events say what is wrong with it.)
func foreignPoolChange(db *state.DB, r state.Reader, pool state.Pool, row state.PoolStatus, change StatusChange) StatusChange {
	change.Fields, change.Conditions = ForeignPoolStatus(pool, row, func(yield func(netip.Addr) bool) {
		for allocation := range db.Allocations.All(r) {
			for i, name := range allocation.Pools {
				if name == pool.Name && !yield(allocation.Addrs[i]) {
					return
				}
			}
		}
	})
	if change.Kind.hasConditions() {
		change.Conditions = append(change.Conditions, accepted(row.Invalid, problemsOf(db, r, pool.Origin)))
	}
	return change
}

// ForeignPoolStatus is what the status of another project's pool says in its
// own words: fields at the top of the status, and conditions. given are the
// pool's addresses that Services have, some of them several times.
func ForeignPoolStatus(pool state.Pool, row state.PoolStatus, given iter.Seq[netip.Addr]) (fields map[string]any, conditions []metav1.Condition) {
	switch pool.Origin.Group {
	case GroupCilium:
		// Status and reason of the counts are Cilium's own, odd as they are.
		count := func(name, n string) metav1.Condition {
			return metav1.Condition{Type: name, Status: metav1.ConditionUnknown, Reason: "noreason", Message: n}
		}
		conflict := metav1.Condition{Type: conditionPoolConflict, Status: metav1.ConditionFalse, Reason: "resolved"}
		if row.Conflict != "" {
			conflict.Status, conflict.Reason, conflict.Message = metav1.ConditionTrue, "cidr_overlap", row.Conflict
		}
		return nil, []metav1.Condition{conflict, count(conditionIPsTotal, row.Total),
			count(conditionIPsAvailable, row.Available), count(conditionIPsUsed, row.Used)}
	case GroupMetalLB:
		used4, used6, free4, free6 := countsByFamily(pool, row, given)
		return map[string]any{
			"assignedIPv4": int64Of(used4), "availableIPv4": int64Of(free4),
			"assignedIPv6": int64Of(used6), "availableIPv6": int64Of(free6),
		}, nil
	}
	return nil, nil
}

// countsByFamily divides the counts of the row, which are of both families.
func countsByFamily(pool state.Pool, row state.PoolStatus, given iter.Seq[netip.Addr]) (used4, used6, free4, free6 *big.Int) {
	used4, free4 = number(row.Used), number(row.Available)
	used6, free6 = new(big.Int), new(big.Int)
	size6, only6 := new(big.Int), true
	for _, r := range pool.Ranges {
		if r.From.Is6() {
			size6.Add(size6, size(r))
		} else {
			only6 = false
		}
	}
	switch {
	case size6.Sign() == 0:
		return used4, used6, free4, free6
	case only6:
		return used6, used4, free6, free4
	}
	seen := map[netip.Addr]bool{}
	for a := range given {
		seen[a] = seen[a] || a.Is6()
	}
	for _, is6 := range seen {
		if is6 {
			used6.Add(used6, big.NewInt(1))
		}
	}
	// Of a pool that is closed, nothing is available.
	if free6.Sub(size6, used6); free6.Cmp(free4) > 0 {
		free6.Set(free4)
	}
	return used4.Sub(used4, used6), used6, free4.Sub(free4, free6), free6
}

// number reads a count, 0 while there is none.
func number(text string) *big.Int {
	n, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return new(big.Int)
	}
	return n
}

func size(r state.Range) *big.Int {
	first, last := new(big.Int).SetBytes(r.From.AsSlice()), new(big.Int).SetBytes(r.To.AsSlice())
	return last.Sub(last, first).Add(last, big.NewInt(1))
}

// int64Of is n, or the highest int64.
func int64Of(n *big.Int) int64 {
	if n.IsInt64() {
		return n.Int64()
	}
	return math.MaxInt64
}
