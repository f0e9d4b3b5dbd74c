package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/seamark-lb/seamark/source"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func isConflict(err error) bool { return errors.Is(err, source.ErrConflict) }
func isNotFound(err error) bool { return errors.Is(err, source.ErrNotFound) }

// objects implements source.Objects. What is written is admitted first
// (source.Admit); the error is then of type source.Problems.
type objects struct{ store store }

func (o objects) Get(ctx context.Context, k source.Kind, namespace, name string) (*unstructured.Unstructured, error) {
	obj, err := o.store.get(ctx, k, namespace, name)
	if err != nil {
		return nil, err
	}
	return source.Redacted(obj), nil
}

func (o objects) List(ctx context.Context, k source.Kind, namespace string) ([]*unstructured.Unstructured, error) {
	prefix := o.store.kindPrefix(k)
	if k.Namespaced && namespace != "" {
		prefix += namespace + "/"
	}
	kvs, _, err := o.store.list(ctx, prefix)
	if err != nil {
		return nil, err
	}
	objs := make([]*unstructured.Unstructured, 0, len(kvs))
	for _, kv := range kvs {
		obj, err := decode(kv)
		if err != nil {
			return nil, err
		}
		objs = append(objs, source.Redacted(obj))
	}
	slices.SortFunc(objs, func(a, b *unstructured.Unstructured) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return objs, nil
}

// Create keeps a status that the object brings, so that a store restored from
// manifests gives Services back the addresses they had.
func (o objects) Create(ctx context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	obj, kind, err := admitted(obj)
	if err != nil {
		return nil, err
	}
	initMetadata(obj, time.Now())
	revision, err := o.store.put(ctx, kind, obj, 0)
	if isConflict(err) {
		return nil, fmt.Errorf("create %s: %w", objectName(kind, obj.GetNamespace(), obj.GetName()), source.ErrExists)
	}
	if err != nil {
		return nil, err
	}
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	return source.Redacted(obj), nil
}

// Update writes nothing when nothing is changed. The status stays what it was
// in the store, for kinds whose status Seamark writes; for others it does
// when obj brings none.
func (o objects) Update(ctx context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	obj, kind, err := admitted(obj)
	if err != nil {
		return nil, err
	}
	name := objectName(kind, obj.GetNamespace(), obj.GetName())
	if obj.GetResourceVersion() == "" {
		return nil, source.Problems{{Object: name, Field: "metadata.resourceVersion", Message: "is missing", Cure: "read the object first"}}
	}
	old, err := o.store.get(ctx, kind, obj.GetNamespace(), obj.GetName())
	if err != nil {
		return nil, err
	}
	if old.GetResourceVersion() != obj.GetResourceVersion() || obj.GetUID() != "" && obj.GetUID() != old.GetUID() {
		return nil, fmt.Errorf("update %s: %w", name, source.ErrConflict)
	}
	if problems := source.AdmitChange(old, obj); len(problems) > 0 {
		return nil, problems
	}
	obj.SetUID(old.GetUID())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	obj.SetGeneration(old.GetGeneration())
	if _, brought := obj.Object["status"]; kind.HasStatus() || !brought {
		delete(obj.Object, "status")
		if status, ok := old.Object["status"]; ok {
			obj.Object["status"] = status
		}
	}
	if !sameSpec(old, obj) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
	if reflect.DeepEqual(old.Object, obj.Object) {
		return source.Redacted(old), nil
	}
	revision, err := o.store.put(ctx, kind, obj, revisionOf(old))
	if err != nil {
		return nil, err
	}
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	return source.Redacted(obj), nil
}

func (o objects) Delete(ctx context.Context, k source.Kind, namespace, name string) error {
	return source.RetryConflicts(ctx, func() error {
		obj, err := o.store.get(ctx, k, namespace, name)
		if err != nil {
			return err
		}
		return o.store.remove(ctx, k, namespace, name, revisionOf(obj))
	})
}

// admitted is a copy of obj with defaults set, if it is valid.
func admitted(obj *unstructured.Unstructured) (*unstructured.Unstructured, source.Kind, error) {
	obj = obj.DeepCopy()
	if problems := source.Admit(obj); len(problems) > 0 {
		return nil, source.Kind{}, problems
	}
	kind, err := source.KindOf(obj.GetAPIVersion(), obj.GetKind())
	return obj, kind, err
}
