package probe

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// maxAtOnce bounds the checks in flight: a thousand backends that do not answer
// are a thousand sockets otherwise.
const maxAtOnce = 256

// Checked is the mark that is set once every backend that was to be checked when
// the daemon started has been, once, or firstWithin has gone by. Those that were
// down before are known to be by then.
const Checked = "checked/backends"

// firstWithin bounds the wait for first checks: four rounds of maxAtOnce that all
// take the default timeout, and some.
const firstWithin = 15 * time.Second

// Prober is a state.Target: it checks the backends of its rows, each as often as
// its row says, and writes into BackendHealth what it found. The first check of
// a backend begins at once and decides alone; the others are spread over time.
type Prober struct {
	db     *state.DB
	writer *state.Writer
	log    *slog.Logger
	check  func(context.Context, state.Probe) error
	slots  chan struct{}

	mu      sync.Mutex
	probing map[string]*probing // by row key
	// first are the rows of the first Prune that are yet to be checked; nil
	// before it.
	first  map[string]bool
	enough *time.Timer // ends that wait
	wg     sync.WaitGroup
}

// New returns a Prober that checks nothing yet.
func New(db *state.DB, writer *state.Writer, log *slog.Logger) *Prober {
	return &Prober{db: db, writer: writer, log: log, check: newChecker().check, slots: make(chan struct{}, maxAtOnce), probing: map[string]*probing{}}
}

// probing is the checks of one row.
type probing struct {
	row  state.Probe
	stop context.CancelFunc
	verdict
}

// Update begins to check the row's backend, or goes on with another way of it.
func (p *Prober) Update(_ context.Context, row state.Probe) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := row.RowKey()
	was, known := p.probing[key]
	if known && was.row.SameSpec(row) {
		return nil
	}
	ctx, stop := context.WithCancel(context.Background())
	now := &probing{row: row, stop: stop, verdict: verdict{rise: row.Probing.Rise, fall: row.Probing.Fall}}
	if known {
		was.stop()
		now.known, now.up = was.known, was.up
	}
	p.probing[key] = now
	p.wg.Go(func() { p.run(ctx, now) })
	return nil
}

// Delete stops to check the row's backend, and forgets what was found.
func (p *Prober) Delete(_ context.Context, row state.Probe) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(row.RowKey())
	p.markChecked()
	return nil
}

// Prune stops to check what is none of the rows', and forgets what was found of it.
func (p *Prober) Prune(_ context.Context, wanted []state.Probe) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	keep := make(map[string]bool, len(wanted))
	for _, row := range wanted {
		keep[row.RowKey()] = true
	}
	for key := range p.probing {
		if !keep[key] {
			p.forget(key)
		}
	}
	for _, row := range p.db.BackendHealth.Rows(p.db.Snapshot()) {
		if !keep[row.RowKey()] {
			p.forget(row.RowKey())
		}
	}
	if p.first == nil {
		p.first = keep
		p.enough = time.AfterFunc(firstWithin, p.waitNoLonger)
	}
	p.markChecked()
	return nil
}

func (p *Prober) forget(key string) {
	if was, ok := p.probing[key]; ok {
		was.stop()
		delete(p.probing, key)
	}
	delete(p.first, key)
	p.writer.Update(func(tx *state.Tx) { p.db.BackendHealth.Delete(tx, key) })
}

// waitNoLonger gives up waiting for first checks: backends that are many, or slow
// to fail, must not keep a node from serving the others.
func (p *Prober) waitNoLonger() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.first)
	p.markChecked()
}

// markChecked sets the mark Checked when nothing is left to wait for.
func (p *Prober) markChecked() {
	if p.first != nil && len(p.first) == 0 {
		p.writer.Update(func(tx *state.Tx) { tx.Mark(Checked) })
	}
}

// Close ends all checks. What was found stays.
func (p *Prober) Close() {
	p.mu.Lock()
	if p.enough != nil {
		p.enough.Stop()
	}
	for key, running := range p.probing {
		running.stop()
		delete(p.probing, key)
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// run checks one row until ctx ends.
func (p *Prober) run(ctx context.Context, of *probing) {
	interval := of.row.Probing.Interval
	// Backends that a Service got together are not checked together for ever.
	next := time.Duration(rand.Int64N(int64(interval)))
	for {
		began := time.Now()
		if !p.checkOnce(ctx, of) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(next-time.Since(began), 0)):
		}
		next = jittered(interval)
	}
}

// jittered is the interval, give or take a tenth.
func jittered(interval time.Duration) time.Duration {
	tenth := int64(interval / 10)
	return interval - time.Duration(tenth) + time.Duration(rand.Int64N(2*tenth+1))
}

// checkOnce makes a check when there is room for it, and takes in what came of
// it. It is false when ctx has ended meanwhile.
func (p *Prober) checkOnce(ctx context.Context, of *probing) bool {
	select {
	case <-ctx.Done():
		return false
	case p.slots <- struct{}{}:
	}
	timed, cancel := context.WithTimeout(ctx, of.row.Probing.Timeout)
	err := p.check(timed, of.row)
	cancel()
	<-p.slots
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil {
		return false // no word about a row that is gone, or another now
	}
	p.take(of, err)
	return true
}

// take writes down what a check has found, if that is something new.
func (p *Prober) take(of *probing, err error) {
	first := !of.known
	changed := of.take(err == nil)
	row := of.row
	health := state.BackendHealth{Service: row.Service, Addr: row.Addr, Port: row.Port, Up: of.up, Since: time.Now()}
	if err != nil {
		health.Err = err.Error()
	}
	if changed && !(first && of.up) {
		p.log.Info("backend checked", "service", row.Service.String(), "backend", health.Addr, "port", health.Port, "up", health.Up, "err", health.Err)
	}
	p.writer.Update(func(tx *state.Tx) {
		old, ok := p.db.BackendHealth.Get(tx, health.RowKey())
		if ok && old.Up == health.Up {
			health.Since = old.Since
		}
		if !ok || old != health {
			p.db.BackendHealth.Put(tx, health)
		}
	})
	delete(p.first, row.RowKey())
	p.markChecked()
}

// verdict is whether a backend is up, by the results of its checks.
type verdict struct {
	rise, fall int
	known, up  bool
	// against are the results in a row that say otherwise.
	against int
}

// take takes in a result, and says whether the verdict is another now. The
// first result decides alone: there is nothing to hold on to.
func (v *verdict) take(good bool) (changed bool) {
	if v.known && good == v.up {
		v.against = 0
		return false
	}
	v.against++
	need := v.fall
	if good {
		need = v.rise
	}
	if v.known && v.against < need {
		return false
	}
	v.known, v.up, v.against = true, good, 0
	return true
}
