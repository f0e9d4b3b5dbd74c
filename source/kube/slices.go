package kube

import (
	"context"
	"fmt"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
)

// sliceStore implements source.SliceStore.
type sliceStore struct{ *Source }

func (s sliceStore) client() dynamic.ResourceInterface {
	return s.clients.dynamic.Resource(resource(source.KindAnnouncementSlice()))
}

func (s sliceStore) List(ctx context.Context) ([]v1alpha1.AnnouncementSlice, error) {
	ctx, cancel := s.cfg.bounded(ctx)
	defer cancel()
	list, err := s.client().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, s.failure(ctx, "list", err)
	}
	all := make([]v1alpha1.AnnouncementSlice, len(list.Items))
	for i, obj := range list.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, &all[i]); err != nil {
			return nil, fmt.Errorf("decode AnnouncementSlice %s: %w", obj.GetName(), err)
		}
	}
	return all, nil
}

func (s sliceStore) Write(ctx context.Context, slice v1alpha1.AnnouncementSlice) (v1alpha1.AnnouncementSlice, error) {
	ctx, cancel := s.cfg.bounded(ctx)
	defer cancel()
	slice.ManagedFields = nil // what is not sent is kept
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&slice)
	if err != nil {
		return slice, fmt.Errorf("encode AnnouncementSlice %s: %w", slice.Name, err)
	}
	obj := &unstructured.Unstructured{Object: content}
	if slice.ResourceVersion == "" {
		obj, err = s.client().Create(ctx, obj, metav1.CreateOptions{FieldManager: fieldManager})
	} else {
		obj, err = s.client().Update(ctx, obj, metav1.UpdateOptions{FieldManager: fieldManager})
	}
	if err != nil {
		return slice, s.failure(ctx, "write", err)
	}
	slice.UID, slice.ResourceVersion = obj.GetUID(), obj.GetResourceVersion()
	slice.CreationTimestamp, slice.Generation = obj.GetCreationTimestamp(), obj.GetGeneration()
	return slice, nil
}

func (s sliceStore) Delete(ctx context.Context, slice v1alpha1.AnnouncementSlice) error {
	ctx, cancel := s.cfg.bounded(ctx)
	defer cancel()
	err := s.client().Delete(ctx, slice.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &slice.UID, ResourceVersion: &slice.ResourceVersion}})
	return s.failure(ctx, "delete", err)
}

// failure is ErrConflict for slices that are not as they were last seen.
func (s sliceStore) failure(ctx context.Context, what string, err error) error {
	err = causeOf(ctx, err)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) && !missingKind(err) {
		return fmt.Errorf("%s AnnouncementSlice: %w: %w", what, source.ErrConflict, err)
	}
	return s.clients.explain(what, source.KindAnnouncementSlice(), err)
}
