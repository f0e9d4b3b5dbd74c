package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/source"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// store keeps Kubernetes-shaped objects as JSON under
//
//	/seamark/<group or core>/<plural>/[<namespace>/]<name>
//
// An object's resourceVersion is the revision its key was last written at; it
// is not part of the value. Every write compares it.
type store struct{ *connection }

// kindPrefix of the keys of a kind.
func (s store) kindPrefix(k source.Kind) string {
	group := k.Group
	if group == "" {
		group = "core"
	}
	return s.cfg.Prefix + "/" + group + "/" + k.Plural + "/"
}

func (s store) key(k source.Kind, namespace, name string) string {
	if k.Namespaced {
		return s.kindPrefix(k) + namespace + "/" + name
	}
	return s.kindPrefix(k) + name
}

// decode makes an object of a key's value.
func decode(kv *mvccpb.KeyValue) (*unstructured.Unstructured, error) {
	obj := &unstructured.Unstructured{}
	if err := obj.UnmarshalJSON(kv.Value); err != nil {
		return nil, fmt.Errorf("decode %s: %w", kv.Key, err)
	}
	obj.SetResourceVersion(strconv.FormatInt(kv.ModRevision, 10))
	return obj, nil
}

// encode is the value of an object.
func encode(obj *unstructured.Unstructured) (string, error) {
	stored := obj.DeepCopy()
	stored.SetResourceVersion("")
	data, err := json.Marshal(stored.Object)
	if err != nil {
		return "", fmt.Errorf("encode %s %s: %w", obj.GetKind(), obj.GetName(), err)
	}
	return string(data), nil
}

// get returns ErrNotFound when there is no such object.
func (s store) get(ctx context.Context, k source.Kind, namespace, name string) (*unstructured.Unstructured, error) {
	var kvs []*mvccpb.KeyValue
	err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Get(ctx, s.key(k, namespace, name))
		if err == nil {
			kvs = resp.Kvs
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", objectName(k, namespace, name), err)
	}
	if len(kvs) == 0 {
		return nil, fmt.Errorf("read %s: %w", objectName(k, namespace, name), source.ErrNotFound)
	}
	return decode(kvs[0])
}

// pageSize of lists: objects are a few KiB, so a page stays far below the
// limits of gRPC and never holds the store up.
const pageSize = 500

// list returns what lies under the prefix, as of one revision.
func (s store) list(ctx context.Context, prefix string) ([]*mvccpb.KeyValue, int64, error) {
	var all []*mvccpb.KeyValue
	revision, from := int64(0), prefix
	for {
		var resp *clientv3.GetResponse
		err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
			resp, err = c.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)),
				clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
			return err
		})
		if err != nil {
			return nil, 0, fmt.Errorf("list %s: %w", prefix, err)
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		all = append(all, resp.Kvs...)
		if !resp.More {
			return all, revision, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// put writes the object if its key is still at revision (0: absent), and
// returns the revision of the write, or ErrConflict.
func (s store) put(ctx context.Context, k source.Kind, obj *unstructured.Unstructured, revision int64) (int64, error) {
	value, err := encode(obj)
	if err != nil {
		return 0, err
	}
	key := s.key(k, obj.GetNamespace(), obj.GetName())
	written, err := s.commit(ctx, key, revision, clientv3.OpPut(key, value))
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", objectName(k, obj.GetNamespace(), obj.GetName()), err)
	}
	return written, nil
}

// remove deletes the key if it is still at revision.
func (s store) remove(ctx context.Context, k source.Kind, namespace, name string, revision int64) error {
	key := s.key(k, namespace, name)
	if _, err := s.commit(ctx, key, revision, clientv3.OpDelete(key)); err != nil {
		return fmt.Errorf("delete %s: %w", objectName(k, namespace, name), err)
	}
	return nil
}

func (s store) commit(ctx context.Context, key string, revision int64, op clientv3.Op) (int64, error) {
	var resp *clientv3.TxnResponse
	err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).Then(op).Commit()
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case !resp.Succeeded:
		return 0, source.ErrConflict
	}
	return resp.Header.Revision, nil
}

// change reads the object, lets f change it and writes it back, again from
// the reading when someone else wrote in between. f returns whether there is
// anything to write; it must change only what is ours. Absent objects are
// ErrNotFound.
func (s store) change(ctx context.Context, k source.Kind, namespace, name string, f func(*unstructured.Unstructured) bool) error {
	return source.RetryConflicts(ctx, func() error {
		obj, err := s.get(ctx, k, namespace, name)
		if err != nil {
			return err
		}
		if !f(obj) {
			return nil
		}
		_, err = s.put(ctx, k, obj, revisionOf(obj))
		return err
	})
}

// revisionOf is the resourceVersion as a number; 0 when it is none.
func revisionOf(obj metav1.Object) int64 {
	n, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// initMetadata gives a new object what an API server gives it.
func initMetadata(obj *unstructured.Unstructured, now time.Time) {
	obj.SetUID(uuid.NewUUID())
	obj.SetCreationTimestamp(metav1.NewTime(now))
	obj.SetGeneration(1)
	obj.SetResourceVersion("")
}

// sameSpec compares all but metadata and status.
func sameSpec(a, b *unstructured.Unstructured) bool {
	return reflect.DeepEqual(specOf(a), specOf(b))
}

func specOf(obj *unstructured.Unstructured) map[string]any {
	spec := map[string]any{}
	for k, v := range obj.Object {
		if k != "metadata" && k != "status" {
			spec[k] = v
		}
	}
	return spec
}

func objectName(k source.Kind, namespace, name string) string {
	if k.Namespaced {
		name = namespace + "/" + name
	}
	return strings.TrimSpace(k.Kind + " " + name)
}
