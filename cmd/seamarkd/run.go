package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/seamark-lb/seamark/announce"
	"github.com/seamark-lb/seamark/bfd"
	"github.com/seamark-lb/seamark/bgp"
	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/coexist"
	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/collect"
	"github.com/seamark-lb/seamark/datapath/health"
	"github.com/seamark-lb/seamark/datapath/kernel"
	"github.com/seamark-lb/seamark/datapath/pod"
	"github.com/seamark-lb/seamark/datapath/probe"
	"github.com/seamark-lb/seamark/state"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
)

// coordinatorLease is the name of the Lease that the coordinator is elected by.
const coordinatorLease = "seamark-coordinator"

// run is the daemon: it makes the parts, wires them, and runs them until ctx
// ends. Wiring is by hand, so that this file shows what depends on what.
func run(ctx context.Context, node nodeFlags, store storeFlags, log *slog.Logger) error {
	started := time.Now()
	db, writer := state.New()

	outside, err := outsideOf(node.addr)
	if err != nil {
		return err
	}
	config := kernel.Config{BPFFS: node.bpffs, RunDir: node.runDir, MSSClamp: mssClamp(outside.mtu), Log: log,
		NodeAddr: first(outside.addrs, false), NodeAddr6: first(outside.addrs, true)}
	if err := node.kernel.config(&config); err != nil {
		return err
	}
	kern, err := kernel.Open(config)
	if err != nil {
		return fmt.Errorf("load datapath: %w", err)
	}
	defer kern.Close()
	if err := datapath.CheckLayout(kern.MapSpecs()); err != nil {
		return fmt.Errorf("load datapath: %w", err)
	}
	maps, err := datapath.NewKernelMaps(kern.Maps())
	if err != nil {
		return err
	}
	resolver, err := datapath.OpenResolver(netns.None())
	if err != nil {
		return err
	}
	defer resolver.Close()
	hops := datapath.NewNextHops(maps, resolver, log)
	hops.LeavesBy = kern.LeaveBy
	frontends := datapath.NewFrontendTarget(maps, hops, node.name, log)
	frontends.Ticks, frontends.FlowTimeout = collect.Now, node.observe.timeouts.Established
	frontends.Hash, frontends.NodeAddrs = kernel.FlowHash, addrsOf(db)

	engine, err := openStore(store, node.leaseRenew, db, writer, log)
	if err != nil {
		return err
	}
	src := engine.source
	defer src.Close()

	decide := &deciders{db: db, writer: writer, node: node.name, defaults: node.frontends.Defaults, log: log,
		bgpDrainDelay: node.bgpDrainDelay, drainOnCordon: node.drainOnCordon}
	if node.mode == modeLB {
		decide.appliance = outside.addrs[0]
	}
	tell := teller{db, src}
	var announcer *announce.Announcer
	nodes := nodesWatch{db: db, writer: writer, source: src, log: log, expired: func(node string) bool { return announcer.Expired(node) }}
	announcer = announce.New(announce.Config{
		Node: node.name, DB: db, Writer: writer, Log: log,
		Timing:    announce.Timing{Duration: node.leaseDuration, Renew: node.leaseRenew, Grace: node.restartGrace},
		Detection: node.detection(), Clock: steppedClock{file: node.clockOffset},
		Leases:      leases{src, decide},
		LastRead:    src.LastRead,
		Lock:        src.Lock(coordinatorLease, node.name),
		Assignments: src.Assignments(), PolicyStatuses: src.PolicyStatuses(),
		Lead:      leader{ipam{db, writer, src, log}, tell, announced{db, writer, src, log}, nodes}.run,
		Responder: responder{datapath.NewResponder(maps)},
		Outside:   decide.outside,
		Appliance: node.mode == modeLB, DrainOnCordon: node.drainOnCordon,
	})

	ctx, end := departure{db: db, writer: writer, node: node.name, release: announcer.Release, within: releaseWithin, log: log}.outlast(ctx)
	defer end()
	// The announcer's last word is a write to the store: what it needs for that
	// ends after it.
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	below, belowCtx := errgroup.WithContext(background)
	engine.run(below, belowCtx)
	below.Go(func() error { return src.Run(belowCtx) })

	// A daemon whose store cannot run never has one: it stops, for its supervisor
	// to start it again. What is pinned serves meanwhile.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	context.AfterFunc(belowCtx, stop)
	group, ctx := errgroup.WithContext(ctx)
	part := func(name string, f func(context.Context) error) {
		group.Go(func() error {
			if err := f(ctx); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	checks := health.NewChecks(func() bool { return state.Marked(db.Snapshot(), state.PrunedMark(db.Frontends.Name())) }, log)
	defer checks.Close()
	prober := probe.New(db, writer, log)
	defer prober.Close()
	bfdSpeaker := bfd.New(db, writer, log)
	others := &beside{deciders: decide}
	part("look beside", (&coexist.Watcher{Host: coexist.Host{CNIDir: node.cniConfDir, Proc: "/proc"}, Log: log, Report: others.found}).Run)
	part("decide what others mean", others.run)
	part("watch devices", (&pod.Devices{DB: db, Writer: writer, Log: log}).Run)
	part("decide frontends", decide.frontends)
	part("decide health checks", decide.healthChecks)
	part("decide probes", decide.probes)
	part("decide routes", decide.routes)
	part("decide attachments", decide.attachments)
	part("decide BGP", decide.bgp)
	part("decide kernel routes", decide.kernelRoutes)
	part("keep this node's addresses", decide.keepNodeAddrs(outside, kern))
	part("look at ports", decide.natPorts)
	part("decide BFD sessions", decide.bfdSessions(node.bfd))
	part("reconcile frontends", (&state.Reconciler[state.Frontend]{DB: db, Writer: writer, Table: db.Frontends, Log: log,
		Target: frontends, Gate: decide.decided(db.Frontends.Name()),
		Hold: datapath.HoldWhileAnnounced(db), Wake: []state.Watch{db.Announcements.Watch(), db.BGPRoutes.Watch()}}).Run)
	part("reconcile endpoints", (&state.Reconciler[state.Endpoint]{DB: db, Writer: writer, Table: db.Endpoints, Log: log,
		Target: datapath.NewEndpointTarget(maps, kern), Gate: func(s state.Snapshot) bool { return db.Endpoints.Synced(s) }}).Run)
	part("reconcile health checks", (&state.Reconciler[state.HealthCheck]{DB: db, Writer: writer, Table: db.HealthChecks, Log: log,
		Target: checks, Gate: decide.decided(db.HealthChecks.Name())}).Run)
	part("reconcile probes", (&state.Reconciler[state.Probe]{DB: db, Writer: writer, Table: db.Probes, Log: log,
		Target: prober, Gate: decide.decided(db.Probes.Name())}).Run)
	part("reconcile routes", (&state.Reconciler[state.Route]{DB: db, Writer: writer, Table: db.Routes, Log: log,
		Target: pod.RouteTable{}, Gate: decide.decided(db.Routes.Name())}).Run)
	part("reconcile kernel routes", (&state.Reconciler[state.KernelRoute]{DB: db, Writer: writer, Table: db.KernelRoutes, Log: log,
		Target: pod.KernelRouteTable{}, Gate: decide.kernelRoutesDecided}).Run)
	part("reconcile attachments", (&state.Reconciler[state.Attachment]{DB: db, Writer: writer, Table: db.Attachments, Log: log,
		Target: attachments{kern}, Gate: decide.decided(db.Attachments.Name()),
		Hold: holdWhileAnnouncedOn(db), Wake: []state.Watch{db.Announcements.Watch()}}).Run)
	part("reconcile BFD sessions", (&state.Reconciler[state.BFDSession]{DB: db, Writer: writer, Table: db.BFDSessions, Log: log,
		Target: bfdSpeaker, Gate: decide.decided(db.BFDSessions.Name())}).Run)
	// It speaks until all else has ended: a router that misses it before the BGP
	// sessions close ends them, and forgets the routes.
	bfdCtx, endBFD := context.WithCancel(context.WithoutCancel(ctx))
	defer endBFD()
	last, lastCtx := errgroup.WithContext(bfdCtx)
	last.Go(func() error { return bfdSpeaker.Run(lastCtx) })
	context.AfterFunc(lastCtx, stop)
	bgpSpeaker := bgp.New(log)
	part("speak BGP", (&bgp.Target{DB: db, Writer: writer, Log: log, Decided: decide.decided(db.BGPRoutes.Name()), Speaker: bgpSpeaker}).Run)
	observe := newObserver(kern, maps, frontends, db, node.observe, log)
	addresses := newAnnounceMetrics(db, node.name, announcer)
	observe.metrics.more = []prometheus.Collector{ipamMetrics{db}, addresses, bfdMetrics{db, bfdSpeaker.Counts}, bgpMetrics{db}}
	part("count addresses", addresses.taken.run)
	part("observe", observe.run)
	part("keep next hops", func(ctx context.Context) error { return hops.Run(ctx, frontends.RewriteNextHops) })
	part("watch claims", func(ctx context.Context) error {
		return kern.WatchClaims(ctx, func(c kernel.Claim) {
			announcer.Heard(announce.Claim{Addr: c.Addr, Ifindex: c.Ifindex, MAC: c.MAC, At: c.At, Muted: c.Muted})
		})
	})
	part("announce", announcer.Run)
	part("tell news", tell.node)
	if node.mode == modeLB {
		writer.Update(db.Endpoints.MarkSynced) // it has no pods
	} else {
		part("serve CNI", (&pod.Server{DB: db, Writer: writer, Log: log, Node: node.name,
			Socket: node.cniSocket(), StateDir: node.stateDir}).Run)
	}
	status := reporter{db: db, node: node.name, started: started, engine: engine, announcer: announcer, kern: kern, beside: others}
	part("serve control socket", (&control.Server{Socket: node.controlSocket(), Log: log,
		Objects: src.Objects(), DB: db, Status: status.status, DumpLB: observe.lists.dump,
		Drain: drainer{src, announcer.Inputs, log}.drain, Explain: explainer{db, announcer.Inputs}.explain,
		Maglev: maglevReader{maps, db}.read, List: observe.lists.list, Counts: observe.counter.counts, BGPPaths: decide.bgpPaths(bgpSpeaker), ExplainAdvertisement: decide.explainAdvertisement, Monitor: observe.monitor.packets}).Run)

	log.Info("seamarkd runs", "mode", node.mode, "node", node.name, "address", outside.addrs[0], "store", store.engine)
	err = group.Wait()
	cancel()
	err = errors.Join(err, below.Wait())
	endBFD()
	return errors.Join(err, last.Wait())
}

// responder lends the datapath's Responder to package announce, whose words
// for the same things are its own: siblings do not know each other.
type responder struct{ *datapath.Responder }

func (r responder) Held() ([]announce.Held, error) {
	held, err := r.Responder.Held()
	if err != nil {
		return nil, err
	}
	converted := make([]announce.Held, len(held))
	for i, h := range held {
		converted[i] = announce.Held(h)
	}
	return converted, nil
}

var _ announce.Responder = responder{}
