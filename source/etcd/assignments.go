package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// assignments writes the coordinator's decisions into AnnouncementSlices:
// one write for each slice that changes, however many of its addresses do.
type assignments struct {
	store store
	// mu is held by whoever puts a token in: its waiters can give up.
	mu chan struct{}
	// held is the slices as last read or written, by name; nil: to be read.
	held map[string]v1alpha1.AnnouncementSlice
}

var _ state.Batcher[state.Assignment] = (*assignments)(nil)

// errLaterDecision: another coordinator has decided since.
var errLaterDecision = errors.New("the store holds a later decision, of another coordinator")

func (a *assignments) Update(ctx context.Context, row state.Assignment) error {
	return a.UpdateAll(ctx, []state.Assignment{row})[0]
}

func (a *assignments) Delete(ctx context.Context, row state.Assignment) error {
	return a.DeleteAll(ctx, []state.Assignment{row})[0]
}

func (a *assignments) UpdateAll(ctx context.Context, rows []state.Assignment) []error {
	return errorsOf(rows, a.write(ctx, func([]v1alpha1.AnnouncementSlice) (updates, deletes []state.Assignment) { return rows, nil }))
}

func (a *assignments) DeleteAll(ctx context.Context, rows []state.Assignment) []error {
	return errorsOf(rows, a.write(ctx, func([]v1alpha1.AnnouncementSlice) (updates, deletes []state.Assignment) { return nil, rows }))
}

// Prune removes what the slices really hold of addresses that nobody wants.
func (a *assignments) Prune(ctx context.Context, wanted []state.Assignment) error {
	keep := make(map[netip.Addr]bool, len(wanted))
	for _, row := range wanted {
		keep[row.Addr] = true
	}
	if err := a.reread(ctx); err != nil {
		return err
	}
	failed := a.write(ctx, func(held []v1alpha1.AnnouncementSlice) (updates, deletes []state.Assignment) {
		for _, s := range held {
			rows, _ := source.AssignmentRows(&s)
			for _, row := range rows {
				if !keep[row.Addr] {
					deletes = append(deletes, row)
				}
			}
		}
		return nil, deletes
	})
	if failed.all != nil {
		return failed.all
	}
	return errors.Join(slices.Collect(maps.Values(failed.of))...)
}

// failures of a write: of each address, or of all.
type failures struct {
	all error
	of  map[netip.Addr]error
}

func errorsOf(rows []state.Assignment, f failures) []error {
	errs := make([]error, len(rows))
	for i, row := range rows {
		if errs[i] = f.all; f.all == nil {
			errs[i] = f.of[row.Addr]
		}
	}
	return errs
}

func (a *assignments) lock(ctx context.Context) error {
	select {
	case a.mu <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *assignments) unlock() { <-a.mu }

func (a *assignments) reread(ctx context.Context) error {
	if err := a.lock(ctx); err != nil {
		return err
	}
	defer a.unlock()
	return a.read(ctx)
}

func (a *assignments) read(ctx context.Context) error {
	kvs, _, err := a.store.list(ctx, a.store.kindPrefix(source.KindAnnouncementSlice()))
	if err != nil {
		return err
	}
	held := make(map[string]v1alpha1.AnnouncementSlice, len(kvs))
	for _, kv := range kvs {
		var s v1alpha1.AnnouncementSlice
		if err := json.Unmarshal(kv.Value, &s); err != nil {
			return fmt.Errorf("decode %s: %w", kv.Key, err)
		}
		s.ResourceVersion = strconv.FormatInt(kv.ModRevision, 10)
		held[s.Name] = s
	}
	a.held = held
	return nil
}

// write brings the slices in line with what changes asks for. When a slice
// was written by someone else since it was read, all are read again and the
// changes worked out anew.
func (a *assignments) write(ctx context.Context, changes func(held []v1alpha1.AnnouncementSlice) (updates, deletes []state.Assignment)) failures {
	if err := a.lock(ctx); err != nil {
		return failures{all: err}
	}
	defer a.unlock()
	var failed failures
	err := retryConflicts(ctx, func() error {
		if a.held == nil {
			if err := a.read(ctx); err != nil {
				return err
			}
		}
		held := slices.Collect(maps.Values(a.held))
		updates, deletes := changes(held)
		packing := source.Pack(held, updates, deletes)
		failed = failures{of: map[netip.Addr]error{}}
		for addr, by := range packing.Refused {
			failed.of[addr] = fmt.Errorf("assign %s: %w (generation %d, node %s)", addr, errLaterDecision, by.Generation, by.Node)
		}
		ofSlice := a.writeSlices(ctx, packing.Changed)
		for addr, name := range packing.SliceOf {
			if err := ofSlice[name]; err != nil {
				failed.of[addr] = err
			}
		}
		for _, err := range ofSlice {
			a.held = nil // whether a write that failed was made is not known
			if isConflict(err) {
				return err
			}
		}
		return nil
	})
	if err != nil && !isConflict(err) {
		return failures{all: err}
	}
	return failed
}

// concurrentWrites of slices: the store commits several in one disk write.
const concurrentWrites = 8

// writeSlices returns the errors by the slice's name, and takes into held
// what went well.
func (a *assignments) writeSlices(ctx context.Context, changed []v1alpha1.AnnouncementSlice) map[string]error {
	var mu sync.Mutex
	failed := map[string]error{}
	var writers sync.WaitGroup
	turn := make(chan struct{}, concurrentWrites)
	for _, s := range changed {
		turn <- struct{}{}
		writers.Go(func() {
			defer func() { <-turn }()
			written, err := a.writeSlice(ctx, s)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				failed[s.Name] = err
			case len(s.Announcements) == 0:
				delete(a.held, s.Name)
			default:
				a.held[s.Name] = written
			}
		})
	}
	writers.Wait()
	return failed
}

func (a *assignments) writeSlice(ctx context.Context, s v1alpha1.AnnouncementSlice) (v1alpha1.AnnouncementSlice, error) {
	kind := source.KindAnnouncementSlice()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&s)
	if err != nil {
		return s, fmt.Errorf("encode %s %s: %w", kind.Kind, s.Name, err)
	}
	obj := &unstructured.Unstructured{Object: content}
	revision := revisionOf(obj)
	if len(s.Announcements) == 0 {
		return s, a.store.remove(ctx, kind, "", s.Name, revision)
	}
	if revision == 0 {
		initMetadata(obj, time.Now())
	} else {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	revision, err = a.store.put(ctx, kind, obj, revision)
	if err != nil {
		return s, err
	}
	s.UID, s.CreationTimestamp, s.Generation = obj.GetUID(), obj.GetCreationTimestamp(), obj.GetGeneration()
	s.ResourceVersion = strconv.FormatInt(revision, 10)
	return s, nil
}
