// Package etcd is the standalone engine of package source: Kubernetes-shaped
// objects in etcd, either one that exists or the one that Server embeds in the
// daemon.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Source is a source.Source over etcd. Everything but Run may be used without
// Run, and every call ends within Config.RequestTimeout of the store's last
// sign of life.
type Source struct {
	store       store
	db          *state.DB
	writer      *state.Writer
	tables      tables
	log         *slog.Logger
	assignments *source.Assignments
	lease       nodeLease

	// What Run has seen: the revision up to which the tables are right (0:
	// list first), and which store that was.
	revision int64
	identity string

	fresh *source.Freshness
	mu    sync.Mutex
	err   error // why the store could last not be followed
	// renewed holds a token when this node's lease was renewed: time to look
	// whether the tables are as new.
	renewed chan struct{}
}

// LastRead implements source.Source. It moves on within CheckInterval, and at
// once when this node's lease is renewed.
func (s *Source) LastRead() time.Duration { return s.fresh.LastRead() }

// Err is why the store could last not be followed, nil when it is.
func (s *Source) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Source) setErr(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

var _ source.Source = (*Source)(nil)

// New returns a Source that has not talked to the store yet. It reads the
// files that cfg names; errors name the flag.
func New(cfg Config, db *state.DB, w *state.Writer, log *slog.Logger) (*Source, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	conn, err := newConnection(cfg, log)
	if err != nil {
		return nil, err
	}
	st := store{conn}
	return &Source{
		store:       st,
		db:          db,
		writer:      w,
		tables:      tables{source.NewTables(db, log), st},
		log:         log,
		assignments: source.NewAssignments(sliceStore{st}),
		lease:       nodeLease{store: st, mu: new(sync.Mutex)},
		fresh:       &source.Freshness{},
		renewed:     make(chan struct{}, 1),
	}, nil
}

// CatchUp implements source.Source.
func (s *Source) CatchUp(ctx context.Context) error {
	const look = 50 * time.Millisecond
	for called := source.Boottime(); s.LastRead() <= called; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(look):
		}
	}
	return nil
}

// Event implements source.Source: the store keeps no events, the log does.
func (s *Source) Event(e source.Event) {
	level := slog.LevelInfo
	if e.Warning {
		level = slog.LevelWarn
	}
	s.log.Log(context.Background(), level, e.Message, "object", e.Object.String(), "reason", e.Reason, "action", e.Action)
}

// Close ends the connection to the store.
func (s *Source) Close() error { return s.store.close() }

// Check asks the store for an answer, and says what is wrong when none comes.
func (s *Source) Check(ctx context.Context) error {
	_, err := s.readIdentity(ctx)
	return err
}

// RenewLease implements source.Source. lease.Renewal is not read.
func (s *Source) RenewLease(ctx context.Context, lease state.NodeLease) error {
	if err := s.lease.renew(ctx, lease, time.Now()); err != nil {
		return err
	}
	select {
	case s.renewed <- struct{}{}:
	default:
	}
	return nil
}

// SetDrained implements source.Source.
func (s *Source) SetDrained(ctx context.Context, node string, drained bool) error {
	return setDrained(ctx, s.store, node, drained, time.Now())
}

// ForgetLease implements source.Source.
func (s *Source) ForgetLease(ctx context.Context, row state.NodeLease) error {
	lease, err := readLease(ctx, s.store, row.Node)
	if err == nil && source.IsNodeLease(lease, row) {
		err = s.store.remove(ctx, source.KindLease(), source.Namespace, row.Node, revisionOf(lease))
	}
	if err == nil || isNotFound(err) || isConflict(err) {
		return nil // it is gone, or somebody lives
	}
	return fmt.Errorf("delete lease of node %s: %w", row.Node, err)
}

// Lock implements source.Source.
func (s *Source) Lock(name, identity string) resourcelock.Interface {
	return &lock{store: s.store, name: name, identity: identity, log: s.log}
}

// Allocations implements source.Source.
func (s *Source) Allocations() state.Target[state.Allocation] { return allocations{s.store, s.db} }

// PoolStatuses implements source.Source.
func (s *Source) PoolStatuses() state.Target[state.PoolStatus] {
	return statuses[state.PoolStatus]{store: s.store, change: func(row state.PoolStatus) (source.StatusChange, bool) {
		return source.PoolStatusChange(s.db, s.db.Snapshot(), row)
	}}
}

// PolicyStatuses implements source.Source.
func (s *Source) PolicyStatuses() state.Target[state.PolicyStatus] {
	return statuses[state.PolicyStatus]{store: s.store, change: func(row state.PolicyStatus) (source.StatusChange, bool) {
		return source.PolicyStatusChange(s.db, s.db.Snapshot(), row)
	}}
}

// ObjectStatuses implements source.Source.
func (s *Source) ObjectStatuses() state.Target[state.ObjectStatus] {
	return statuses[state.ObjectStatus]{store: s.store, change: source.ObjectStatusChange,
		absent: func(row state.ObjectStatus) (source.StatusChange, bool) {
			row.Problem, row.InForce = "", false
			return source.ObjectStatusChange(row)
		}}
}

// AnnouncedStatuses implements source.Source.
func (s *Source) AnnouncedStatuses() state.Target[state.AnnouncedStatus] {
	return statuses[state.AnnouncedStatus]{store: s.store, change: func(row state.AnnouncedStatus) (source.StatusChange, bool) {
		return source.AnnouncedStatusChange(s.db, s.db.Snapshot(), row)
	}}
}

// BGPPeerStatuses implements source.Source.
func (s *Source) BGPPeerStatuses() state.Target[state.BGPPeerStatus] {
	return statuses[state.BGPPeerStatus]{store: s.store, change: func(row state.BGPPeerStatus) (source.StatusChange, bool) {
		return source.BGPPeerStatusChange(s.db, s.db.Snapshot(), row)
	}}
}

// Assignments implements source.Source; the target is a state.Batcher.
func (s *Source) Assignments() state.Target[state.Assignment] { return s.assignments }

// Objects implements source.Source.
func (s *Source) Objects() source.Objects { return objects{s.store} }

// errReplaced: the store is not the one that the tables are of.
var errReplaced = errors.New("the store was replaced or set back")

// Run implements source.Source. It returns nil when ctx ends.
func (s *Source) Run(ctx context.Context) error {
	wait := time.Duration(0)
	reachable := true
	for {
		started := time.Now()
		err := s.follow(ctx, func() {
			if !reachable {
				s.log.Info("store answers again", "endpoints", s.store.cfg.Endpoints)
			}
			reachable = true
		})
		if ctx.Err() != nil {
			return nil
		}
		s.setErr(err)
		switch {
		case errors.Is(err, rpctypes.ErrCompacted), errors.Is(err, errReplaced):
			s.log.Info("list the store anew", "err", err)
			s.revision = 0
		case reachable:
			// Said once: it may take long.
			s.log.Warn("follow store; what is known stays in force until it answers", "err", err)
			reachable = false
		}
		if time.Since(started) > 10*time.Second {
			wait = 0
		}
		wait = min(max(2*wait, 100*time.Millisecond), max(s.store.cfg.CheckInterval, 100*time.Millisecond))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait/2)): // jitter: all nodes lose the store at once
		}
	}
}

// follow lists if it must, then watches until the watch breaks. up is called
// when the store has answered.
func (s *Source) follow(ctx context.Context, up func()) error {
	now, err := s.readIdentity(ctx)
	if err != nil {
		return err
	}
	if now.identity == "" {
		if now, err = s.createIdentity(ctx); err != nil {
			return err
		}
	}
	if now.identity != s.identity || now.revision < s.revision {
		s.revision, s.identity = 0, now.identity
	}
	if s.revision == 0 {
		s.fresh.Replaced()
		sent := source.Boottime()
		kvs, revision, err := s.store.list(ctx, s.store.cfg.Prefix+"/")
		if err != nil {
			return err
		}
		s.writer.Update(func(tx *state.Tx) {
			s.tables.replace(tx, kvs)
			// The store knows of nobody else's programs.
			s.db.Agents.MarkSynced(tx)
		})
		s.revision = revision
		s.fresh.Answered(revision, sent)
		s.fresh.Reached(revision)
	}
	s.setErr(nil)
	up()

	client, err := s.store.client(ctx)
	if err != nil {
		return s.store.explain(err)
	}
	session, stop := context.WithCancelCause(ctx)
	var checker sync.WaitGroup
	defer checker.Wait()
	defer stop(nil)
	since := now
	// A member that has lost its cluster must not leave us waiting: RequireLeader.
	watching := clientv3.WithRequireLeader(session)
	checker.Go(func() { s.check(watching, stop, client, since) })
	watch := client.Watch(watching, s.store.cfg.Prefix+"/", clientv3.WithPrefix(),
		clientv3.WithRev(s.revision+1), clientv3.WithProgressNotify())
	for resp := range watch {
		if err := resp.Err(); err != nil {
			return fmt.Errorf("watch store: %w", err)
		}
		if n := len(resp.Events); n > 0 {
			s.writer.Update(func(tx *state.Tx) { s.tables.apply(tx, resp.Events) })
			// Not the header's: while a watch catches up, that is ahead of the events.
			s.revision = resp.Events[n-1].Kv.ModRevision
		} else if resp.IsProgressNotify() {
			s.revision = max(s.revision, resp.Header.Revision)
		}
		s.fresh.Reached(s.revision)
	}
	if cause := context.Cause(session); cause != nil {
		return cause
	}
	return errors.New("watch store: the watch was closed")
}

// check looks from time to time whether the store answers, how new the tables
// are, and whether the store is still the one that is watched: a watch on one
// that was wiped waits for a revision that comes much later. It ends the
// session when it is not. since is the store at the session's beginning.
func (s *Source) check(ctx context.Context, stop context.CancelCauseFunc, client *clientv3.Client, since standing) {
	reachable := true
	ticker := time.NewTicker(s.store.cfg.CheckInterval)
	defer ticker.Stop()
	for {
		sent := source.Boottime()
		now, err := s.readIdentity(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && reachable:
			s.log.Warn("reach store; what is known stays in force until it answers", "err", err)
			reachable = false
		case err == nil && !reachable:
			s.log.Info("store answers again", "endpoints", s.store.cfg.Endpoints)
			reachable = true
		}
		s.setErr(err)
		if err == nil {
			if now.identity != since.identity || now.revision < since.revision {
				stop(errReplaced)
				return
			}
			if s.fresh.Answered(now.revision, sent) {
				// The revision may be of a key that is not watched: let the watch
				// say how far it is. An error means that it has broken, which
				// follow sees.
				_ = client.RequestProgress(ctx)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.renewed:
		}
	}
}

// standing is which store it is, and where it stands.
type standing struct {
	identity string // "": it has none yet
	revision int64
}

// identityKey holds a random value, made once for each store.
func (s *Source) identityKey() string { return s.store.cfg.Prefix + "/.identity" }

func (s *Source) readIdentity(ctx context.Context) (now standing, err error) {
	err = s.store.do(ctx, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Get(ctx, s.identityKey())
		if err != nil {
			return err
		}
		now.revision = resp.Header.Revision
		if len(resp.Kvs) > 0 {
			now.identity = string(resp.Kvs[0].Value)
		}
		return nil
	})
	return now, err
}

// createIdentity returns the identity of whoever was first.
func (s *Source) createIdentity(ctx context.Context) (standing, error) {
	identity := string(uuid.NewUUID())
	_, err := s.store.commit(ctx, s.identityKey(), 0, clientv3.OpPut(s.identityKey(), identity))
	if err != nil && !isConflict(err) {
		return standing{}, err
	}
	return s.readIdentity(ctx)
}

// objectKey cuts the prefix of a kind from a key; ok is false for keys of other kinds.
func objectKey(kindPrefix string, kv *mvccpb.KeyValue) (string, bool) {
	return strings.CutPrefix(string(kv.Key), kindPrefix)
}
