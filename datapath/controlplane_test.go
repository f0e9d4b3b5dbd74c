package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// BenchmarkControlPlane measures what Services cost before any packet comes, from
// the rows of a source to the maps of the kernel, beside the bars for it.
func BenchmarkControlPlane(b *testing.B) {
	loaded := createMaps(b)
	maps, err := NewKernelMaps(loaded)
	if err != nil {
		b.Fatal(err)
	}
	db, w := tenThousandServices()
	changes := w.Collect(db.EndpointSlices.Name())
	decider := FrontendDecider{DB: db, Node: "n1"}
	target := newTestTarget(maps)
	program := func(rows []state.Frontend) {
		if err := errors.Join(target.UpdateAll(context.Background(), rows)...); err != nil {
			b.Fatal(err)
		}
	}

	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "10,000 Services × 10 backends\tmin\tmedian\tmax\t\tbar\t\t")
	line := func(name, unit string, bar float64, of ...float64) { // bar 0: only printed
		least, beside, met := slices.Min(of), "", ""
		if bar != 0 {
			beside, met = fmt.Sprintf("%.0f", bar), "met"
			if least > bar {
				met = "not met"
			}
		}
		fmt.Fprintf(table, "%s\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s\t\n", name, least, slices.Sorted(slices.Values(of))[len(of)/2], slices.Max(of), unit, beside, met)
	}

	cpu := cpuTime(b)
	rows, _, _ := decider.Decide(db.Snapshot(), nil, true)
	program(rows)
	line(fmt.Sprintf("%d frontends decided and programmed from nothing, CPU", len(rows)), "s", 5, (cpuTime(b) - cpu).Seconds())
	line("memory of the maps and the process", "MiB", 600, float64(memory(b, loaded))/(1<<20))

	slice, _ := db.EndpointSlices.Get(db.Snapshot(), "d/s7")
	var decided, written, both []float64
	for range 11 {
		slice.Endpoints = slices.Clone(slice.Endpoints)
		slice.Endpoints[3].Ready = !slice.Endpoints[3].Ready
		w.Update(func(tx *state.Tx) { db.EndpointSlices.Put(tx, slice) })
		start := time.Now()
		snap, keys := changes.Take()
		changed, _, all := decider.Decide(snap, keys, false)
		if all || len(changed) != 3 {
			b.Fatalf("%d frontends are decided for one backend", len(changed))
		}
		decided = append(decided, milliseconds(time.Since(start)))
		start = time.Now()
		program(changed)
		written = append(written, milliseconds(time.Since(start)))
		both = append(both, decided[len(decided)-1]+written[len(written)-1])
	}
	line("one backend changes: its service's 3 frontends decided", "ms", 0, decided...)
	line("from their rows to the maps", "ms", 0, written...)
	line("from the backend's row to the maps", "ms", 5, both...)

	backends := maglevBackends(1000)
	var builds []float64
	for range 11 {
		start := time.Now()
		MaglevTable(backends, 65521)
		builds = append(builds, milliseconds(time.Since(start)))
	}
	line("Maglev table, 65521 slots of 1,000 backends", "ms", 10, builds...)
	b.ReportMetric(0, "ns/op") // the time of all of it says nothing
	table.Flush()
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
