package source

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ConditionCiliumIPAMRequestSatisfied on a Service says, in the words of
// Cilium's users, what v1alpha1.ConditionIPAMRequestSatisfied says.
const ConditionCiliumIPAMRequestSatisfied = "cilium.io/IPAMRequestSatisfied"

// ReasonNotHonoured is the reason of a v1alpha1.ConditionAccepted that is False
// although the object is right: Seamark does not do what it says.
const ReasonNotHonoured = "NotHonoured"

// AllocationIngress is what the Service's status.loadBalancer.ingress is to be.
func AllocationIngress(row state.Allocation) []any {
	ingress := make([]any, len(row.Addrs))
	for i, addr := range row.Addrs {
		ingress[i] = map[string]any{"ip": addr.String(), "ipMode": string(corev1.LoadBalancerIPModeVIP)}
	}
	return ingress
}

// AllocationConditions are the conditions that the Service is to have: ours,
// and Cilium's where its pools or its annotations are in use.
func AllocationConditions(db *state.DB, r state.Reader, row state.Allocation) []metav1.Condition {
	condition := metav1.Condition{
		Type:    v1alpha1.ConditionIPAMRequestSatisfied,
		Status:  metav1.ConditionFalse,
		Reason:  string(row.Reason),
		Message: row.Message,
	}
	if row.Reason == state.ReasonSatisfied {
		condition.Status = metav1.ConditionTrue
	}
	conditions := []metav1.Condition{condition}
	if usesCilium(db, r, row) {
		condition.Type = ConditionCiliumIPAMRequestSatisfied
		conditions = append(conditions, condition)
	}
	return conditions
}

// AllocationConditionTypes are all types of condition that Seamark sets on Services.
func AllocationConditionTypes() []string {
	return []string{v1alpha1.ConditionIPAMRequestSatisfied, ConditionCiliumIPAMRequestSatisfied}
}

// usesCilium says whether the Service's class or annotations are Cilium's, or
// its pools are; any pool, when it has none.
func usesCilium(db *state.DB, r state.Reader, row state.Allocation) bool {
	svc, _ := db.Services.Get(r, row.Service.String())
	if svc.ClassOf == state.ProductCilium {
		return true
	}
	for key := range svc.Annotations {
		for _, prefix := range []string{"lbipam.cilium.io/", "io.cilium/lb-ipam-", "service.cilium.io/"} {
			if strings.HasPrefix(key, prefix) {
				return true
			}
		}
	}
	for _, name := range row.Pools {
		if pool, ok := db.Pools.Get(r, name); ok && pool.Origin.Group == GroupCilium {
			return true
		}
	}
	if len(row.Pools) == 0 {
		for pool := range db.Pools.All(r) {
			if pool.Origin.Group == GroupCilium {
				return true
			}
		}
	}
	return false
}

// StatusChange is what is to be in the status of an object, besides what
// others have there.
type StatusChange struct {
	Kind            Kind
	Namespace, Name string
	// Fields at the top of the status.
	Fields map[string]any
	// Conditions to be set; their times are kept while they say the same.
	Conditions []metav1.Condition
	// Remove are types of condition to be removed.
	Remove []string
}

// Apply makes the change in obj, and returns whether there was anything to change.
func (c StatusChange) Apply(obj *unstructured.Unstructured) bool {
	changed := false
	for _, field := range slices.Sorted(maps.Keys(c.Fields)) {
		if old, _, _ := unstructured.NestedFieldNoCopy(obj.Object, "status", field); !reflect.DeepEqual(old, c.Fields[field]) {
			setStatus(obj, field, c.Fields[field])
			changed = true
		}
	}
	changed = SetConditions(obj, c.Conditions...) || changed
	return RemoveConditions(obj, c.Remove...) || changed
}

func changeOf(ref state.ObjectRef) (StatusChange, bool) {
	kind, ok := KindOfRef(ref)
	return StatusChange{Kind: kind, Namespace: ref.Namespace, Name: ref.Name}, ok
}

// PoolStatusChange is what the status of the pool's object is to say; false
// when its kind has no room for it.
func PoolStatusChange(db *state.DB, r state.Reader, row state.PoolStatus) (StatusChange, bool) {
	pool, ok := db.Pools.Get(r, row.Pool)
	if !ok {
		pool = state.Pool{Name: row.Pool, Origin: KindIPPool().ref(row.Pool)}
	}
	change, ok := changeOf(pool.Origin)
	if !ok {
		return change, false
	}
	if change.Kind.Foreign() {
		return foreignPoolChange(db, r, pool, row, change), true
	}
	conflicting := metav1.Condition{Type: v1alpha1.ConditionConflicting, Status: metav1.ConditionFalse, Reason: "NoOverlap"}
	if row.Conflict != "" {
		conflicting.Status, conflicting.Reason, conflicting.Message = metav1.ConditionTrue, "Overlap", row.Conflict
	}
	change.Conditions = []metav1.Condition{accepted(row.Invalid, problemsOf(db, r, pool.Origin)), conflicting}
	change.Fields = map[string]any{"total": row.Total, "available": row.Available, "used": row.Used}
	return change, true
}

// PolicyStatusChange is what the status of the policy's object is to say, which
// may mean several policies; false as of PoolStatusChange.
func PolicyStatusChange(db *state.DB, r state.Reader, row state.PolicyStatus) (StatusChange, bool) {
	origin := KindL2Policy().ref(row.Policy)
	problems := []string{row.Problem}
	if policy, ok := db.L2Policies.Get(r, row.Policy); ok {
		origin = policy.Origin
		for other := range db.PolicyStatuses.All(r) {
			if p, ok := db.L2Policies.Get(r, other.Policy); ok && p.Origin == origin && other.Problem != row.Problem && other.Policy != row.Policy {
				problems = append(problems, other.Problem)
			}
		}
	}
	slices.Sort(problems)
	problems = slices.DeleteFunc(problems, func(p string) bool { return p == "" })
	change, ok := changeOf(origin)
	if !ok || !change.Kind.hasConditions() {
		return change, false
	}
	change.Conditions = []metav1.Condition{accepted(strings.Join(problems, "; "), problemsOf(db, r, origin))}
	return change, true
}

// ObjectStatuses are what is to be said of the objects for BGP, and of those that
// cannot be honoured and have no Pool or L2Policy row, whose status would say it.
func ObjectStatuses(db *state.DB, r state.Reader) []state.ObjectStatus {
	spoken := map[state.ObjectRef]bool{}
	for pool := range db.Pools.All(r) {
		spoken[pool.Origin] = true
	}
	for policy := range db.L2Policies.All(r) {
		spoken[policy.Origin] = true
	}
	var rows []state.ObjectStatus
	speak := func(ref state.ObjectRef) {
		if change, ok := changeOf(ref); spoken[ref] || !ok || !change.Kind.hasConditions() {
			return
		}
		spoken[ref] = true
		row := state.ObjectStatus{Object: ref, Problem: problemsOf(db, r, ref), InForce: true}
		if ref.Kind == kindCiliumClusterConfig {
			row = clusterConfigStatus(db, r, row)
		}
		rows = append(rows, row)
	}
	for row := range db.BGPInstances.All(r) {
		speak(row.Origin)
	}
	for row := range db.BGPPeers.All(r) {
		speak(row.Origin)
	}
	for row := range db.BGPAdvertisements.All(r) {
		speak(row.Origin)
	}
	for row := range db.BFDProfiles.All(r) {
		speak(row.Origin)
	}
	for row := range db.ForeignObjects.All(r) {
		speak(row.Object)
	}
	for p := range db.SourceProblems.All(r) {
		if spoken[p.Object] {
			continue
		}
		spoken[p.Object] = true
		if change, ok := changeOf(p.Object); ok && change.Kind.hasConditions() {
			rows = append(rows, state.ObjectStatus{Object: p.Object, Problem: problemsOf(db, r, p.Object)})
		}
	}
	return rows
}

// ObjectStatusChange is what the object's status is to say, or no longer.
func ObjectStatusChange(row state.ObjectStatus) (StatusChange, bool) {
	change, ok := changeOf(row.Object)
	if row.Problem != "" || row.InForce {
		change.Conditions = []metav1.Condition{accepted("", row.Problem)}
	} else {
		change.Remove = []string{v1alpha1.ConditionAccepted}
	}
	if row.Object.Kind == kindCiliumClusterConfig && row.InForce {
		change.Conditions = append(change.Conditions, clusterConfigConditions(row)...)
	}
	return change, ok
}

// hasConditions says whether objects of the kind have conditions in their
// status that Seamark may add to.
func (k Kind) hasConditions() bool {
	return k.Group == GroupCilium || k.Group == v1alpha1.GroupVersion.Group && k.HasStatus()
}

// problemsOf is what of the object cannot be honoured, in one line.
func problemsOf(db *state.DB, r state.Reader, ref state.ObjectRef) string {
	var lines []string
	for p := range db.SourceProblems.By(r, state.IndexObject, ref.String()) {
		if p.Object != ref {
			continue // of a kind of the same name in another group
		}
		p := Problem{Field: p.Field, Message: p.Message, Cure: p.Cure}
		lines = append(lines, p.Error())
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

// accepted is the condition of an object that is invalid, or not honoured, "" for neither.
func accepted(invalid, notHonoured string) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: "Valid"}
	switch {
	case invalid != "":
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, "Invalid", invalid
	case notHonoured != "":
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, ReasonNotHonoured, notHonoured
	}
	return c
}

// IngressOf is status.loadBalancer.ingress of a Service.
func IngressOf(obj *unstructured.Unstructured) []any {
	ingress, _, _ := unstructured.NestedSlice(obj.Object, "status", "loadBalancer", "ingress")
	return ingress
}

// SetIngress sets it, and returns whether that changes anything.
func SetIngress(obj *unstructured.Unstructured, ingress []any) bool {
	old := IngressOf(obj)
	if len(old) == 0 && len(ingress) == 0 || reflect.DeepEqual(old, ingress) {
		return false
	}
	balancer := map[string]any{}
	if len(ingress) > 0 {
		balancer["ingress"] = ingress
	}
	setStatus(obj, "loadBalancer", balancer)
	return true
}

// SetConditions sets each condition, keeping lastTransitionTime while its
// status stays, and returns whether that changes anything.
func SetConditions(obj *unstructured.Unstructured, conditions ...metav1.Condition) bool {
	all := ConditionsOf(obj)
	changed := false
	for _, c := range conditions {
		changed = meta.SetStatusCondition(&all, c) || changed
	}
	if changed {
		writeConditions(obj, all)
	}
	return changed
}

// RemoveConditions removes the conditions of those types, and returns whether
// there were any.
func RemoveConditions(obj *unstructured.Unstructured, types ...string) bool {
	all := ConditionsOf(obj)
	changed := false
	for _, t := range types {
		changed = meta.RemoveStatusCondition(&all, t) || changed
	}
	if changed {
		writeConditions(obj, all)
	}
	return changed
}

// ConditionsOf is status.conditions of an object.
func ConditionsOf(obj *unstructured.Unstructured) []metav1.Condition {
	raw, _, _ := unstructured.NestedFieldNoCopy(obj.Object, "status", "conditions")
	data, err := json.Marshal(raw)
	if err != nil {
		return nil
	}
	var conditions []metav1.Condition
	if err := json.Unmarshal(data, &conditions); err != nil {
		return nil // no conditions that anyone could read
	}
	return conditions
}

func writeConditions(obj *unstructured.Unstructured, conditions []metav1.Condition) {
	list := make([]any, len(conditions))
	for i, c := range conditions {
		data, err := json.Marshal(c)
		if err != nil {
			panic(fmt.Sprintf("encode condition: %v", err)) // strings and a time always encode
		}
		var m map[string]any
		if err := json.Unmarshal(data, &m); err != nil {
			panic(fmt.Sprintf("decode condition: %v", err))
		}
		delete(m, "observedGeneration") // 0 is absent; a float64 would not be JSON as unstructured has it
		if c.ObservedGeneration != 0 {
			m["observedGeneration"] = c.ObservedGeneration
		}
		list[i] = m
	}
	setStatus(obj, "conditions", list)
}

// setStatus sets one field of the status.
func setStatus(obj *unstructured.Unstructured, field string, value any) {
	status, ok := obj.Object["status"].(map[string]any)
	if !ok {
		status = map[string]any{}
		obj.Object["status"] = status
	}
	status[field] = value
}
