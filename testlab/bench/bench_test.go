package bench

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

const (
	rounds = 11
	round  = 60 * time.Millisecond
)

// dropFloor is the path of frames that are dropped as they come in: what the
// generator and a device cost before anything is done.
const dropFloor = "XDP_DROP"

var flowCounts = []uint32{1, 1 << 14, maxFlows}

// path is a line of the table.
type path struct {
	name   string
	target target
	// connections counts those that are there for both ends; nil: it keeps none, and
	// needs none established before it is measured.
	connections func() int
	bar         float64 // the least it may be at 16,384 flows, × the router's packets, net of the floor; 0: only printed
	most        uint32  // flows there is room for; 0: as many as there are
}

// paths makes what is measured: the floors, Seamark's ways, and the router, or why
// there is none.
func paths(tb testing.TB, g *traffic) (all []path, noRouter string) {
	tb.Helper()
	n := newNode(tb, g)
	floor := newNamespace(tb)
	drop := connect(floor, g.net, "drop", netip.MustParsePrefix("192.168.30.0/24"))
	back := connect(floor, g.net, "back", netip.MustParsePrefix("192.168.31.0/24"))
	floor.do(func() {
		g.sinkXDP(floor, "drop")
		floor.attachXDP("back", g.objects.TrafficBack)
	})
	g.net.do(func() { g.sinkXDP(g.net, "back") })
	all = []path{
		{name: "the generator alone", target: target{generator: g.objects.TrafficMake, device: drop.far, to: drop.near, vips: ways()[0].vips}},
		{name: dropFloor, target: target{generator: g.objects.TrafficSend, device: drop.far, to: drop.near, vips: ways()[0].vips}},
		{name: "XDP_TX", target: target{generator: g.objects.TrafficSend, device: back.far, to: back.near, vips: ways()[0].vips}},
	}
	for _, w := range ways() {
		all = append(all, path{name: "Seamark, " + w.name, target: n.target(g, w), connections: n.connections(w), bar: w.bar})
	}
	r, why := newRouter(tb, g)
	if r == nil {
		return all, why
	}
	return append(all, path{name: forRouter.name, target: r.target(g), connections: r.connections, most: r.setting("nf_conntrack_max") / 2}), ""
}

// BenchmarkPaths measures how many packets a second come out of the far end of each
// path. The generator, the path and its end share one CPU, and paths are measured
// in turns.
func BenchmarkPaths(b *testing.B) {
	g := newTraffic(b)
	all, noRouter := paths(b, g)
	g.runAlone()
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "path\tflows\tmin ns\tmedian ns\tmax ns\tMpps (median)\tlost %\t× nftables\tnet of XDP_DROP\tbar\t\t")
	for _, flows := range flowCounts {
		results := g.rounds(all, flows)
		for _, p := range all {
			report(b, table, p, flows, results)
		}
	}
	b.ReportMetric(0, "ns/op") // the time of all of it says nothing
	table.Flush()
	if noRouter != "" {
		fmt.Println("not measured:", forRouter.name+":", noRouter)
	}
}

// result is what came of a path's rounds.
type result struct {
	times []float64 // ns per packet that came out
	lost  float64   // of those sent, at most
}

// rounds measures every path in turns.
func (g *traffic) rounds(all []path, flows uint32) map[string]result {
	g.tb.Helper()
	results := map[string]result{}
	repeat := map[string]uint32{}
	for turn := range rounds + 1 {
		for _, p := range all {
			if p.most != 0 && p.most < flows {
				continue
			}
			if turn == 0 && p.connections != nil {
				g.establish(p.target, flows)
			}
			g.set(p.target, flows)
			if turn == 0 { // warm up, and see how many fit a round
				const some = 1 << 16
				g.send(p.target, ack, 0, max(flows, some))
				_, took := g.send(p.target, ack, 0, some)
				repeat[p.name] = uint32(some * float64(round) / float64(took))
				continue
			}
			g.send(p.target, ack, 0, 1<<14) // what the one before has left in the caches
			received, took := g.send(p.target, ack, 1<<14, repeat[p.name])
			if received == 0 {
				g.tb.Fatalf("%s: nothing came out", p.name)
			}
			r := results[p.name]
			r.times = append(r.times, float64(took)/float64(received))
			r.lost = max(r.lost, 1-float64(received)/float64(repeat[p.name]))
			results[p.name] = r
		}
	}
	return results
}

// report writes one line.
func report(b *testing.B, table io.Writer, p path, flows uint32, results map[string]result) {
	r, ok := results[p.name]
	if !ok {
		fmt.Fprintf(table, "%s\t%d\tnot measured: nf_conntrack_max has room for %d\t\t\t\t\t\t\t\t\t\n", p.name, flows, 2*p.most)
		return
	}
	middle, floor := median(r.times), median(results[dropFloor].times)
	ratio, net, bar, met := "", "", "", ""
	if beside, ok := results[forRouter.name]; ok {
		ratio = fmt.Sprintf("%.2f", median(beside.times)/middle)
		times := (median(beside.times) - floor) / (middle - floor)
		if middle > floor {
			net = fmt.Sprintf("%.2f", times)
		}
		if p.bar != 0 && flows == 1<<14 {
			b.ReportMetric(times, "×nftables:"+strings.NewReplacer(" ", "-", ",", "", ":", "").Replace(p.name))
			bar, met = fmt.Sprintf("%.1f", p.bar), "met"
			if times < p.bar {
				met = "not met"
			}
		}
	}
	fmt.Fprintf(table, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t%s\t%s\t%s\t%s\t\n", p.name, flows,
		slices.Min(r.times), middle, slices.Max(r.times), 1000/middle, 100*r.lost, ratio, net, bar, met)
}

func median(of []float64) float64 {
	sorted := slices.SortedFunc(slices.Values(of), cmp.Compare)
	return sorted[len(sorted)/2]
}
