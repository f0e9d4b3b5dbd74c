package outage

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Result is all runs of one fault.
type Result struct {
	Fault string
	Runs  []Run
}

// spread is the least, the middle and the most of values, as "0.1/0.2/0.3".
func spread[T cmp.Ordered](runs []Run, of func(Run) T, text func(T) string) string {
	values := make([]T, len(runs))
	for i, r := range runs {
		values[i] = of(r)
	}
	slices.Sort(values)
	if len(values) == 0 {
		return ""
	}
	return text(values[0]) + "/" + text(values[(len(values)-1)/2]) + "/" + text(values[len(values)-1])
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }

func number(n int) string { return fmt.Sprint(n) }

// column of a table.
type column struct {
	name string
	cell func([]Run) string
}

// columns of the table after the fault, each min/median/max.
var columns = []column{
	{"UDP outage s", func(r []Run) string { return spread(r, func(r Run) time.Duration { return r.UDP }, seconds) }},
	{"UDP lost", func(r []Run) string { return spread(r, func(r Run) int { return r.Lost }, number) }},
	{"UDP late", func(r []Run) string { return spread(r, func(r Run) int { return r.Late }, number) }},
	{"TCP stall s", func(r []Run) string { return spread(r, func(r Run) time.Duration { return r.TCP }, seconds) }},
	{"TCP broken", func(r []Run) string { return spread(r, func(r Run) int { return r.Broken }, number) }},
	{"ARP silence s", func(r []Run) string { return spread(r, func(r Run) time.Duration { return r.Silence }, seconds) }},
	{"two answered s", func(r []Run) string { return spread(r, func(r Run) time.Duration { return r.Double }, seconds) }},
	{"moved", func(r []Run) string {
		moved := 0
		for _, run := range r {
			if run.Moved {
				moved++
			}
		}
		return fmt.Sprintf("%d of %d", moved, len(r))
	}},
}

// bgpColumns are those that matter where each node has a part of the traffic: that of
// one that is gone is lost, and no outage of all.
var bgpColumns = slices.DeleteFunc(slices.Clone(columns), func(c column) bool {
	return !slices.Contains([]string{"UDP lost", "UDP late", "TCP stall s", "TCP broken"}, c.name)
})

// Print prints the table.
func Print(out io.Writer, results []Result) error { return printTable(out, results, columns) }

// PrintBGP prints the table of faults over BGP.
func PrintBGP(out io.Writer, results []Result) error { return printTable(out, results, bgpColumns) }

func printTable(out io.Writer, results []Result, columns []column) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "fault")
	for _, c := range columns {
		fmt.Fprint(w, "\t", c.name)
	}
	fmt.Fprintln(w)
	for _, r := range results {
		fmt.Fprint(w, r.Fault)
		for _, c := range columns {
			fmt.Fprint(w, "\t", c.cell(r.Runs))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}
