package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"

	"github.com/seamark-lb/seamark/source"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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
	if ok && reflect.DeepEqual(last.change, change) && s.version(change.Kind, name) == last.version {
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
// change. It returns the object's version with it. It is a merge patch of what
// was read: an apply would be refused by older CRDs of other projects, which do
// not have every field.
func (s *Source) writeStatus(ctx context.Context, change source.StatusChange) (version int64, err error) {
	client := s.client(change.Kind, change.Namespace)
	obj, err := client.Get(ctx, change.Name, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	if !change.Apply(obj) {
		return revision(obj.GetResourceVersion()), nil
	}
	status := map[string]any{"conditions": orNull(source.ConditionsOf(obj))}
	for field, value := range change.Fields {
		status[field] = value
	}
	patch, err := json.Marshal(map[string]any{"status": status,
		"metadata": map[string]any{"resourceVersion": obj.GetResourceVersion()}})
	if err != nil {
		return 0, fmt.Errorf("encode: %w", err)
	}
	obj, err = client.Patch(ctx, change.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if err != nil {
		return 0, err
	}
	return revision(obj.GetResourceVersion()), nil
}
