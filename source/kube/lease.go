package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

// nodeLease writes this node's Lease. It remembers what it wrote last, so
// that a renewal is one request.
type nodeLease struct {
	client coordinationclient.LeaseInterface
	mu     sync.Mutex
	last   *coordinationv1.Lease
}

// RenewLease implements source.Source. lease.Renewal is not read.
func (s *Source) RenewLease(ctx context.Context, lease state.NodeLease) error {
	sent := source.Boottime()
	s.trust.sending(sent, s.leases.LastRead())
	bounded, cancel := s.cfg.bounded(ctx)
	defer cancel()
	version, err := s.lease.renew(bounded, lease, time.Now())
	switch {
	case ctx.Err() != nil && err != nil:
		return fmt.Errorf("renew lease of node %s: %w", lease.Node, context.Cause(ctx))
	case missingNamespace(err):
		return fmt.Errorf("renew lease of node %s: there is no namespace %s: %s", lease.Node, source.Namespace, cureNamespace)
	case err != nil:
		return fmt.Errorf("renew lease of node %s: %w", lease.Node, s.clients.explain("write", source.KindLease(), causeOf(bounded, err)))
	}
	s.trust.sent(sent)
	s.leases.Answered(version, sent)
	return nil
}

// renew returns the version that was written.
func (n *nodeLease) renew(ctx context.Context, row state.NodeLease, now time.Time) (version int64, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last != nil && n.last.Name != row.Node {
		n.last = nil
	}
	err = source.RetryConflicts(ctx, func() error {
		if n.last == nil {
			last, err := n.client.Get(ctx, row.Node, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
			if err == nil {
				n.last = last
			}
		}
		lease := &coordinationv1.Lease{}
		if n.last != nil {
			lease = n.last.DeepCopy()
		}
		source.SetNodeLease(lease, row, now)
		lease.ManagedFields = nil // what is not sent is kept
		// Whether a write that failed was made is not known: read again then.
		n.last = nil
		written, err := n.write(ctx, lease)
		if err != nil {
			return err
		}
		n.last, version = written, revision(written.ResourceVersion)
		return nil
	})
	return version, err
}

func (n *nodeLease) write(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	if lease.ResourceVersion == "" {
		written, err := n.client.Create(ctx, lease, metav1.CreateOptions{FieldManager: fieldManager})
		if apierrors.IsAlreadyExists(err) {
			err = fmt.Errorf("%w: %w", source.ErrConflict, err)
		}
		return written, err
	}
	written, err := n.client.Update(ctx, lease, metav1.UpdateOptions{FieldManager: fieldManager})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		err = fmt.Errorf("%w: %w", source.ErrConflict, err)
	}
	return written, err
}

// SetDrained implements source.Source.
func (s *Source) SetDrained(ctx context.Context, node string, drained bool) error {
	bounded, cancel := s.cfg.bounded(ctx)
	defer cancel()
	err := source.RetryConflicts(bounded, func() error {
		lease, err := s.lease.client.Get(bounded, node, metav1.GetOptions{})
		if err != nil || !source.SetDrained(lease, drained, time.Now()) {
			return err
		}
		lease.ManagedFields = nil // what is not sent is kept
		_, err = s.lease.client.Update(bounded, lease, metav1.UpdateOptions{FieldManager: fieldManager})
		if apierrors.IsConflict(err) {
			err = fmt.Errorf("%w: %w", source.ErrConflict, err)
		}
		return err
	})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("lease of node %s: %w", node, source.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("write lease of node %s: %w", node, s.clients.explain("write", source.KindLease(), causeOf(bounded, err)))
	}
	return nil
}

// ForgetLease implements source.Source.
func (s *Source) ForgetLease(ctx context.Context, row state.NodeLease) error {
	bounded, cancel := s.cfg.bounded(ctx)
	defer cancel()
	lease, err := s.lease.client.Get(bounded, row.Node, metav1.GetOptions{})
	if err == nil && source.IsNodeLease(lease, row) {
		err = s.lease.client.Delete(bounded, row.Node, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion}})
	}
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it is gone, or somebody lives
	}
	return fmt.Errorf("delete lease of node %s: %w", row.Node, s.clients.explain("delete", source.KindLease(), causeOf(bounded, err)))
}
