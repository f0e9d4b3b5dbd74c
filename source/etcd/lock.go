package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/seamark-lb/seamark/source"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// lock is a resourcelock.Interface: a Lease in the store, as LeaseLock keeps
// one in an API server. Like that one it is for one elector at a time.
type lock struct {
	store          store
	name, identity string
	log            *slog.Logger
	lease          *coordinationv1.Lease
}

func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	lease, err := readLease(ctx, l.store, l.name)
	if err != nil {
		return nil, nil, l.apiError(err)
	}
	l.lease = lease
	record := resourcelock.LeaseSpecToLeaderElectionRecord(&lease.Spec)
	raw, err := json.Marshal(record)
	if err != nil {
		return nil, nil, fmt.Errorf("encode record of lock %s: %w", l.name, err)
	}
	return record, raw, nil
}

func (l *lock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	lease := &coordinationv1.Lease{Spec: resourcelock.LeaderElectionRecordToLeaseSpec(&record)}
	lease.Namespace, lease.Name = source.Namespace, l.name
	return l.write(ctx, lease)
}

func (l *lock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if l.lease == nil {
		return errors.New("update lock: read or create it first")
	}
	lease := l.lease.DeepCopy()
	lease.Spec = resourcelock.LeaderElectionRecordToLeaseSpec(&record)
	return l.write(ctx, lease)
}

func (l *lock) write(ctx context.Context, lease *coordinationv1.Lease) error {
	written, err := writeLease(ctx, l.store, lease)
	if err != nil {
		return l.apiError(err)
	}
	l.lease = written
	return nil
}

// apiError gives the elector the errors it tells apart.
func (l *lock) apiError(err error) error {
	resource := schema.GroupResource{Group: source.KindLease().Group, Resource: source.KindLease().Plural}
	switch {
	case isNotFound(err):
		return apierrors.NewNotFound(resource, l.name)
	case isConflict(err):
		return apierrors.NewConflict(resource, l.name, err)
	}
	return err
}

func (l *lock) RecordEvent(event string) {
	l.log.Info("election", "lock", l.name, "identity", l.identity, "event", event)
}

func (l *lock) Identity() string { return l.identity }

func (l *lock) Describe() string { return source.Namespace + "/" + l.name }
