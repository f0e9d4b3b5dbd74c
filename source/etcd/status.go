package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// allocations writes what LB-IPAM decided into the status of Services:
// status.loadBalancer.ingress and our condition. Nothing is written when the
// status says so already.
type allocations struct{ store store }

func (a allocations) Update(ctx context.Context, row state.Allocation) error {
	ingress := make([]any, len(row.Addrs))
	for i, addr := range row.Addrs {
		ingress[i] = map[string]any{"ip": addr.String(), "ipMode": string(corev1.LoadBalancerIPModeVIP)}
	}
	condition := metav1.Condition{
		Type:    v1alpha1.ConditionIPAMRequestSatisfied,
		Status:  metav1.ConditionFalse,
		Reason:  string(row.Reason),
		Message: row.Message,
	}
	if row.Reason == state.ReasonSatisfied {
		condition.Status = metav1.ConditionTrue
	}
	return a.change(ctx, row, func(obj *unstructured.Unstructured) bool {
		ingressChanged := setIngress(obj, ingress)
		return setConditions(obj, condition) || ingressChanged
	})
}

// Delete takes back the addresses of row, and no others.
func (a allocations) Delete(ctx context.Context, row state.Allocation) error {
	ours := map[string]bool{}
	for _, addr := range row.Addrs {
		ours[addr.String()] = true
	}
	return a.change(ctx, row, func(obj *unstructured.Unstructured) bool {
		var others []any
		for _, in := range ingressOf(obj) {
			if entry, ok := in.(map[string]any); ok && ours[fmt.Sprint(entry["ip"])] {
				continue
			}
			others = append(others, in)
		}
		ingressChanged := setIngress(obj, others)
		return removeCondition(obj, v1alpha1.ConditionIPAMRequestSatisfied) || ingressChanged
	})
}

// change leaves alone a Service that is gone, or that is another one of the
// same name: the row goes as soon as the table hears of it.
func (a allocations) change(ctx context.Context, row state.Allocation, f func(*unstructured.Unstructured) bool) error {
	err := a.store.change(ctx, source.KindService(), row.Service.Namespace, row.Service.Name, func(obj *unstructured.Unstructured) bool {
		if row.UID != "" && string(obj.GetUID()) != row.UID {
			return false
		}
		return f(obj)
	})
	if isNotFound(err) {
		return nil
	}
	return err
}

// Prune withdraws from Services that no longer want a load balancer what a
// coordinator before us gave; our condition tells that it was one of ours. A
// Service that still is of type LoadBalancer has gone over to another class:
// it loses our condition only, since its addresses may be the other's.
func (a allocations) Prune(ctx context.Context, wanted []state.Allocation) error {
	keep := make(map[state.ObjectName]bool, len(wanted))
	for _, row := range wanted {
		keep[row.Service] = true
	}
	services, err := objects(a).List(ctx, source.KindService(), "")
	if err != nil {
		return err
	}
	for _, svc := range services {
		name := state.ObjectName{Namespace: svc.GetNamespace(), Name: svc.GetName()}
		if keep[name] || meta.FindStatusCondition(conditionsOf(svc), v1alpha1.ConditionIPAMRequestSatisfied) == nil {
			continue
		}
		err := a.change(ctx, state.Allocation{Service: name, UID: string(svc.GetUID())}, func(obj *unstructured.Unstructured) bool {
			ingressChanged := false
			if kind, _, _ := unstructured.NestedString(obj.Object, "spec", "type"); kind != string(corev1.ServiceTypeLoadBalancer) {
				ingressChanged = setIngress(obj, nil)
			}
			return removeCondition(obj, v1alpha1.ConditionIPAMRequestSatisfied) || ingressChanged
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// poolStatuses writes the counts and conditions of IPPools.
type poolStatuses struct{ store store }

func (p poolStatuses) Update(ctx context.Context, row state.PoolStatus) error {
	conflicting := metav1.Condition{Type: v1alpha1.ConditionConflicting, Status: metav1.ConditionFalse, Reason: "NoOverlap"}
	if row.Conflict != "" {
		conflicting.Status, conflicting.Reason, conflicting.Message = metav1.ConditionTrue, "Overlap", row.Conflict
	}
	err := p.store.change(ctx, source.KindIPPool(), "", row.Pool, func(obj *unstructured.Unstructured) bool {
		changed := false
		for field, value := range map[string]string{"total": row.Total, "available": row.Available, "used": row.Used} {
			if old, _, _ := unstructured.NestedString(obj.Object, "status", field); old != value {
				setStatus(obj, field, value)
				changed = true
			}
		}
		return setConditions(obj, accepted(row.Invalid), conflicting) || changed
	})
	if isNotFound(err) {
		return nil // the row goes as soon as the table hears of it
	}
	return err
}

// Delete does nothing: the row goes with its pool, and the status with it.
func (p poolStatuses) Delete(context.Context, state.PoolStatus) error { return nil }

// Prune does nothing, for the same reason.
func (p poolStatuses) Prune(context.Context, []state.PoolStatus) error { return nil }

// policyStatuses writes the condition of L2Policies.
type policyStatuses struct{ store store }

func (p policyStatuses) Update(ctx context.Context, row state.PolicyStatus) error {
	err := p.store.change(ctx, source.KindL2Policy(), "", row.Policy, func(obj *unstructured.Unstructured) bool {
		return setConditions(obj, accepted(row.Problem))
	})
	if isNotFound(err) {
		return nil // as for pools
	}
	return err
}

// Delete does nothing: the row goes with its policy, and the status with it.
func (p policyStatuses) Delete(context.Context, state.PolicyStatus) error { return nil }

// Prune does nothing, for the same reason.
func (p policyStatuses) Prune(context.Context, []state.PolicyStatus) error { return nil }

// accepted is the condition of an object with that problem, "" for none.
func accepted(problem string) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: "Valid"}
	if problem != "" {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, "Invalid", problem
	}
	return c
}

func ingressOf(obj *unstructured.Unstructured) []any {
	ingress, _, _ := unstructured.NestedSlice(obj.Object, "status", "loadBalancer", "ingress")
	return ingress
}

// setIngress returns whether that changes anything.
func setIngress(obj *unstructured.Unstructured, ingress []any) bool {
	old := ingressOf(obj)
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

// setConditions sets each condition, keeping lastTransitionTime while its
// status stays, and returns whether that changes anything.
func setConditions(obj *unstructured.Unstructured, conditions ...metav1.Condition) bool {
	all := conditionsOf(obj)
	changed := false
	for _, c := range conditions {
		changed = meta.SetStatusCondition(&all, c) || changed
	}
	if changed {
		writeConditions(obj, all)
	}
	return changed
}

func removeCondition(obj *unstructured.Unstructured, conditionType string) bool {
	all := conditionsOf(obj)
	if !meta.RemoveStatusCondition(&all, conditionType) {
		return false
	}
	writeConditions(obj, all)
	return true
}

func conditionsOf(obj *unstructured.Unstructured) []metav1.Condition {
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
