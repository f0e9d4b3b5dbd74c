package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	// probePatience is within what one probe is to be answered: less than the 1 s after
	// which TCP sends a SYN again, so that a probe never outlives the outage it met.
	probePatience = 500 * time.Millisecond
	// latePatience is for how long datagrams are waited for. Nobody sends them again: one
	// that comes after probePatience was delayed, by the network or by a busy machine, and not lost.
	latePatience = 3 * time.Second
)

// ProbeResult says how a service did under probes.
type ProbeResult struct {
	Sent     int `json:"sent"`
	Answered int `json:"answered"` // in time
	// Refused of those not answered: by RST or ICMP; the others timed out.
	Refused int `json:"refused"`
	// Late of those not answered: the datagrams that came back after 0.5 s.
	Late int `json:"late"`
	// Outage is the longest time without an answer, from the last answered
	// probe before it to the first one after it (or to the end), by when the
	// probes were sent. 0 when every probe was answered. In JSON, ns.
	Outage time.Duration `json:"outage"`
	// OutageStart is when the last answered probe before it was sent; the
	// first probe's time when none was.
	OutageStart time.Time `json:"outageStart,omitzero"`
}

func (r ProbeResult) String() string {
	return fmt.Sprintf("%d probes, %d answered, %d late, %d refused, longest outage %s", r.Sent, r.Answered, r.Late, r.Refused, milliseconds(r.Outage))
}

// ProbeTCP opens rate connections a second, each anew and closed at once,
// until ctx ends.
func ProbeTCP(ctx context.Context, from Namespace, to netip.AddrPort, rate int) (ProbeResult, error) {
	return probe(ctx, rate, probePatience, func(ctx context.Context) error {
		conn, err := dial(ctx, from, "tcp", to)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// ProbeUDP sends rate datagrams a second, each from a socket of its own, to a
// UDP echo, until ctx ends.
func ProbeUDP(ctx context.Context, from Namespace, to netip.AddrPort, rate int) (ProbeResult, error) {
	return probe(ctx, rate, latePatience, func(ctx context.Context) error {
		conn, err := dial(ctx, from, "udp", to)
		if err != nil {
			return err
		}
		defer conn.Close()
		deadline, _ := ctx.Deadline()
		conn.SetDeadline(deadline)
		if _, err := conn.Write([]byte("probe")); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1500))
		return err
	})
}

// shot is one probe.
type shot struct {
	sent time.Time
	took time.Duration
	err  error
}

// probe has each probe wait for as long as patience.
func probe(ctx context.Context, rate int, patience time.Duration, shoot func(context.Context) error) (ProbeResult, error) {
	if rate < 1 || rate > 10_000 {
		return ProbeResult{}, fmt.Errorf("probe: rate %d: want 1 to 10000 a second", rate)
	}
	var shots []*shot
	var flying sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for ctx.Err() == nil {
		s := &shot{sent: time.Now()}
		shots = append(shots, s)
		flying.Go(func() {
			// The last probes may finish after ctx.
			ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), s.sent.Add(patience))
			defer cancel()
			s.err = shoot(ctx)
			s.took = time.Since(s.sent)
		})
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	end := time.Now()
	flying.Wait()
	return summarize(shots, end), nil
}

// summarize evaluates probes in the order they were sent.
func summarize(shots []*shot, end time.Time) ProbeResult {
	r := ProbeResult{Sent: len(shots)}
	if len(shots) == 0 {
		return r
	}
	answered := shots[0].sent // of the last answered probe
	lost := false             // since then
	settle := func(until time.Time) {
		if d := until.Sub(answered); lost && d > r.Outage {
			r.Outage, r.OutageStart = d, answered
		}
	}
	for _, s := range shots {
		if s.err == nil && s.took <= probePatience {
			settle(s.sent)
			r.Answered++
			answered, lost = s.sent, false
			continue
		}
		lost = true
		if s.err == nil {
			r.Late++
		}
		if errors.Is(s.err, syscall.ECONNREFUSED) || errors.Is(s.err, syscall.EHOSTUNREACH) || errors.Is(s.err, syscall.ENETUNREACH) {
			r.Refused++
		}
	}
	settle(end)
	return r
}
