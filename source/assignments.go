package source

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
)

// SliceStore is where an engine keeps AnnouncementSlices.
type SliceStore interface {
	List(ctx context.Context) ([]v1alpha1.AnnouncementSlice, error)
	// Write writes the slice if it is still at its resourceVersion ("": absent)
	// and returns it as written, or ErrConflict.
	Write(ctx context.Context, s v1alpha1.AnnouncementSlice) (v1alpha1.AnnouncementSlice, error)
	// Delete deletes the slice if it is still at its resourceVersion.
	Delete(ctx context.Context, s v1alpha1.AnnouncementSlice) error
}

// Assignments writes the coordinator's decisions into AnnouncementSlices: one
// write for each slice that changes, however many of its addresses do.
type Assignments struct {
	store SliceStore
	// mu is held by whoever puts a token in: its waiters can give up.
	mu chan struct{}
	// held is the slices as last read or written, by name; nil: to be read.
	held map[string]v1alpha1.AnnouncementSlice
}

var _ state.Batcher[state.Assignment] = (*Assignments)(nil)

// NewAssignments returns a target that writes into store.
func NewAssignments(store SliceStore) *Assignments {
	return &Assignments{store: store, mu: make(chan struct{}, 1)}
}

// errLaterDecision: another coordinator has decided since.
var errLaterDecision = errors.New("the store holds a later decision, of another coordinator")

// Update implements state.Target.
func (a *Assignments) Update(ctx context.Context, row state.Assignment) error {
	return a.UpdateAll(ctx, []state.Assignment{row})[0]
}

// Delete implements state.Target.
func (a *Assignments) Delete(ctx context.Context, row state.Assignment) error {
	return a.DeleteAll(ctx, []state.Assignment{row})[0]
}

// UpdateAll implements state.Batcher.
func (a *Assignments) UpdateAll(ctx context.Context, rows []state.Assignment) []error {
	return errorsOf(rows, a.write(ctx, func([]v1alpha1.AnnouncementSlice) (updates, deletes []state.Assignment) { return rows, nil }))
}

// DeleteAll implements state.Batcher.
func (a *Assignments) DeleteAll(ctx context.Context, rows []state.Assignment) []error {
	return errorsOf(rows, a.write(ctx, func([]v1alpha1.AnnouncementSlice) (updates, deletes []state.Assignment) { return nil, rows }))
}

// Prune removes what the slices really hold of addresses that nobody wants.
func (a *Assignments) Prune(ctx context.Context, wanted []state.Assignment) error {
	keep := make(map[netip.Addr]bool, len(wanted))
	for _, row := range wanted {
		keep[row.Addr] = true
	}
	if err := a.reread(ctx); err != nil {
		return err
	}
	failed := a.write(ctx, func(held []v1alpha1.AnnouncementSlice) (updates, deletes []state.Assignment) {
		for _, s := range held {
			rows, _ := AssignmentRows(&s)
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

func (a *Assignments) lock(ctx context.Context) error {
	select {
	case a.mu <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *Assignments) unlock() { <-a.mu }

func (a *Assignments) reread(ctx context.Context) error {
	if err := a.lock(ctx); err != nil {
		return err
	}
	defer a.unlock()
	return a.read(ctx)
}

func (a *Assignments) read(ctx context.Context) error {
	all, err := a.store.List(ctx)
	if err != nil {
		return err
	}
	a.held = make(map[string]v1alpha1.AnnouncementSlice, len(all))
	for _, s := range all {
		a.held[s.Name] = s
	}
	return nil
}

// write brings the slices in line with what changes asks for. When a slice
// was written by someone else since it was read, all are read again and the
// changes worked out anew.
func (a *Assignments) write(ctx context.Context, changes func(held []v1alpha1.AnnouncementSlice) (updates, deletes []state.Assignment)) failures {
	if err := a.lock(ctx); err != nil {
		return failures{all: err}
	}
	defer a.unlock()
	var failed failures
	err := RetryConflicts(ctx, func() error {
		if a.held == nil {
			if err := a.read(ctx); err != nil {
				return err
			}
		}
		held := slices.Collect(maps.Values(a.held))
		updates, deletes := changes(held)
		packing := Pack(held, updates, deletes)
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
			if errors.Is(err, ErrConflict) {
				return err
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, ErrConflict) {
		return failures{all: err}
	}
	return failed
}

// concurrentWrites of slices: the store commits several in one disk write.
const concurrentWrites = 8

// writeSlices returns the errors by the slice's name, and takes into held
// what went well.
func (a *Assignments) writeSlices(ctx context.Context, changed []v1alpha1.AnnouncementSlice) map[string]error {
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

func (a *Assignments) writeSlice(ctx context.Context, s v1alpha1.AnnouncementSlice) (v1alpha1.AnnouncementSlice, error) {
	if len(s.Announcements) == 0 {
		return s, a.store.Delete(ctx, s)
	}
	return a.store.Write(ctx, s)
}

// RetryConflicts runs f again while it meets ErrConflict, a few times.
func RetryConflicts(ctx context.Context, f func() error) error {
	var err error
	for try := range 8 {
		if err = f(); !errors.Is(err, ErrConflict) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(time.Millisecond << try)):
		}
	}
	return err
}
