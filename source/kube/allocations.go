package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// loadBalancerCleanup is a finalizer that cloud controllers set (KEP-980).
// Seamark sets none: its addresses cost nothing outside the cluster, and end
// with the Service. One that is there when a Service was Seamark's is removed
// when the addresses have been taken back, since nobody else would.
const loadBalancerCleanup = "service.kubernetes.io/load-balancer-cleanup"

// allocations writes what LB-IPAM decided into the status of Services:
// status.loadBalancer.ingress and our conditions. It goes by the table, which
// says what the API server holds: nothing is sent when that is as it should be.
type allocations struct {
	*Source
	mu sync.Mutex
	// written are the Services' last own writes.
	written map[state.ObjectName]written
	// disputed are the Services that another controller writes, too.
	disputed map[state.ObjectName]*dispute
	// leaving are the Services that are being deleted and carry our condition.
	// They have no row; a finalizer keeps them.
	leaving map[state.ObjectName]bool
}

// written is a write of ours.
type written struct {
	uid     string
	addrs   []netip.Addr
	version int64 // that the Service has had since
}

var _ state.Batcher[state.Allocation] = (*allocations)(nil)

func newAllocations(s *Source) *allocations {
	return &allocations{Source: s, written: map[state.ObjectName]written{},
		disputed: map[state.ObjectName]*dispute{}, leaving: map[state.ObjectName]bool{}}
}

func (a *allocations) Update(ctx context.Context, row state.Allocation) error {
	version := a.version(source.KindService(), row.Service.String()) // before the snapshot, which is no older
	snap := a.db.Snapshot()
	svc, known := a.db.Services.Get(snap, row.Service.String())
	if known && row.UID != "" && svc.UID != row.UID {
		return nil // another one of that name: the row goes as soon as it is decided anew
	}
	conditions := source.AllocationConditions(a.db, snap, row)
	a.mu.Lock()
	last, wrote := a.written[row.Service]
	a.mu.Unlock()
	if wrote && last.uid != svc.UID {
		wrote = false
	}
	// While the table does not have our last write, it does not count.
	current := known && (!wrote || version >= last.version)
	sent := wrote && slices.Equal(last.addrs, row.Addrs)
	// What is there after a write without an address is another's, from before Seamark was here.
	right := slices.Equal(svc.Ingress, row.Addrs) || sent && len(row.Addrs) == 0
	if current && right && hasConditions(svc.Conditions, conditions) {
		return nil
	}
	overwritten := current && sent && !right
	if err := a.mayWrite(ctx, row, overwritten); err != nil {
		var disputed errDisputed
		if errors.As(err, &disputed) {
			return errors.Join(err, a.giveIn(ctx, row, svc.Conditions, conditions, disputed.message()))
		}
		return err
	}
	return a.apply(ctx, row, svc.Conditions, conditions)
}

// giveIn says in the Service's conditions that its addresses are another's now:
// every node goes by that.
func (a *allocations) giveIn(ctx context.Context, row state.Allocation, had, wanted []metav1.Condition, message string) error {
	for i := range wanted {
		wanted[i].Status, wanted[i].Reason, wanted[i].Message = metav1.ConditionFalse, string(state.ReasonDisputed), message
	}
	if hasConditions(had, wanted) {
		return nil
	}
	row.Addrs = nil
	return a.apply(ctx, row, had, wanted)
}

// hasConditions says whether those wanted are among the conditions, and no
// other of ours.
func hasConditions(conditions, wanted []metav1.Condition) bool {
	for _, t := range source.AllocationConditionTypes() {
		c, w := meta.FindStatusCondition(conditions, t), meta.FindStatusCondition(wanted, t)
		if (c == nil) != (w == nil) || c != nil && (c.Status != w.Status || c.Reason != w.Reason || c.Message != w.Message) {
			return false
		}
	}
	return true
}

// apply writes the status. had are the conditions until now: their times are
// kept while they say the same.
func (a *allocations) apply(ctx context.Context, row state.Allocation, had, wanted []metav1.Condition) error {
	conditions := slices.Clone(had)
	for _, c := range wanted {
		meta.SetStatusCondition(&conditions, c)
	}
	conditions = slices.DeleteFunc(conditions, func(c metav1.Condition) bool { return meta.FindStatusCondition(wanted, c.Type) == nil })
	status := map[string]any{"conditions": conditions}
	if len(row.Addrs) > 0 {
		status["loadBalancer"] = map[string]any{"ingress": source.AllocationIngress(row)}
	}
	metadata := map[string]any{"name": row.Service.Name, "namespace": row.Service.Namespace}
	if row.UID != "" {
		metadata["uid"] = row.UID
	}
	patch, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "status": status})
	if err != nil {
		return fmt.Errorf("encode status of Service %s: %w", row.Service, err)
	}
	bounded, cancel := a.cfg.bounded(ctx)
	defer cancel()
	force := true
	svc, err := a.clients.core.CoreV1().Services(row.Service.Namespace).Patch(bounded, row.Service.Name, types.ApplyPatchType, patch,
		metav1.PatchOptions{FieldManager: fieldManager, Force: &force}, "status")
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status of Service %s: %w", row.Service, a.clients.explain("write", source.KindService(), causeOf(bounded, err)))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.written[row.Service] = written{string(svc.UID), row.Addrs, revision(svc.ResourceVersion)}
	return nil
}

// gone says whether a write found no object, or another one of the same name:
// the row goes as soon as the table hears of it.
func gone(err error) bool {
	if apierrors.IsNotFound(err) {
		return !missingKind(err)
	}
	if apierrors.IsConflict(err) && strings.Contains(err.Error(), "no existing object was found") {
		return true // what an apply with a UID says of nothing
	}
	var status apierrors.APIStatus
	return apierrors.IsInvalid(err) && errors.As(err, &status) && status.Status().Details != nil &&
		slices.ContainsFunc(status.Status().Details.Causes, func(c metav1.StatusCause) bool { return c.Field == "metadata.uid" })
}

// Delete takes back the addresses of row, and no others. A Service that is left
// to another project's program is handed over with them.
func (a *allocations) Delete(ctx context.Context, row state.Allocation) error {
	a.forget(row.Service)
	if f := a.feed(source.KindService()); f != nil && f.without(row.Service.String()) {
		return nil
	}
	snap := a.db.Snapshot()
	svc, ok := a.db.Services.Get(snap, row.Service.String())
	handedOver := ok && svc.UID == row.UID && svc.ForSeamark() && state.LeavingsOf(a.db, snap).Service(svc) != ""
	return a.withdraw(ctx, row.Service, row.UID, func(_ *corev1.Service, in corev1.LoadBalancerIngress) bool {
		addr, err := netip.ParseAddr(in.IP)
		return !handedOver && err == nil && slices.Contains(row.Addrs, addr)
	})
}

func (a *allocations) forget(name state.ObjectName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.written, name)
	delete(a.disputed, name)
}

// withdraw takes our conditions, the finalizer and the ingress that is ours
// from a Service, if it is still the one of that UID ("": whichever).
func (a *allocations) withdraw(ctx context.Context, name state.ObjectName, uid string,
	ours func(*corev1.Service, corev1.LoadBalancerIngress) bool) error {
	err := source.RetryConflicts(ctx, func() error {
		bounded, cancel := a.cfg.bounded(ctx)
		defer cancel()
		err := a.withdrawOnce(bounded, name, uid, ours)
		if apierrors.IsConflict(err) {
			return source.ErrConflict
		}
		return causeOf(bounded, err)
	})
	if err == nil || gone(err) {
		return nil
	}
	return fmt.Errorf("withdraw addresses of Service %s: %w", name, a.clients.explain("write", source.KindService(), err))
}

func (a *allocations) withdrawOnce(ctx context.Context, name state.ObjectName, uid string,
	ours func(*corev1.Service, corev1.LoadBalancerIngress) bool) error {
	client := a.clients.core.CoreV1().Services(name.Namespace)
	svc, err := client.Get(ctx, name.Name, metav1.GetOptions{})
	if err != nil || uid != "" && string(svc.UID) != uid {
		return err
	}
	ingress := slices.DeleteFunc(slices.Clone(svc.Status.LoadBalancer.Ingress),
		func(in corev1.LoadBalancerIngress) bool { return ours(svc, in) })
	conditions := slices.DeleteFunc(slices.Clone(svc.Status.Conditions),
		func(c metav1.Condition) bool { return slices.Contains(source.AllocationConditionTypes(), c.Type) })
	if len(ingress) < len(svc.Status.LoadBalancer.Ingress) || len(conditions) < len(svc.Status.Conditions) {
		svc, err = a.patch(ctx, svc, map[string]any{"status": map[string]any{
			"loadBalancer": map[string]any{"ingress": orNull(ingress)}, "conditions": orNull(conditions)}}, "status")
		if err != nil {
			return err
		}
	}
	if !slices.Contains(svc.Finalizers, loadBalancerCleanup) ||
		svc.DeletionTimestamp == nil && svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		return nil // of another class it is for its controller
	}
	finalizers := slices.DeleteFunc(slices.Clone(svc.Finalizers), func(f string) bool { return f == loadBalancerCleanup })
	_, err = a.patch(ctx, svc, map[string]any{"metadata": map[string]any{"finalizers": orNull(finalizers)}})
	return err
}

// orNull is how a merge patch removes a list (RFC 7396).
func orNull[T any](list []T) any {
	if len(list) == 0 {
		return nil
	}
	return list
}

// patch merges the patch into the Service if it is still as it was read.
func (a *allocations) patch(ctx context.Context, svc *corev1.Service, patch map[string]any, subresource ...string) (*corev1.Service, error) {
	metadata, ok := patch["metadata"].(map[string]any)
	if !ok {
		metadata = map[string]any{}
		patch["metadata"] = metadata
	}
	metadata["resourceVersion"] = svc.ResourceVersion
	data, err := json.Marshal(patch)
	if err != nil {
		return nil, fmt.Errorf("encode patch of Service %s: %w", svc.Name, err)
	}
	return a.clients.core.CoreV1().Services(svc.Namespace).Patch(ctx, svc.Name, types.MergePatchType, data,
		metav1.PatchOptions{FieldManager: fieldManager}, subresource...)
}

// Prune withdraws from Services that no longer want a load balancer what a
// coordinator before us gave; our condition tells that it was one of ours. A
// Service that still is of type LoadBalancer has gone over to another class:
// it loses our condition only, since its addresses may be the other's.
func (a *allocations) Prune(ctx context.Context, wanted []state.Allocation) error {
	keep := make(map[state.ObjectName]bool, len(wanted))
	for _, row := range wanted {
		keep[row.Service] = true
	}
	var names []state.ObjectName
	for svc := range a.db.Services.All(a.db.Snapshot()) {
		if !keep[svc.Name] && meta.FindStatusCondition(svc.Conditions, v1alpha1.ConditionIPAMRequestSatisfied) != nil {
			names = append(names, svc.Name)
		}
	}
	a.mu.Lock()
	for name := range a.leaving {
		if !keep[name] {
			names = append(names, name)
		}
	}
	a.mu.Unlock()
	return errors.Join(concurrently(names, func(name state.ObjectName) error {
		return a.withdraw(ctx, name, "", func(svc *corev1.Service, _ corev1.LoadBalancerIngress) bool {
			return svc.DeletionTimestamp != nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer
		})
	})...)
}

// concurrentWrites of Services.
const concurrentWrites = 16

func (a *allocations) UpdateAll(ctx context.Context, rows []state.Allocation) []error {
	return concurrently(rows, func(row state.Allocation) error { return a.Update(ctx, row) })
}

func (a *allocations) DeleteAll(ctx context.Context, rows []state.Allocation) []error {
	return concurrently(rows, func(row state.Allocation) error { return a.Delete(ctx, row) })
}

// concurrently returns the error of each row. Once the API server cannot be
// reached the rest is not tried: each would wait in vain, and newer decisions
// behind it.
func concurrently[T any](rows []T, write func(T) error) []error {
	errs := make([]error, len(rows))
	var writers sync.WaitGroup
	var down atomic.Pointer[explained]
	turn := make(chan struct{}, concurrentWrites)
	for i, row := range rows {
		turn <- struct{}{}
		if e := down.Load(); e != nil {
			errs[i] = *e
			<-turn
			continue
		}
		writers.Go(func() {
			errs[i] = write(row)
			var e explained
			if errors.As(errs[i], &e) && e.class == classUnreachable {
				down.Store(&e)
			}
			<-turn
		})
	}
	writers.Wait()
	return errs
}

// watching is the sink that remembers, besides, which Services are leaving.
func (a *allocations) watching(into sink) sink { return leavingSink{into, a} }

type leavingSink struct {
	sink
	*allocations
}

func (s leavingSink) put(tx *state.Tx, name string, obj any) {
	s.sink.put(tx, name, obj)
	s.see(obj)
}

func (s leavingSink) remove(tx *state.Tx, name string) {
	s.sink.remove(tx, name)
	s.mu.Lock()
	defer s.mu.Unlock()
	for leaving := range s.leaving {
		if leaving.String() == name {
			delete(s.leaving, leaving)
		}
	}
}

func (s leavingSink) replace(tx *state.Tx, objects map[string]any) {
	s.sink.replace(tx, objects)
	s.mu.Lock()
	clear(s.leaving)
	s.mu.Unlock()
	for _, obj := range objects {
		s.see(obj)
	}
}

func (s leavingSink) see(obj any) {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		panic(fmt.Sprintf("a feed of Services brought %s", reflect.TypeOf(obj))) // its client is typed
	}
	name := state.ObjectName{Namespace: svc.Namespace, Name: svc.Name}
	s.mu.Lock()
	defer s.mu.Unlock()
	if svc.DeletionTimestamp != nil && meta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ConditionIPAMRequestSatisfied) != nil {
		s.leaving[name] = true
	} else {
		delete(s.leaving, name)
	}
}
