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
	"sync/atomic"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/util/uuid"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Source is a source.Source over etcd. Everything but Run may be used without
// Run, and every call ends within Config.RequestTimeout of the store's last
// sign of life.
type Source struct {
	store       store
	db          *state.DB
	writer      *state.Writer
	log         *slog.Logger
	assignments *assignments
	lease       nodeLease

	// What Run has seen: the revision up to which the tables are right (0:
	// list first), and which store that was.
	revision int64
	identity string

	health health
}

// health is what is known of the store's answers.
type health struct {
	lastRead atomic.Int64 // CLOCK_BOOTTIME, ns
	mu       sync.Mutex
	err      error
}

// read notes that the tables are now as the store is.
func (h *health) read() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err == nil {
		h.lastRead.Store(now.Nano())
	}
	h.set(nil)
}

func (h *health) set(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

// LastRead implements source.Source. Every node's lease is renewed through
// the store, so what the watch brings is never older than a renewal while the
// store answers.
func (s *Source) LastRead() time.Duration { return time.Duration(s.health.lastRead.Load()) }

// Err is why the store could last not be followed, nil when it is.
func (s *Source) Err() error {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	return s.health.err
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
		log:         log,
		assignments: &assignments{store: st, mu: make(chan struct{}, 1)},
		lease:       nodeLease{store: st, mu: new(sync.Mutex)},
	}, nil
}

// Close ends the connection to the store.
func (s *Source) Close() error { return s.store.close() }

// Check asks the store for an answer, and says what is wrong when none comes.
func (s *Source) Check(ctx context.Context) error {
	_, _, err := s.readIdentity(ctx)
	return err
}

// RenewLease implements source.Source. lease.Renewal is not read.
func (s *Source) RenewLease(ctx context.Context, lease state.NodeLease) error {
	return s.lease.renew(ctx, lease, time.Now())
}

// Lock implements source.Source.
func (s *Source) Lock(name, identity string) resourcelock.Interface {
	return &lock{store: s.store, name: name, identity: identity, log: s.log}
}

// Allocations implements source.Source.
func (s *Source) Allocations() state.Target[state.Allocation] { return allocations{s.store} }

// PoolStatuses implements source.Source.
func (s *Source) PoolStatuses() state.Target[state.PoolStatus] { return poolStatuses{s.store} }

// Assignments implements source.Source; the target is a state.Batcher.
func (s *Source) Assignments() state.Target[state.Assignment] { return s.assignments }

// Objects implements source.Source.
func (s *Source) Objects() source.Objects { return objects{s.store} }

// errReplaced: the store is not the one that the tables are of.
var errReplaced = errors.New("the store was replaced or set back")

// Run implements source.Source. It returns nil when ctx ends.
func (s *Source) Run(ctx context.Context) error {
	tables := newTables(s.store, s.db, s.log)
	wait := time.Duration(0)
	reachable := true
	for {
		started := time.Now()
		err := s.follow(ctx, tables, func() {
			if !reachable {
				s.log.Info("store answers again", "endpoints", s.store.cfg.Endpoints)
			}
			reachable = true
		})
		if ctx.Err() != nil {
			return nil
		}
		s.health.set(err)
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
		wait = min(max(2*wait, 100*time.Millisecond), 5*time.Second)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait/2)): // jitter: all nodes lose the store at once
		}
	}
}

// follow lists if it must, then watches until the watch breaks. up is called
// when the store has answered.
func (s *Source) follow(ctx context.Context, tables *tables, up func()) error {
	identity, revision, err := s.readIdentity(ctx)
	if err != nil {
		return err
	}
	if identity == "" {
		if identity, err = s.createIdentity(ctx); err != nil {
			return err
		}
	}
	if identity != s.identity || revision < s.revision {
		s.revision, s.identity = 0, identity
	}
	if s.revision == 0 {
		kvs, at, err := s.store.list(ctx, s.store.cfg.Prefix+"/")
		if err != nil {
			return err
		}
		s.writer.Update(func(tx *state.Tx) { tables.replace(tx, kvs) })
		s.revision = at
		s.health.read()
	}
	up()

	client, err := s.store.client(ctx)
	if err != nil {
		return s.store.explain(err)
	}
	session, stop := context.WithCancelCause(ctx)
	var checker sync.WaitGroup
	defer checker.Wait()
	defer stop(nil)
	since := s.revision
	checker.Go(func() { s.check(session, stop, identity, since) })
	// A member that has lost its cluster must not leave us waiting: RequireLeader.
	watch := client.Watch(clientv3.WithRequireLeader(session), s.store.cfg.Prefix+"/", clientv3.WithPrefix(),
		clientv3.WithRev(s.revision+1), clientv3.WithProgressNotify())
	for resp := range watch {
		if err := resp.Err(); err != nil {
			return fmt.Errorf("watch store: %w", err)
		}
		if n := len(resp.Events); n > 0 {
			s.writer.Update(func(tx *state.Tx) { tables.apply(tx, resp.Events) })
			// Not the header's: while a watch catches up, that is ahead of the events.
			s.revision = resp.Events[n-1].Kv.ModRevision
		} else if resp.IsProgressNotify() {
			s.revision = max(s.revision, resp.Header.Revision)
		}
		s.health.read()
	}
	if cause := context.Cause(session); cause != nil {
		return cause
	}
	return errors.New("watch store: the watch was closed")
}

// check looks from time to time whether the store answers, and whether it is
// still the one that is watched: a watch on one that was wiped waits for a
// revision that comes much later. It ends the session when it is not. since
// is the revision at the session's beginning.
func (s *Source) check(ctx context.Context, stop context.CancelCauseFunc, identity string, since int64) {
	reachable := true
	ticker := time.NewTicker(s.store.cfg.CheckInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		found, revision, err := s.readIdentity(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && reachable:
			s.log.Warn("reach store; what is known stays in force until it answers", "err", err)
			s.health.set(err)
			reachable = false
		case err == nil && !reachable:
			s.log.Info("store answers again", "endpoints", s.store.cfg.Endpoints)
			reachable = true
		}
		if err == nil && (found != identity || revision < since) {
			stop(errReplaced)
			return
		}
	}
}

// identityKey holds a random value, made once for each store.
func (s *Source) identityKey() string { return s.store.cfg.Prefix + "/.identity" }

// readIdentity returns "" when the store has none yet, and the store's revision.
func (s *Source) readIdentity(ctx context.Context) (identity string, revision int64, err error) {
	err = s.store.do(ctx, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Get(ctx, s.identityKey())
		if err != nil {
			return err
		}
		revision = resp.Header.Revision
		if len(resp.Kvs) > 0 {
			identity = string(resp.Kvs[0].Value)
		}
		return nil
	})
	return identity, revision, err
}

// createIdentity returns the identity of whoever was first.
func (s *Source) createIdentity(ctx context.Context) (string, error) {
	identity := string(uuid.NewUUID())
	_, err := s.store.commit(ctx, s.identityKey(), 0, clientv3.OpPut(s.identityKey(), identity))
	if isConflict(err) {
		identity, _, err = s.readIdentity(ctx)
	}
	return identity, err
}

// objectKey cuts the prefix of a kind from a key; ok is false for keys of other kinds.
func objectKey(kindPrefix string, kv *mvccpb.KeyValue) (string, bool) {
	return strings.CutPrefix(string(kv.Key), kindPrefix)
}
