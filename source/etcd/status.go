package etcd

import (
	"context"
	"fmt"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// allocations writes what LB-IPAM decided into the status of Services:
// status.loadBalancer.ingress and our conditions. Nothing is written when the
// status says so already.
type allocations struct {
	store store
	db    *state.DB
}

func (a allocations) Update(ctx context.Context, row state.Allocation) error {
	ingress, conditions := source.AllocationIngress(row), source.AllocationConditions(a.db, a.db.Snapshot(), row)
	return a.change(ctx, row, func(obj *unstructured.Unstructured) bool {
		ingressChanged := source.SetIngress(obj, ingress)
		return source.SetConditions(obj, conditions...) || ingressChanged
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
		for _, in := range source.IngressOf(obj) {
			if entry, ok := in.(map[string]any); ok && ours[fmt.Sprint(entry["ip"])] {
				continue
			}
			others = append(others, in)
		}
		ingressChanged := source.SetIngress(obj, others)
		return source.RemoveConditions(obj, source.AllocationConditionTypes()...) || ingressChanged
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
	services, err := objects{a.store}.List(ctx, source.KindService(), "")
	if err != nil {
		return err
	}
	for _, svc := range services {
		name := state.ObjectName{Namespace: svc.GetNamespace(), Name: svc.GetName()}
		if keep[name] || meta.FindStatusCondition(source.ConditionsOf(svc), v1alpha1.ConditionIPAMRequestSatisfied) == nil {
			continue
		}
		err := a.change(ctx, state.Allocation{Service: name, UID: string(svc.GetUID())}, func(obj *unstructured.Unstructured) bool {
			ingressChanged := false
			if kind, _, _ := unstructured.NestedString(obj.Object, "spec", "type"); kind != string(corev1.ServiceTypeLoadBalancer) {
				ingressChanged = source.SetIngress(obj, nil)
			}
			return source.RemoveConditions(obj, source.AllocationConditionTypes()...) || ingressChanged
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// statuses is the target of a table whose rows say what is to be in the status
// of an object.
type statuses[T any] struct {
	store store
	// change is what the status is to be like; false: nothing.
	change func(T) (source.StatusChange, bool)
	// absent is the same for a row that is no longer wanted. Nil: the row goes
	// with its object, and the status with it.
	absent func(T) (source.StatusChange, bool)
}

func (s statuses[T]) Update(ctx context.Context, row T) error { return s.write(ctx, row, s.change) }

func (s statuses[T]) Delete(ctx context.Context, row T) error {
	if s.absent == nil {
		return nil
	}
	return s.write(ctx, row, s.absent)
}

func (s statuses[T]) write(ctx context.Context, row T, of func(T) (source.StatusChange, bool)) error {
	change, ok := of(row)
	if !ok {
		return nil
	}
	err := s.store.change(ctx, change.Kind, change.Namespace, change.Name, change.Apply)
	if isNotFound(err) {
		return nil // the row goes as soon as the table hears of it
	}
	return err
}

// Prune does nothing: what is not wanted is said by Delete.
func (s statuses[T]) Prune(context.Context, []T) error { return nil }
