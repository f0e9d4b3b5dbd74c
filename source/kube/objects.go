package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/seamark-lb/seamark/source"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/pager"
)

// objects implements source.Objects, for reading.
type objects struct{ *Source }

// errSecrets: the daemon watches the few that BGPPeers name, and shows none.
var errSecrets = errors.New("this source shows no Secrets: read them with kubectl")

// client of a kind, in the version that is followed.
func (s *Source) client(kind source.Kind, namespace string) dynamic.ResourceInterface {
	if f := s.feed(kind); f != nil {
		kind = f.kind
	}
	r := s.clients.dynamic.Resource(resource(kind))
	if kind.Namespaced && namespace != "" {
		return r.Namespace(namespace)
	}
	return r
}

func (o objects) Get(ctx context.Context, kind source.Kind, namespace, name string) (*unstructured.Unstructured, error) {
	if kind.Kind == source.KindSecret().Kind {
		return nil, errSecrets
	}
	ctx, cancel := o.cfg.bounded(ctx)
	defer cancel()
	obj, err := o.client(kind, namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read %s %s: %w", kind.Kind, source.ObjectKey(namespace, name), source.ErrNotFound)
	}
	if err != nil {
		return nil, o.clients.explain("read", kind, causeOf(ctx, err))
	}
	obj.SetManagedFields(nil)
	return obj, nil
}

func (o objects) List(ctx context.Context, kind source.Kind, namespace string) ([]*unstructured.Unstructured, error) {
	if kind.Kind == source.KindSecret().Kind {
		return nil, errSecrets
	}
	ctx, cancel := o.cfg.bounded(ctx)
	defer cancel()
	if kind.Kind == source.KindLease().Kind {
		namespace = cmp.Or(namespace, source.Namespace) // Seamark reads no others
	}
	var objs []*unstructured.Unstructured
	list := pager.New(func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return o.client(kind, namespace).List(ctx, opts)
	})
	err := list.EachListItem(ctx, metav1.ListOptions{}, func(item runtime.Object) error {
		obj := item.(*unstructured.Unstructured)
		obj.SetManagedFields(nil)
		objs = append(objs, obj)
		return nil
	})
	if err != nil {
		return nil, o.clients.explain("list", kind, causeOf(ctx, err))
	}
	slices.SortFunc(objs, func(a, b *unstructured.Unstructured) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return objs, nil
}

func (o objects) Create(_ context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return nil, readOnly("create", obj.GetKind(), obj.GetNamespace(), obj.GetName())
}

func (o objects) Update(_ context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return nil, readOnly("update", obj.GetKind(), obj.GetNamespace(), obj.GetName())
}

func (o objects) Delete(_ context.Context, kind source.Kind, namespace, name string) error {
	return readOnly("delete", kind.Kind, namespace, name)
}

func readOnly(what, kind, namespace, name string) error {
	return fmt.Errorf("%s %s %s: %w", what, kind, source.ObjectKey(namespace, name), source.ErrReadOnly)
}
