package kube

import (
	"context"
	"fmt"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
)

// followSecrets follows the Secrets that BGPPeers name, and no others, until ctx
// ends: each by a watch of its own, which a Role can allow for that one Secret.
func (s *Source) followSecrets(ctx context.Context) {
	stops := map[state.ObjectName]func(){}
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	for {
		snap := s.db.Snapshot()
		named := source.NamedSecrets(s.db, snap)
		for name, stop := range stops {
			if !named[name] {
				stop()
				delete(stops, name)
				s.writer.Update(func(tx *state.Tx) { s.tables.Remove(tx, source.KindSecret(), name.String()) })
			}
		}
		for name := range named {
			if stops[name] == nil {
				stops[name] = s.start(ctx, s.secretFeed(name))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.db.BGPPeers.Changed(snap):
		}
	}
}

// start follows the feed until ctx ends or stop is called, which returns when it has ended.
func (s *Source) start(ctx context.Context, f *feed) (stop func()) {
	of, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.follow(of, f)
	}()
	return func() {
		cancel()
		<-done
	}
}

// secretFeed follows one Secret. That it may not be read is the BGPPeer's
// problem alone.
func (s *Source) secretFeed(name state.ObjectName) *feed {
	kind := source.KindSecret()
	one := reading[*corev1.SecretList](s.clients.core.CoreV1().Secrets(name.Namespace)).
		with(fields.OneTermEqualSelector("metadata.name", name.Name))
	f := s.bareFeed("secret "+name.String(), kind, one, secretSink{s.tables, name})
	tell := f.failed
	f.failed = func(err error) {
		if apierrors.IsForbidden(err) {
			s.writer.Update(func(tx *state.Tx) {
				s.tables.SecretUnreadable(tx, name, "the daemon may not", fmt.Sprintf("let ServiceAccount seamarkd of namespace %s list and watch it "+
					"(a Role and a RoleBinding in namespace %s)", source.Namespace, name.Namespace))
			})
			err = nil
		}
		tell(err)
	}
	return f
}

// secretSink takes in one Secret.
type secretSink struct {
	tables *source.Tables
	name   state.ObjectName
}

func (s secretSink) put(tx *state.Tx, name string, obj any) {
	s.tables.Put(tx, source.KindSecret(), name, obj)
}

func (s secretSink) remove(tx *state.Tx, name string) {
	s.tables.Remove(tx, source.KindSecret(), name)
}

func (s secretSink) replace(tx *state.Tx, objects map[string]any) {
	name := s.name.String()
	if obj, there := objects[name]; there {
		s.put(tx, name, obj)
		return
	}
	s.remove(tx, name)
}
