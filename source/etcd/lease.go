package etcd

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// nodeLease writes this node's Lease. It remembers what it wrote last, so
// that a renewal is one request.
type nodeLease struct {
	store store
	mu    *sync.Mutex
	last  *coordinationv1.Lease
}

func (n *nodeLease) renew(ctx context.Context, row state.NodeLease, now time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last != nil && n.last.Name != row.Node {
		n.last = nil
	}
	err := source.RetryConflicts(ctx, func() error {
		if n.last == nil {
			if err := n.read(ctx, row.Node); err != nil && !isNotFound(err) {
				return err
			}
		}
		lease := &coordinationv1.Lease{}
		if n.last != nil {
			lease = n.last.DeepCopy()
		}
		source.SetNodeLease(lease, row, now)
		// Whether a write that failed was made is not known: read again then.
		n.last = nil
		written, err := writeLease(ctx, n.store, lease)
		if err != nil {
			return err
		}
		n.last = written
		return nil
	})
	if err != nil {
		return fmt.Errorf("renew lease of node %s: %w", row.Node, err)
	}
	return nil
}

func (n *nodeLease) read(ctx context.Context, node string) error {
	lease, err := readLease(ctx, n.store, node)
	n.last = lease
	return err
}

// setDrained returns ErrNotFound when the node never kept a lease.
func setDrained(ctx context.Context, st store, node string, drained bool, now time.Time) error {
	err := st.change(ctx, source.KindLease(), source.Namespace, node, func(obj *unstructured.Unstructured) bool {
		return source.SetDrained(obj, drained, now)
	})
	if err != nil {
		return fmt.Errorf("write lease of node %s: %w", node, err)
	}
	return nil
}

// readLease returns ErrNotFound when there is none.
func readLease(ctx context.Context, st store, name string) (*coordinationv1.Lease, error) {
	obj, err := st.get(ctx, source.KindLease(), source.Namespace, name)
	if err != nil {
		return nil, err
	}
	lease := &coordinationv1.Lease{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, lease); err != nil {
		return nil, fmt.Errorf("decode Lease %s: %w", name, err)
	}
	return lease, nil
}

// writeLease writes the lease if it is still at its resourceVersion; "" is a
// lease that is not there yet. It returns the lease as written.
func writeLease(ctx context.Context, st store, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	kind := source.KindLease()
	lease = lease.DeepCopy()
	lease.APIVersion, lease.Kind = kind.APIVersion(), kind.Kind
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(lease)
	if err != nil {
		return nil, fmt.Errorf("encode Lease %s: %w", lease.Name, err)
	}
	obj := &unstructured.Unstructured{Object: content}
	revision := revisionOf(obj)
	if revision == 0 {
		initMetadata(obj, time.Now())
	} else {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	revision, err = st.put(ctx, kind, obj, revision)
	if err != nil {
		return nil, err
	}
	lease.UID, lease.CreationTimestamp, lease.Generation = obj.GetUID(), obj.GetCreationTimestamp(), obj.GetGeneration()
	lease.ResourceVersion = strconv.FormatInt(revision, 10)
	return lease, nil
}
