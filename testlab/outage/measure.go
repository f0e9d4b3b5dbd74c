package outage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/traffic"
)

const (
	probesPerSecond = 100
	streamCount     = 200
	streamInterval  = 100 * time.Millisecond
	arpInterval     = 20 * time.Millisecond
	// steady is for how long all is well before a fault, and afterHeal how long
	// is watched after it: what goes wrong then is of the fault, too.
	steady    = 2 * time.Second
	afterHeal = 5 * time.Second
)

// Run is what was seen of one fault.
type Run struct {
	// UDP is the longest time in which no probe was answered in time; Lost are those that
	// never were, and Late those that were after 0.5 s.
	UDP        time.Duration
	Lost, Late int
	// TCP is the longest gap of a connection to a pod that lived, and Broken how many of
	// those broke.
	TCP    time.Duration
	Broken int
	// Why the first of them broke, and with which pod.
	Why string
	// Silence is the longest time without an answer to ARP; Doubles are questions that two
	// answered, and Double the time from the first to the last of them.
	Silence time.Duration
	Doubles int
	Double  time.Duration
	Moved   bool // another node announces
}

// measure lets one fault happen.
func measure(ctx context.Context, l lab, f Fault) (Run, error) {
	if err := l.settled(ctx); err != nil {
		return Run{}, err
	}
	c, err := l.castFor(ctx, f)
	if err != nil {
		return Run{}, err
	}
	if err := l.answering(ctx); err != nil {
		return Run{}, err
	}
	from, err := l.Host(router)
	if err != nil {
		return Run{}, err
	}
	streams, err := traffic.OpenStreams(ctx, from, web, streamCount, streamInterval)
	if err != nil {
		return Run{}, err
	}
	defer streams.Close()
	watch, stop := context.WithCancel(ctx)
	defer stop()
	probes := later(func() (traffic.ProbeResult, error) { return traffic.ProbeUDP(watch, from, web, probesPerSecond) })
	arps := later(func() (traffic.ARPResult, error) { return traffic.WatchARP(watch, from, "eth1", vip, arpInterval) })

	err = l.happen(ctx, f, c)
	stop()
	probed, probeErr := probes()
	arp, arpErr := arps()
	if err := errors.Join(err, probeErr, arpErr); err != nil {
		return Run{}, fmt.Errorf("%s: %w", f.Name, err)
	}
	now, err := l.holder(ctx, back[0])
	if err != nil {
		return Run{}, err
	}
	run := judge(probed, streams.Result(), arp, f.Dead(c))
	run.Moved = now != c.holder
	return run, l.settled(ctx)
}

// castFor has the right node be the coordinator, and says who is who.
func (l lab) castFor(ctx context.Context, f Fault) (cast, error) {
	holder, err := l.holder(ctx, back[0])
	if err != nil {
		return cast{}, err
	}
	c := cast{holder, back[1]}
	if f.OneNode {
		c.coordinator = holder
	}
	return c, l.coordinate(ctx, c.coordinator)
}

// happen is the fault, from before it until after it.
func (l lab) happen(ctx context.Context, f Fault, c cast) error {
	pause(ctx, steady)
	if err := f.Inject(ctx, l, c); err != nil {
		return err
	}
	pause(ctx, f.Lasts)
	if err := f.Heal(ctx, l, c); err != nil {
		return err
	}
	pause(ctx, afterHeal)
	return ctx.Err()
}

// pause lets time go by: a fault has a length.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// later runs f beside, and returns what gives its result.
func later[R any](f func() (R, error)) func() (R, error) {
	done := make(chan struct{})
	var result R
	var err error
	go func() {
		defer close(done)
		result, err = f()
	}()
	return func() (R, error) {
		<-done
		return result, err
	}
}

// judge sums up what was seen. Connections to pods of dead nodes are no concern.
func judge(probed traffic.ProbeResult, streams traffic.StreamsResult, arp traffic.ARPResult, dead []string) Run {
	run := Run{UDP: probed.Outage, Lost: probed.Sent - probed.Answered - probed.Late, Late: probed.Late, Silence: arp.Silence, Doubles: len(arp.Doubles)}
	if n := len(arp.Doubles); n > 0 {
		run.Double = arp.Doubles[n-1].At.Sub(arp.Doubles[0].At)
	}
	for _, s := range streams.Streams {
		if slices.ContainsFunc(dead, func(node string) bool { return podOn(node) == s.Pod }) {
			continue
		}
		run.TCP = max(run.TCP, s.LongestGap)
		if s.Error == "" {
			continue
		}
		if run.Broken++; run.Broken == 1 {
			run.Why = s.Pod + ": " + s.Error
		}
	}
	return run
}

// Bench measures every fault runs times, those whose daemons have the same arguments in
// one lab, and tells each result as it comes.
func Bench(ctx context.Context, config testlab.Config, faults []Fault, runs int, tell func(Fault, Run)) (results []Result, err error) {
	for len(faults) > 0 && err == nil {
		same := slices.IndexFunc(faults, func(f Fault) bool { return !slices.Equal(f.DaemonArgs, faults[0].DaemonArgs) })
		if same < 0 {
			same = len(faults)
		}
		own := config
		own.DaemonArgs = slices.Concat(config.DaemonArgs, faults[0].DaemonArgs)
		var more []Result
		more, err = benchIn(ctx, own, faults[:same], runs, tell)
		results, faults = append(results, more...), faults[same:]
	}
	return results, err
}

// benchIn is Bench in one lab.
func benchIn(ctx context.Context, config testlab.Config, faults []Fault, runs int, tell func(Fault, Run)) (results []Result, err error) {
	l, err := bringUp(ctx, config)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	for _, f := range faults {
		r := Result{Fault: f.Name}
		for range runs {
			run, err := measure(ctx, l, f)
			if err != nil {
				return results, err
			}
			tell(f, run)
			r.Runs = append(r.Runs, run)
		}
		results = append(results, r)
	}
	return results, nil
}
