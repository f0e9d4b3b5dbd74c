package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// announcedManager owns the condition that says who announces a Service's
// addresses. It is another manager than that of what LB-IPAM says there: an apply
// of the one takes away what it does not name, of its own alone.
const announcedManager = fieldManager + "-announced"

// announced writes into Services who announces their addresses: one request for
// each change, and none where the watch has brought that already.
type announced struct{ *Source }

// Update implements state.Target.
func (a announced) Update(ctx context.Context, row state.AnnouncedStatus) error {
	snap := a.db.Snapshot()
	change, ok := source.AnnouncedStatusChange(a.db, snap, row)
	if !ok {
		return nil
	}
	svc, _ := a.db.Services.Get(snap, row.Service.String())
	conditions := slices.Clone(svc.Conditions) // their times are kept while they say the same
	status := map[string]any{}
	for _, c := range change.Conditions {
		meta.SetStatusCondition(&conditions, c)
		status["conditions"] = []metav1.Condition{*meta.FindStatusCondition(conditions, c.Type)}
	}
	patch, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Service", "status": status,
		"metadata": map[string]any{"name": row.Service.Name, "namespace": row.Service.Namespace, "uid": row.UID}})
	if err != nil {
		return fmt.Errorf("encode status of Service %s: %w", row.Service, err)
	}
	bounded, cancel := a.cfg.bounded(ctx)
	defer cancel()
	force := true
	_, err = a.clients.core.CoreV1().Services(row.Service.Namespace).Patch(bounded, row.Service.Name, types.ApplyPatchType, patch,
		metav1.PatchOptions{FieldManager: announcedManager, Force: &force}, "status")
	if err == nil || gone(err) {
		return nil // of one that is gone the row goes as soon as the table hears of it
	}
	return fmt.Errorf("write status of Service %s: %w", row.Service, a.clients.explain("write", source.KindService(), causeOf(bounded, err)))
}

// Delete implements state.Target: what is to go from a Service has a row that
// says so; without one, the Service is gone.
func (announced) Delete(context.Context, state.AnnouncedStatus) error { return nil }

// Prune implements state.Target, as Delete.
func (announced) Prune(context.Context, []state.AnnouncedStatus) error { return nil }
