package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/seamark-lb/seamark/source"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// statuses is the target of a table whose rows say what is to be in the status
// of an object. Nothing is sent while the object is as it was last written.
type statuses[T any] struct {
	*Source
	// change is what the status is to be like; false: nothing.
	change func(T) (source.StatusChange, bool)
	// absent is the same for a row that is no longer wanted. Nil: the row goes
	// with its object, and the status with it.
	absent func(T) (source.StatusChange, bool)

	mu   sync.Mutex
	sent map[string]sentStatus // by kind and object
}

// sentStatus is a change that the API server has.
type sentStatus struct {
	change  source.StatusChange
	version int64 // of the object with it
}

func newStatuses[T any](s *Source, change, absent func(T) (source.StatusChange, bool)) *statuses[T] {
	return &statuses[T]{Source: s, change: change, absent: absent, sent: map[string]sentStatus{}}
}

func (s *statuses[T]) Update(ctx context.Context, row T) error {
	if change, ok := s.change(row); ok {
		return s.write(ctx, change)
	}
	return nil
}

func (s *statuses[T]) Delete(ctx context.Context, row T) error {
	if s.absent == nil {
		if change, ok := s.change(row); ok {
			s.forget(change)
		}
		return nil
	}
	change, ok := s.absent(row)
	if !ok {
		return nil
	}
	err := s.write(ctx, change)
	if err == nil {
		s.forget(change)
	}
	return err
}

// Prune does nothing: what is not wanted is said by Delete.
func (s *statuses[T]) Prune(context.Context, []T) error { return nil }

func sentKey(c source.StatusChange) string {
	return c.Kind.Plural + "." + c.Kind.Group + "/" + source.ObjectKey(c.Namespace, c.Name)
}

func (s *statuses[T]) forget(change source.StatusChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sent, sentKey(change))
}

func (s *statuses[T]) write(ctx context.Context, change source.StatusChange) error {
	name := source.ObjectKey(change.Namespace, change.Name)
	s.mu.Lock()
	last, ok := s.sent[sentKey(change)]
	s.mu.Unlock()
	if ok && reflect.DeepEqual(last.change, change) && s.version(change.Kind, name) <= last.version {
		return nil
	}
	bounded, cancel := s.cfg.bounded(ctx)
	defer cancel()
	var version int64
	err := source.RetryConflicts(bounded, func() (err error) {
		if version, err = s.writeStatus(bounded, change); apierrors.IsConflict(err) {
			return source.ErrConflict
		}
		return err
	})
	if apierrors.IsNotFound(err) {
		s.forget(change)
		return nil // the row goes as soon as the table hears of it
	}
	if err != nil {
		return fmt.Errorf("write status of %s %s: %w", change.Kind.Kind, name, s.clients.explain("write", change.Kind, causeOf(bounded, err)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent[sentKey(change)] = sentStatus{change, version}
	return nil
}

// writeStatus reads the object, and writes the change if there is anything to
// change. It returns the object's version with it.
func (s *Source) writeStatus(ctx context.Context, change source.StatusChange) (version int64, err error) {
	client := s.client(change.Kind, change.Namespace)
	obj, err := client.Get(ctx, change.Name, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	if !change.Apply(obj) {
		return revision(obj.GetResourceVersion()), nil
	}
	if len(change.Remove) > 0 {
		return s.removeConditions(ctx, client, obj)
	}
	patch, err := json.Marshal(appliedStatus(obj, change))
	if err != nil {
		return 0, fmt.Errorf("encode: %w", err)
	}
	force := true
	obj, err = client.Patch(ctx, change.Name, types.ApplyPatchType, patch,
		metav1.PatchOptions{FieldManager: fieldManager, Force: &force}, "status")
	if err != nil {
		return 0, err
	}
	return revision(obj.GetResourceVersion()), nil
}

// removeConditions leaves those that obj has. (To apply nothing would make the
// status null, which no CRD allows.)
func (s *Source) removeConditions(ctx context.Context, client dynamic.ResourceInterface, obj *unstructured.Unstructured) (version int64, err error) {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": obj.GetResourceVersion()},
		"status":   map[string]any{"conditions": orNull(source.ConditionsOf(obj))},
	})
	if err != nil {
		return 0, fmt.Errorf("encode: %w", err)
	}
	obj, err = client.Patch(ctx, obj.GetName(), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if err != nil {
		return 0, err
	}
	return revision(obj.GetResourceVersion()), nil
}

// appliedStatus is what of the object, which has the change, is Seamark's: what
// was Seamark's and is not in it goes.
func appliedStatus(obj *unstructured.Unstructured, change source.StatusChange) map[string]any {
	status := map[string]any{}
	for field, value := range change.Fields {
		status[field] = value
	}
	var conditions []metav1.Condition
	for _, c := range source.ConditionsOf(obj) {
		if slices.ContainsFunc(change.Conditions, func(ours metav1.Condition) bool { return ours.Type == c.Type }) {
			conditions = append(conditions, c)
		}
	}
	if len(conditions) > 0 {
		status["conditions"] = conditions
	}
	metadata := map[string]any{"name": obj.GetName(), "uid": obj.GetUID()}
	if obj.GetNamespace() != "" {
		metadata["namespace"] = obj.GetNamespace()
	}
	return map[string]any{"apiVersion": obj.GetAPIVersion(), "kind": obj.GetKind(), "metadata": metadata, "status": status}
}
