package collect

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Collector walks tables, one after another, again and again.
type Collector struct {
	Tables   []Table
	Timeouts Timeouts
	// Now is the datapath's clock; the function Now, but for tests.
	Now func() uint32
	// Refused counts the flows that found no room or no port to be translated
	// from, or may be nil: when it grows, the next pass begins at once, and takes
	// both for scarce.
	Refused func() (uint64, error)
	Log     *slog.Logger

	mu     sync.Mutex
	report Report
}

// Report is what the last pass found.
type Report struct {
	At     time.Time // of its end; zero: there was none yet
	Took   time.Duration
	Passes uint64
	Tables []TableReport
	Flows  Flows
}

// TableReport is one table, as one pass left it.
type TableReport struct {
	Name    string // as in bpf/maps.h; the maps of IPv6 end in 6
	Entries Size
	Size    Size
	Removed uint64 // by all passes
	Took    time.Duration
	evicts  bool
}

// Fill is how full the fuller one of the table's two maps is, from 0 to 1.
func (t TableReport) Fill() float64 { return t.Entries.fill(t.Size) }

func (s Size) fill(room Size) float64 { return max(part(s.IPv4, room.IPv4), part(s.IPv6, room.IPv6)) }

func part(entries, size uint32) float64 {
	if size == 0 {
		return 0
	}
	return float64(entries) / float64(size)
}

// Report returns what the last pass found. It is not to be changed.
func (c *Collector) Report() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report
}

// Run walks until ctx ends. What goes wrong with one table is logged, and does
// not keep the others.
func (c *Collector) Run(ctx context.Context) error {
	for short := false; ctx.Err() == nil; {
		before := c.refused()
		c.Pass(ctx, short)
		short = c.pause(ctx, before)
	}
	return nil
}

// Pass walks every table once. short: flows were refused since the last one.
func (c *Collector) Pass(ctx context.Context, short bool) {
	last, began := c.Report(), time.Now()
	next := Report{
		Passes: last.Passes + 1,
		Flows:  Flows{map[Place]uint64{}, map[Place]uint64{}},
	}
	for i, t := range c.Tables {
		is := t.about()
		r := TableReport{Name: is.name, Size: is.size, evicts: is.evicts}
		if last.Passes > 0 {
			r.Removed, r.Entries = last.Tables[i].Removed, last.Tables[i].Entries
		}
		start := time.Now()
		w := &walk{profile: is, ctx: ctx, now: c.Now(), timeouts: c.Timeouts, fill: last.fill(), step: start,
			flows: Flows{map[Place]uint64{}, map[Place]uint64{}}}
		switch {
		case is.ports && short:
			w.timeouts, w.fill = c.Timeouts.At(1), 1
		case !is.evicts:
			w.timeouts = c.Timeouts.At(r.Fill())
		}
		switch err := t.walk(w); {
		case ctx.Err() != nil:
			return // what was counted is not all
		case err != nil:
			c.Log.Warn("collect what is over", "table", is.name, "err", err) // the next pass tries again
		default:
			r.Entries = w.entries
			next.Flows.add(w.flows)
		}
		r.Removed += w.removed
		r.Took = time.Since(start)
		next.Tables = append(next.Tables, r)
	}
	next.At, next.Took = time.Now(), time.Since(began)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report = next
}

func (f Flows) add(g Flows) {
	for place, n := range g.Frontends {
		f.Frontends[place] += n
	}
	for place, n := range g.Backends {
		f.Backends[place] += n
	}
}

// fill is that of the fullest table whose fill presses anybody.
func (r Report) fill() (fill float64) {
	for _, t := range r.Tables {
		if !t.evicts {
			fill = max(fill, t.Fill())
		}
	}
	return fill
}

// pause waits for the next pass to be due, or for ctx to end. It says whether
// more flows were refused than before.
func (c *Collector) pause(ctx context.Context, before uint64) bool {
	due := time.After(Pause(c.Report().fill()))
	look := time.NewTicker(fastest)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-due:
			return false
		case <-look.C:
			if c.refused() > before {
				return true
			}
		}
	}
}

// refused is 0 when it is not known.
func (c *Collector) refused() uint64 {
	if c.Refused == nil {
		return 0
	}
	n, err := c.Refused()
	if err != nil {
		return 0
	}
	return n
}
