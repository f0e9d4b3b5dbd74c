package scenario

import (
	"context"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
)

// TestStoreOutage: with the store stopped, or slow, nothing moves.
func TestStoreOutage(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	holder := l.holder()
	mac := l.mac(holder)
	before := l.announcements(ctr)
	streams := l.streams(60)
	unchanged := func(when string) {
		t.Helper()
		for _, node := range nodes {
			if now := l.announcements(node); now != before {
				t.Errorf("%s, asked from %s:\n%swas\n%s", when, node, now, before)
			}
		}
	}

	l.must(l.StopAPI(t.Context()))
	l.held(l.watchARPFor(20*time.Second), mac) // many times a lease
	unchanged("while the store is stopped")
	l.answers()
	l.must(l.StartAPI(t.Context()))
	for _, node := range nodes {
		l.leased(node)
	}
	l.held(l.watchARPFor(quiet), mac)
	unchanged("after the store came back")

	l.must(l.DelayAPI(t.Context(), time.Second))
	l.held(l.watchARPFor(10*time.Second), mac)
	unchanged("while the store is slow")
	l.must(l.DelayAPI(t.Context(), 0))
	for _, node := range nodes {
		l.leased(node)
	}
	l.held(l.watchARPFor(quiet), mac)
	unchanged("after the store was slow")
	l.flowing(streams, podCtr, podW1, podW0)
	l.unbroken(streams, generously, podCtr, podW1, podW0)
}

// TestRestartWithoutStore: while the store is away, a daemon that is started
// again goes on with what it finds in the kernel, also when the grace that it
// stopped with is long over.
func TestRestartWithoutStore(t *testing.T) {
	t.Parallel()
	l := upServing(t, "--restart-grace", "10s") // in which a daemon starts also on a busy machine
	holder := l.holder()
	before := l.announcements(other(holder))
	streams := l.streams(30)
	l.must(l.StopAPI(t.Context()))
	l.daemon(holder, testlab.Stop)
	patience, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err := l.Daemon(patience, holder, testlab.Start)
	if err == nil {
		t.Error("a daemon without a store is ready")
	}
	l.refused(holder, []string{"seamark", "status"}, "not ready: the store has not been read yet")
	l.held(l.watchARPFor(18*time.Second), l.mac(holder))
	l.flowing(streams, podCtr, podW1, podW0)
	l.answers()

	l.must(l.StartAPI(t.Context()))
	for _, node := range nodes {
		l.leased(node)
	}
	l.held(l.watchARPFor(quiet), l.mac(holder))
	if now := l.announcements(holder); now != before {
		t.Errorf("announcements\n%swere\n%s", now, before)
	}
	l.flowing(streams, podCtr, podW1, podW0)
	l.unbroken(streams, generously, podCtr, podW1, podW0)
}

// TestDeathWithoutStore: nobody can move the address of a holder that dies
// while the store is away; once the store is back, somebody does.
func TestDeathWithoutStore(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	old := l.holder()
	streams := l.streams(30)
	l.must(l.StopAPI(t.Context()))
	l.daemon(old, testlab.Kill)
	l.silent()
	l.flowing(streams, podCtr, podW1, podW0)
	l.must(l.StartAPI(t.Context()))
	now := l.movedFrom(old)
	l.held(l.watchARPFor(quiet), l.mac(now))
	l.flowing(streams, podCtr, podW1, podW0)
	l.unbroken(streams, within, podCtr, podW1, podW0)
}
