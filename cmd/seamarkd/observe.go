package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/collect"
	"github.com/seamark-lb/seamark/datapath/kernel"
	"github.com/seamark-lb/seamark/state"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
)

// observeFlags are how long flows are remembered, and who is told of them.
type observeFlags struct {
	timeouts        collect.Timeouts
	metricsAddr     string
	metricsBackends bool
}

func (f *observeFlags) register(fs *pflag.FlagSet) {
	f.timeouts = collect.DefaultTimeouts()
	for _, t := range f.all() {
		fs.DurationVar(t.value, t.name, *t.value, t.usage)
	}
	fs.StringVar(&f.metricsAddr, "metrics-addr", "", "address to serve Prometheus metrics on, as /metrics, such as :9962 (default: none)")
	fs.BoolVar(&f.metricsBackends, "metrics-backends", false, "have metrics for each backend, too: three series for every pod behind a Service")
}

type timeoutFlag struct {
	name, usage string
	value       *time.Duration
}

func (f *observeFlags) all() []timeoutFlag {
	t := &f.timeouts
	return []timeoutFlag{
		{"flow-timeout", "how long an established TCP or SCTP flow is remembered without a packet", &t.Established},
		{"half-open-timeout", "the same, for one that both sides have not spoken in yet", &t.HalfOpen},
		{"closing-timeout", "the same, after its first FIN or RST", &t.Closing},
		{"udp-timeout", "how long UDP is remembered that nobody has answered", &t.UDP},
		{"udp-answered-timeout", "how long UDP is remembered that was answered", &t.UDPReplied},
	}
}

func (f *observeFlags) validate() error {
	for _, t := range f.all() {
		if *t.value < 2*time.Second { // two ticks of the datapath's clock
			return fmt.Errorf("--%s %v: want 2s or more", t.name, *t.value)
		}
	}
	return nil
}

// observer looks at what the datapath does with packets: it removes flows that
// are over, counts the others, and tells people.
type observer struct {
	lists   lister
	counter counter
	monitor *monitor
	tracer  tracer
	metrics metrics
	flags   observeFlags
}

func newObserver(kern *kernel.Kernel, maps datapath.Maps, frontends *datapath.FrontendTarget, db *state.DB, flags observeFlags, log *slog.Logger) observer {
	collector := &collect.Collector{
		Tables:   collect.Tables(maps, func(name string) uint32 { return kern.Maps()[name].MaxEntries() }),
		Timeouts: flags.timeouts, Now: collect.Now, Log: log,
		Refused: func() (uint64, error) { return refused(kern.Verdicts()) },
	}
	o := observer{lists: lister{maps, db}, counter: counter{maps, db, collector}, tracer: tracer{maps, frontends.Trace, db}, flags: flags}
	o.monitor = &monitor{db: db, reasons: kern.Reasons(), watch: kern.WatchEvents, trace: o.tracer.trace, log: log, traced: map[state.ObjectName]int{}}
	o.metrics = metrics{verdicts: kern.Verdicts, counts: o.counter.services, report: collector.Report, log: log}
	if flags.metricsBackends {
		o.metrics.counts = o.counter.counts
	}
	return o
}

// refused counts the packets that found no room for their flow, or no port.
func refused(verdicts []kernel.Verdict, err error) (n uint64, _ error) {
	for _, v := range verdicts {
		if slices.Contains([]string{"nat_table", "nat_ports"}, v.Reason) {
			n += v.Packets
		}
	}
	return n, err
}

// run collects, and serves metrics where they are wanted, until ctx ends.
func (o observer) run(ctx context.Context) error {
	if err := o.tracer.endAll(); err != nil {
		return fmt.Errorf("end tracing: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return o.counter.collector.Run(ctx) })
	group.Go(func() error { return o.monitor.keep(ctx) })
	if o.flags.metricsAddr != "" {
		group.Go(func() error { return o.metrics.serve(ctx, o.flags.metricsAddr) })
	}
	return group.Wait()
}

// tracer has the packets of Services traced.
type tracer struct {
	maps datapath.Maps
	one  func(frontend datapath.FrontendKey, on bool) error
	db   *state.DB
}

// trace has all frontends traced that a Service has now, or none of those any longer.
func (t tracer) trace(service state.ObjectName, on bool) error {
	names, err := namesOf(t.maps, t.db)
	if err != nil {
		return err
	}
	for at := range names.numbers {
		if names.ofFrontend(at.Addr, at.Protocol) != service {
			continue
		}
		if err := t.one(datapath.FrontendKey{Addr: at.Addr.Addr(), Port: at.Addr.Port(), Proto: at.Protocol}, on); err != nil {
			return err
		}
	}
	return nil
}

// endAll ends what a daemon that died in the middle of it has traced.
func (t tracer) endAll() error {
	frontends, err := t.maps.Frontends.All()
	if err != nil {
		return fmt.Errorf("read map frontends: %w", err)
	}
	for key, entry := range frontends {
		if entry.Flags&datapath.FrontendTraced == 0 {
			continue
		}
		if err := t.one(key, false); err != nil {
			return err
		}
	}
	return nil
}
