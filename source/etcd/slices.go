package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// sliceStore implements source.SliceStore.
type sliceStore struct{ store store }

func (st sliceStore) List(ctx context.Context) ([]v1alpha1.AnnouncementSlice, error) {
	kvs, _, err := st.store.list(ctx, st.store.kindPrefix(source.KindAnnouncementSlice()))
	if err != nil {
		return nil, err
	}
	all := make([]v1alpha1.AnnouncementSlice, len(kvs))
	for i, kv := range kvs {
		if err := json.Unmarshal(kv.Value, &all[i]); err != nil {
			return nil, fmt.Errorf("decode %s: %w", kv.Key, err)
		}
		all[i].ResourceVersion = strconv.FormatInt(kv.ModRevision, 10)
	}
	return all, nil
}

func (st sliceStore) Write(ctx context.Context, s v1alpha1.AnnouncementSlice) (v1alpha1.AnnouncementSlice, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&s)
	if err != nil {
		return s, fmt.Errorf("encode AnnouncementSlice %s: %w", s.Name, err)
	}
	obj := &unstructured.Unstructured{Object: content}
	revision := revisionOf(obj)
	if revision == 0 {
		initMetadata(obj, time.Now())
	} else {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	revision, err = st.store.put(ctx, source.KindAnnouncementSlice(), obj, revision)
	if err != nil {
		return s, err
	}
	s.UID, s.CreationTimestamp, s.Generation = obj.GetUID(), obj.GetCreationTimestamp(), obj.GetGeneration()
	s.ResourceVersion = strconv.FormatInt(revision, 10)
	return s, nil
}

func (st sliceStore) Delete(ctx context.Context, s v1alpha1.AnnouncementSlice) error {
	return st.store.remove(ctx, source.KindAnnouncementSlice(), "", s.Name, revisionOf(&s))
}
