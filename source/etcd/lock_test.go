package etcd_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/source/etcd"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// client-go's elector over the lock: one leads, and hands over when it stops
// and when it dies.
func TestLeaderElection(t *testing.T) {
	t.Parallel()
	m := startServer(t, serverConfig(t))
	leads := make(chan string, 10)
	contend := func(name string, release bool) (stop func()) {
		src := newSource(t, etcd.Config{Endpoints: m.urls}, nil, nil)
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock:            src.Lock("coordinator", name),
			LeaseDuration:   2 * time.Second,
			RenewDeadline:   time.Second,
			RetryPeriod:     100 * time.Millisecond,
			ReleaseOnCancel: release,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leads <- name },
				OnStoppedLeading: func() {},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); elector.Run(ctx) }()
		stop = func() { cancel(); <-done }
		t.Cleanup(stop)
		return stop
	}
	leader := func(within time.Duration) string {
		t.Helper()
		select {
		case name := <-leads:
			return name
		case <-time.After(within):
			t.Fatal("nobody leads")
		}
		return ""
	}
	stopA := contend("a", true)
	if got := leader(10 * time.Second); got != "a" {
		t.Fatalf("%s leads, want a", got)
	}
	stopB := contend("b", false)
	stopC := contend("c", true)
	stopA() // releases: no wait for the lease to run out
	second := leader(10 * time.Second)
	if second == "b" {
		stopB() // dies: the lease runs out
	} else {
		stopC()
	}
	if third := leader(20 * time.Second); third == second || third == "a" {
		t.Errorf("%s leads after %s stopped", third, second)
	}
	select {
	case name := <-leads:
		t.Errorf("%s leads too", name)
	default:
	}
}

// Of two who act on what they read, one wins.
func TestLockConflict(t *testing.T) {
	t.Parallel()
	m := startServer(t, serverConfig(t))
	src := newSource(t, etcd.Config{Endpoints: m.urls}, nil, nil)
	a, b := src.Lock("coordinator", "a"), src.Lock("coordinator", "b")
	if _, _, err := a.Get(t.Context()); !apierrors.IsNotFound(err) {
		t.Errorf("reading a lock that is not there: %v", err)
	}
	if err := a.Create(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: "a", LeaseDurationSeconds: 1}); err != nil {
		t.Fatal(err)
	}
	if err := b.Create(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: "b"}); !apierrors.IsConflict(err) {
		t.Errorf("creating it twice: %v", err)
	}
	record, _, err := b.Get(t.Context())
	if err != nil || record.HolderIdentity != "a" {
		t.Fatalf("b reads %+v (%v)", record, err)
	}
	if err := a.Update(t.Context(), *record); err != nil {
		t.Fatal(err)
	}
	record.HolderIdentity = "b"
	if err := b.Update(t.Context(), *record); !apierrors.IsConflict(err) {
		t.Errorf("updating what was read before another update: %v", err)
	}
	if _, err := src.Objects().Get(t.Context(), source.KindLease(), source.Namespace, "coordinator"); errors.Is(err, source.ErrNotFound) {
		t.Error("the lock is not where people look for it")
	}
}
