package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/source"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"
)

// standing is what the API server holds of a kind.
type standing struct {
	revision int64            // of the answer
	objects  map[string]int64 // version of each, by source.ObjectKey
	newest   int64            // of those versions
}

// stands asks the API server what it holds of the kind: all that was written
// before the question is in the answer (no resourceVersion: a consistent read).
func (s *Source) stands(ctx context.Context, kind source.Kind) (standing, error) {
	lists := s.clients.metadataOf(kind)
	list, _, err := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		ctx, cancel := s.cfg.bounded(ctx)
		defer cancel()
		list, err := lists.list(ctx, o)
		return list, causeOf(ctx, err)
	}).List(ctx, metav1.ListOptions{})
	if err != nil {
		return standing{}, err
	}
	all, err := meta.ListAccessor(list)
	if err != nil {
		return standing{}, fmt.Errorf("read list: %w", err)
	}
	now := standing{revision: revision(all.GetResourceVersion()), objects: map[string]int64{}}
	err = meta.EachListItem(list, func(obj runtime.Object) error {
		name, version, err := identify(obj)
		if err != nil {
			return err
		}
		now.objects[name], now.newest = version, max(now.newest, version)
		return nil
	})
	return now, err
}

// has says whether the tables hold all that the API server held.
func (f *feed) has(then standing) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.synced || f.upTo < then.newest {
		return false
	}
	for name, version := range f.held {
		if _, there := then.objects[name]; !there && version <= then.revision {
			return false // its deletion is on its way
		}
	}
	return true
}

// look is the time between two looks at what the tables have come to.
const look = 10 * time.Millisecond

// errBehind: the watch has not brought what the API server holds.
var errBehind = errors.New("the watch is behind the API server")

// await returns once the tables hold of the feed's kind what the API server
// does now, or an error: errBehind when that takes longer than ctx lasts, or
// the feed runs.
func (s *Source) await(ctx context.Context, f *feed) error {
	now, err := s.stands(ctx, f.kind)
	if err != nil {
		return err
	}
	for !f.has(now) {
		if s.feed(f.kind) != f || pause(ctx, look) != nil {
			return errBehind
		}
	}
	return nil
}

// Pace of the comparisons with the API server.
const (
	verifyEvery  = 30 * time.Second // while all is well
	verifyWithin = 5 * time.Second
)

// verify compares the AnnouncementSlices with the API server, after each break
// of their watch and from time to time, until ctx ends.
func (s *Source) verify(ctx context.Context) {
	timer := time.NewTimer(verifyEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.trust.wake:
		}
		next := verifyEvery
		if !s.verifyOnce(ctx) {
			next = s.cfg.LeaseRenew
		}
		timer.Reset(next)
	}
}

func (s *Source) verifyOnce(ctx context.Context) (trusted bool) {
	f := s.feed(source.KindAnnouncementSlice())
	if f == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, verifyWithin)
	defer cancel()
	breaks, asked := s.trust.begin(), source.Boottime()
	err := s.await(ctx, f)
	switch {
	case err == nil:
		return s.trust.proved(breaks, asked)
	case errors.Is(err, errBehind):
		s.trust.lagged(s.leases.LastRead())
	}
	return false
}

// CatchUp implements source.Source: the tables that LB-IPAM reads, the leases
// and the AnnouncementSlices hold what the API server did when it was called.
func (s *Source) CatchUp(ctx context.Context) error {
	// Before that, not all kinds are known that Pools come from.
	for !s.db.Pools.Synced(s.db.Snapshot()) {
		if err := pause(ctx, look); err != nil {
			return err
		}
	}
	var kinds sync.WaitGroup
	for _, f := range s.allFeeds() {
		if readByIPAM(f.kind) {
			kinds.Go(func() { s.catchUp(ctx, f.kind) })
		}
	}
	kinds.Wait()
	return ctx.Err()
}

// readByIPAM says whether what LB-IPAM gives, or the election of the coordinator
// that runs it, depends on the kind.
func readByIPAM(k source.Kind) bool {
	switch k.Kind {
	case "Service", "Node", "Namespace", "Lease", "IPPool", "AnnouncementSlice", "CiliumLoadBalancerIPPool", "IPAddressPool":
		return true
	}
	return false
}

// catchUp tries until it works, the kind is no longer followed, or ctx has ended.
func (s *Source) catchUp(ctx context.Context, kind source.Kind) {
	for f := s.feed(kind); f != nil && ctx.Err() == nil; f = s.feed(kind) {
		err := s.await(ctx, f)
		if err == nil || apierrors.IsNotFound(err) && kind.Foreign() {
			return
		}
		s.log.Debug("compare tables with the API server", "kind", kind.Plural, "err", err)
		_ = pause(ctx, s.cfg.LeaseRenew) // its error is ctx's
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
