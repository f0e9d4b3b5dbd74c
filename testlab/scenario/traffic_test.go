package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/testlab/traffic"
)

// background runs watch until stop is called, which returns what it has seen.
func background[R any](l lab, watch func(context.Context) (R, error)) (stop func() R) {
	ctx, cancel := context.WithCancel(context.Background())
	type outcome struct {
		result R
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		result, err := watch(ctx)
		if err != nil && ctx.Err() == nil {
			l.t.Errorf("watch in the background: %v", err) // whoever waits for what it does learns why in vain
		}
		done <- outcome{result, err}
	}()
	l.t.Cleanup(cancel)
	return func() R {
		l.t.Helper()
		cancel()
		o := <-done
		l.must(o.err)
		return o.result
	}
}

// arpInterval is the time between questions who has the VIP.
const arpInterval = 25 * time.Millisecond

// watchARP has the router ask who has the VIP, and returns when it has been
// answered. One watch at a time: of two, the one would take answers to the
// other for second answers to its own question.
func (l lab) watchARP() (stop func() traffic.ARPResult) {
	l.t.Helper()
	from, holder := l.host(router), l.holder()
	before := l.counted(holder, "arp_reply")
	stop = background(l, func(ctx context.Context) (traffic.ARPResult, error) {
		return traffic.WatchARP(ctx, from, "eth1", vip, arpInterval)
	})
	l.eventually("the router's questions are answered", func() error {
		if l.counted(holder, "arp_reply") < before+2 { // one may be to the router's own kernel
			return errors.New("not one")
		}
		return nil
	})
	return stop
}

// counted is how many packets a node's programs have met with the verdict
// (bpf/reasons.h, in lower case).
func (l lab) counted(node, reason string) uint64 {
	l.t.Helper()
	var n uint64
	for _, v := range l.status(node).Verdicts {
		if strings.HasSuffix(v.Reason, "/"+reason) {
			n += v.Packets
		}
	}
	return n
}

// watchARPFor has the router ask for a while.
func (l lab) watchARPFor(d time.Duration) traffic.ARPResult {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), d)
	defer cancel()
	r, err := traffic.WatchARP(ctx, l.host(router), "eth1", vip, arpInterval)
	l.must(err)
	return r
}

// silent waits until nobody answers ARP for the VIP.
func (l lab) silent() {
	l.t.Helper()
	l.eventually("nobody answers ARP", func() error {
		if r := l.watchARPFor(500 * time.Millisecond); len(r.Holders) > 0 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
}

// probe opens connections to the VIP, each anew.
func (l lab) probe() (stop func() traffic.ProbeResult) {
	l.t.Helper()
	from := l.host(router)
	return background(l, func(ctx context.Context) (traffic.ProbeResult, error) {
		return traffic.ProbeTCP(ctx, from, web, 20)
	})
}

// streams opens connections to the VIP on which the pods send lines.
func (l lab) streams(count int) *traffic.Streams {
	l.t.Helper()
	return l.streamsFrom(router, web, count)
}

// streamsFrom opens connections from a host on which the pods send lines.
func (l lab) streamsFrom(from string, to netip.AddrPort, count int) *traffic.Streams {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), within)
	defer cancel()
	s, err := traffic.OpenStreams(ctx, l.host(from), to, count, 200*time.Millisecond)
	l.must(err)
	l.t.Cleanup(s.Close)
	return s
}

// flowing waits until every connection to the pods has brought more lines, or
// broke; of those that broke, none is excused.
func (l lab) flowing(s *traffic.Streams, pods ...string) {
	l.t.Helper()
	before := s.Result().Streams
	l.eventually("the streams flow", func() error {
		for i, now := range s.Result().Streams {
			switch {
			case !slices.Contains(pods, now.Pod):
			case now.Error != "":
				l.t.Fatalf("connection from %s to %s broke: %s", now.Local, now.Pod, now.Error)
			case now.Lines < before[i].Lines+2:
				return fmt.Errorf("connection from %s to %s stands still", now.Local, now.Pod)
			}
		}
		return nil
	})
}

// generously is longer than any stall that an event which must not be noticed
// may cause, scheduling of a busy machine included.
const generously = 5 * time.Second

// unbroken wants the connections to the pods never broken, nor stalled for long.
func (l lab) unbroken(s *traffic.Streams, stall time.Duration, pods ...string) {
	l.t.Helper()
	r := s.Result()
	l.t.Logf("streams:\n%s", r)
	some := 0
	for _, pod := range pods {
		on := r.On(pod)
		some += len(on.Streams)
		for _, broken := range on.Broken() {
			l.t.Errorf("connection from %s to %s broke: %s", broken.Local, pod, broken.Error)
		}
		if n := len(on.Stalled(stall)); n > 0 {
			l.t.Errorf("%d connections to %s stalled for more than %v, the longest for %s", n, pod, stall, ms(on.LongestGap()))
		}
	}
	if some == 0 {
		l.t.Errorf("no connection leads to %v: this shows nothing", pods)
	}
}

// held wants one holder of the VIP's MAC, without a noticeable pause.
func (l lab) held(r traffic.ARPResult, by string) {
	l.t.Helper()
	l.t.Logf("ARP: %s", r)
	if len(r.Holders) != 1 || r.Holders[0].MAC != by {
		l.t.Errorf("ARP was answered by %+v, want %s alone", r.Holders, by)
	}
	if r.Silence > 2*time.Second { // less than a lease
		l.t.Errorf("nobody answered ARP for %s", ms(r.Silence))
	}
}

// movedOnce wants the VIP to have gone from one MAC to another, for good, with
// never an answer by both.
func (l lab) movedOnce(r traffic.ARPResult, from, to string) {
	l.t.Helper()
	l.t.Logf("ARP: %s", r)
	if len(r.Holders) != 2 || r.Holders[0].MAC != from || r.Holders[1].MAC != to {
		l.t.Errorf("ARP was answered by %+v, want first %s, then %s", r.Holders, from, to)
	}
	if len(r.Doubles) > 0 {
		l.t.Errorf("%d questions were answered by two, the first: %+v", len(r.Doubles), r.Doubles[0])
	}
}
