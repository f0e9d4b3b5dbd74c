// Package kube is the engine of package source for Kubernetes: the objects of
// an API server, followed by client-go's reflectors, and statuses written back
// by server-side apply under the field manager "seamark".
package kube

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// fieldManager is who writes, in managedFields.
const fieldManager = "seamark"

// Source is a source.Source over an API server. Everything but Run may be used
// without Run.
type Source struct {
	cfg     Config
	clients *clients
	db      *state.DB
	writer  *state.Writer
	tables  *source.Tables
	log     *slog.Logger
	outages *outages
	crds    *crds
	events  *events

	lease nodeLease
	// leases tells how new the tables of leases are, trust what that says of
	// the AnnouncementSlices.
	leases *source.Freshness
	trust  *trust

	allocations *allocations
	pools       *statuses[state.PoolStatus]
	policies    *statuses[state.PolicyStatus]
	objects     *statuses[state.ObjectStatus]
	peers       *statuses[state.BGPPeerStatus]
	assignments *source.Assignments

	mu    sync.Mutex
	feeds map[string]*feed // that run, by feed.name
}

var _ source.Source = (*Source)(nil)

// New returns a Source that has not talked to the API server yet. Errors name
// the flag.
func New(cfg Config, db *state.DB, w *state.Writer, log *slog.Logger) (*Source, error) {
	cfg = cfg.withDefaults()
	c, err := newClients(cfg)
	if err != nil {
		return nil, err
	}
	s := &Source{
		cfg: cfg, clients: c, db: db, writer: w, tables: source.NewTables(db, log), log: log,
		lease:  nodeLease{client: c.urgent.CoordinationV1().Leases(source.Namespace)},
		leases: &source.Freshness{},
		trust:  newTrust(5 * cfg.LeaseRenew / 2),
		crds:   newCRDs(),
		events: newEvents(c.events, db),
		feeds:  map[string]*feed{},
	}
	s.outages = newOutages(
		func(err error) {
			log.Warn("follow API server; what is known stays in force until it answers", "err", err)
		},
		func() { log.Info("API server answers again", "server", c.server) })
	s.allocations = newAllocations(s)
	s.pools = newStatuses(s, func(row state.PoolStatus) (source.StatusChange, bool) {
		return source.PoolStatusChange(db, db.Snapshot(), row)
	}, nil)
	s.policies = newStatuses(s, func(row state.PolicyStatus) (source.StatusChange, bool) {
		return source.PolicyStatusChange(db, db.Snapshot(), row)
	}, nil)
	s.objects = newStatuses(s, source.ObjectStatusChange, func(row state.ObjectStatus) (source.StatusChange, bool) {
		row.Problem, row.InForce = "", false
		return source.ObjectStatusChange(row)
	})
	s.peers = newStatuses(s, func(row state.BGPPeerStatus) (source.StatusChange, bool) {
		return source.BGPPeerStatusChange(db, db.Snapshot(), row)
	}, nil)
	s.assignments = source.NewAssignments(sliceStore{s})
	return s, nil
}

// LastRead implements source.Source. It moves on with each renewal of this
// node's lease: when the watch of leases has brought it, everything before it
// is there.
func (s *Source) LastRead() time.Duration { return s.trust.bound(s.leases.LastRead()) }

// Err is why the API server could last not be followed, nil when it is.
func (s *Source) Err() error { return s.outages.err() }

// Requests is how many requests were sent so far.
func (s *Source) Requests() uint64 { return s.clients.requests.Load() }

// Server is the API server's URL.
func (s *Source) Server() string { return s.clients.server }

// Check asks the API server for an answer, and says what is wrong when none comes.
func (s *Source) Check(ctx context.Context) error {
	bounded, cancel := s.cfg.bounded(ctx)
	defer cancel()
	_, err := s.clients.urgent.CoordinationV1().Leases(source.Namespace).List(bounded, metav1.ListOptions{Limit: 1, ResourceVersion: "0"})
	return s.clients.explain("list", source.KindLease(), causeOf(bounded, err))
}

// Lock implements source.Source.
func (s *Source) Lock(name, identity string) resourcelock.Interface {
	return &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: source.Namespace, Name: name},
		Client:     s.clients.urgent.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
	}
}

// Allocations implements source.Source; the target is a state.Batcher.
func (s *Source) Allocations() state.Target[state.Allocation] { return s.allocations }

// PoolStatuses implements source.Source.
func (s *Source) PoolStatuses() state.Target[state.PoolStatus] { return s.pools }

// PolicyStatuses implements source.Source.
func (s *Source) PolicyStatuses() state.Target[state.PolicyStatus] { return s.policies }

// ObjectStatuses implements source.Source.
func (s *Source) ObjectStatuses() state.Target[state.ObjectStatus] { return s.objects }

// AnnouncedStatuses implements source.Source.
func (s *Source) AnnouncedStatuses() state.Target[state.AnnouncedStatus] { return announced{s} }

// BGPPeerStatuses implements source.Source.
func (s *Source) BGPPeerStatuses() state.Target[state.BGPPeerStatus] { return s.peers }

// Assignments implements source.Source; the target is a state.Batcher.
func (s *Source) Assignments() state.Target[state.Assignment] { return s.assignments }

// Event implements source.Source: an Event of events.k8s.io on the object.
func (s *Source) Event(e source.Event) { s.events.record(e) }

// Objects implements source.Source. They are written with kubectl.
func (s *Source) Objects() source.Objects { return objects{s} }

// Close implements source.Source.
func (s *Source) Close() error {
	s.clients.close()
	return nil
}

// Waits of a kind that cannot be listed or watched.
const (
	patient = 6 * time.Second // half as much again, at random
	// hasty kinds are those that a node's right to announce depends on: no node
	// may be long behind the others when the API server is back.
	hasty = time.Second
)

// Run implements source.Source. It returns nil when ctx ends.
func (s *Source) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for _, kind := range s.tables.Kinds() {
		if !kind.Foreign() && kind.Kind != source.KindSecret().Kind {
			running.Go(func() { s.follow(ctx, s.newFeed(kind)) })
		}
	}
	if s.cfg.IgnoreAgents {
		s.writer.Update(func(tx *state.Tx) { s.db.Agents.MarkSynced(tx) })
	} else {
		for _, f := range s.agentFeeds() {
			running.Go(func() { s.follow(ctx, f) })
		}
	}
	running.Go(func() { s.followCRDs(ctx) })
	running.Go(func() { s.followSecrets(ctx) })
	running.Go(func() { s.verify(ctx) })
	running.Go(func() { s.events.run(ctx) })
	<-ctx.Done()
	return nil
}

// newFeed follows a kind whose objects have rows.
func (s *Source) newFeed(kind source.Kind) *feed {
	f := s.bareFeed(kind.Plural+"."+kind.Group, kind, s.clients.reading(kind), tableSink{s.tables, kind})
	switch kind.Kind {
	case source.KindService().Kind:
		f.into = s.allocations.watching(f.into)
	case source.KindLease().Kind:
		f.maxWait, f.reached, f.setBack = hasty, s.leases.Reached, s.leases.Replaced
	case source.KindAnnouncementSlice().Kind:
		f.maxWait = hasty
		f.turned = func(on bool) { s.trust.turned(on, s.leases.LastRead()) }
	}
	return f
}

func (s *Source) bareFeed(name string, kind source.Kind, lists listWatch, into sink) *feed {
	return &feed{name: name, kind: kind, lists: lists, into: into, writer: s.writer, maxWait: patient,
		held:   map[string]int64{},
		failed: func(err error) { s.outages.set(name, s.clients.explain("follow", kind, err)) }}
}

// agentFeeds follow the DaemonSets and Deployments that other projects label as theirs.
func (s *Source) agentFeeds() []*feed {
	found := &agents{db: s.db, tables: s.tables, of: map[string]map[string][]state.Agent{}, waiting: map[string]bool{}}
	var feeds []*feed
	for _, kind := range []source.Kind{
		{Group: "apps", Version: "v1", Kind: "DaemonSet", Plural: "daemonsets", Namespaced: true},
		{Group: "apps", Version: "v1", Kind: "Deployment", Plural: "deployments", Namespaced: true},
	} {
		for _, label := range agentLabels() {
			name := kind.Plural + " by " + label
			found.waiting[name] = true
			feeds = append(feeds, s.bareFeed(name, kind, s.clients.reading(kind).selecting(agentSelector(label)), agentSink{found, name}))
		}
	}
	return feeds
}

// follow runs the feed until ctx ends.
func (s *Source) follow(ctx context.Context, f *feed) {
	s.mu.Lock()
	s.feeds[f.name] = f
	s.mu.Unlock()
	f.run(ctx)
	s.mu.Lock()
	delete(s.feeds, f.name)
	s.mu.Unlock()
}

// feed of a kind, nil when none runs.
func (s *Source) feed(kind source.Kind) *feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.feeds[kind.Plural+"."+kind.Group]
}

func (s *Source) allFeeds() []*feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*feed, 0, len(s.feeds))
	for _, f := range s.feeds {
		all = append(all, f)
	}
	return all
}

// version of an object that the tables hold, 0 when they hold none of it.
func (s *Source) version(kind source.Kind, name string) int64 {
	if f := s.feed(kind); f != nil {
		return f.version(name)
	}
	return 0
}

// tableSink makes rows of a kind's objects.
type tableSink struct {
	tables *source.Tables
	kind   source.Kind
}

func (t tableSink) put(tx *state.Tx, name string, obj any) { t.tables.Put(tx, t.kind, name, obj) }

func (t tableSink) remove(tx *state.Tx, name string) { t.tables.Remove(tx, t.kind, name) }

func (t tableSink) replace(tx *state.Tx, objects map[string]any) {
	t.tables.Replace(tx, t.kind, objects)
}
