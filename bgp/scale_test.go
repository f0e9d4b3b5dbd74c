package bgp

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seamark-lb/seamark/state"
)

const (
	manyVIPs      = 10_000
	churnTime     = 30 * time.Second
	churnEvery    = 10 * time.Millisecond
	changesPerSec = 1000
)

// BenchmarkScale measures many addresses, from the rows of Services to the table of a
// router with FRR: until it has all of them, beside the time that the speaker alone
// takes with routes that were decided before, and while a thousand Services a second
// lose or get their backends.
func BenchmarkScale(b *testing.B) {
	needRouters(b)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	router := &frr{in: wire(b)}
	router.configure(b, frrNeighbor(plain, "65001"))
	floor := speakerAlone(b, router)
	n := newScaled(b, router)
	before := heap()
	began, cpu := time.Now(), cpuTime(b)
	n.serve(true)
	n.awaitRoutes(manyVIPs)
	all := time.Since(began)
	fmt.Fprintf(table, "%d addresses, until the router has all\t%.2f s\t%.1f s of CPU\n", manyVIPs, all.Seconds(), (cpuTime(b) - cpu).Seconds())
	fmt.Fprintf(table, "the same routes, the speaker alone\t%.2f s\tratio %.1f\n", floor.Seconds(), all.Seconds()/floor.Seconds())
	fmt.Fprintf(table, "heap for each address\t%.1f KiB\tof the whole process: %d MiB\n", float64(heap()-before)/manyVIPs/1024, rss(b)>>20)

	cpu = cpuTime(b)
	changes, took := n.churn(churnTime)
	quiet := time.Now()
	n.awaitRoutes(n.served())
	fmt.Fprintf(table, "%d changes in %.0f s, then until the router has all\t%.2f s\t%.1f s of CPU\n",
		changes, took.Seconds(), time.Since(quiet).Seconds(), (cpuTime(b) - cpu).Seconds())
	states, err := n.speaker.States(b.Context())
	if err != nil || len(states) != 1 || states[0].Flaps != 0 || states[0].State != state.BGPEstablished {
		b.Errorf("the session has not lasted: %+v, %v", states, err)
	}
	b.ReportMetric(0, "ns/op") // the time of all of it says nothing
	table.Flush()
}

// speakerAlone is how long a speaker and the router take with routes that are decided.
func speakerAlone(b *testing.B, router *frr) time.Duration {
	speaker := speak(b, state.BGPIdentity{ASN: 65001, RouterID: netip.MustParseAddr(plain)})
	update(b, speaker.Sessions(), sessionWithRouter())
	eventually(b, "the router has the session", func() error { return router.established(plain) })
	var rows []state.BGPRoute
	for _, f := range crowd(manyVIPs).Frontends {
		rows = append(rows, state.BGPRoute{Instance: "tor", Prefix: netip.PrefixFrom(f.Addr, 32),
			Offers: []state.BGPOffer{{Advertisement: "all", Peers: []string{"router"}}}})
	}
	began := time.Now()
	for _, err := range (routes{speaker}).UpdateAll(b.Context(), rows) {
		if err != nil {
			b.Fatal(err)
		}
	}
	eventually(b, "the router has all", func() error { return router.has(manyVIPs) })
	took := time.Since(began)
	if err := speaker.Speakers().Delete(b.Context(), state.BGPSpeaker{Instance: "tor"}); err != nil {
		b.Fatal(err)
	}
	return took
}

func sessionWithRouter() state.BGPSession {
	return state.BGPSession{Instance: "tor", Peer: "router", Remote: netip.MustParseAddr("10.9.0.1"), RemotePort: 179,
		ASN: state.BGPPeerASN{Number: 65000}, IPv4: true,
		BGPSessionConfig: state.BGPSessionConfig{ConnectRetry: time.Second, Hold: 9 * time.Second}}
}

// has says whether the router has that many IPv4 prefixes.
func (f *frr) has(want int) error {
	out, err := f.show("show bgp ipv4 unicast summary json")
	if err != nil {
		return err
	}
	var summary struct {
		Peers map[string]struct{ PfxRcd int }
	}
	if err := json.Unmarshal(out, &summary); err != nil {
		return err
	}
	got := 0
	for _, p := range summary.Peers {
		got += p.PfxRcd
	}
	if got != want {
		return fmt.Errorf("%d of %d", got, want)
	}
	return nil
}

// scaled is a node as the daemon is one, less what the rows come from.
type scaled struct {
	b       *testing.B
	db      *state.DB
	writer  *state.Writer
	speaker *Speaker
	router  *frr
	in      Inputs
	down    []bool // Services without a backend
}

func newScaled(b *testing.B, router *frr) *scaled {
	log := slog.New(slog.NewTextHandler(b.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	db, writer := state.New()
	n := &scaled{b: b, db: db, writer: writer, speaker: New(log), router: router, in: crowd(manyVIPs), down: make([]bool, manyVIPs)}
	n.in.Instances[0].RouterID = netip.MustParseAddr(plain)
	n.in.Instances[0].ListenPort = 0
	n.in.Devices = []state.Device{{Name: "tor", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24")}}}
	n.in.Peers[0].Remote, n.in.Peers[0].BGPSessionConfig = netip.MustParseAddr("10.9.0.1"), sessionWithRouter().BGPSessionConfig
	n.in.Peers[0].Families = []state.BGPPeerFamily{{}}
	writer.Update(func(tx *state.Tx) { tx.Mark(state.PrunedMark(db.Frontends.Name())) })

	const decided = "decided"
	target := &Target{DB: db, Writer: writer, Log: log, Speaker: n.speaker, Decided: func(s state.Snapshot) bool { return state.Marked(s, decided) }}
	ctx, stop := context.WithCancel(b.Context())
	var group errgroup.Group
	group.Go(func() error { return target.Run(ctx) })
	group.Go(func() error {
		return db.Follow(ctx, time.Minute, func(snap state.Snapshot) {
			in := n.in
			in.Services, in.Frontends = db.Services.Rows(snap), db.Frontends.Rows(snap)
			d := Decide(in)
			writer.Update(func(tx *state.Tx) {
				state.Want(tx, db.BGPSpeakers, d.Speakers, time.Now())
				state.Want(tx, db.BGPSessions, d.Sessions, time.Now())
				state.Want(tx, db.BGPRoutes, d.Routes, time.Now())
				tx.Mark(decided)
			})
		}, db.Services.Watch(), db.Frontends.Watch())
	})
	b.Cleanup(func() {
		stop()
		if err := group.Wait(); err != nil {
			b.Error(err)
		}
	})
	eventually(b, "the router has the session", func() error { return router.established(plain) })
	return n
}

// serve has all Services, each with a backend or without.
func (n *scaled) serve(backends bool) {
	n.writer.Update(func(tx *state.Tx) {
		for i, svc := range n.in.Services {
			n.db.Services.Put(tx, svc)
			n.put(tx, i, backends)
		}
	})
}

func (n *scaled) put(tx *state.Tx, service int, backends bool) {
	f := n.in.Frontends[service]
	f.Status = state.Status{Phase: state.Done}
	if !backends {
		f.Backends = nil
	}
	n.down[service] = !backends
	n.db.Frontends.Put(tx, f)
}

// churn has Services lose or get their backends, and returns how many did in which time.
func (n *scaled) churn(lasts time.Duration) (changes int, took time.Duration) {
	tick := time.NewTicker(churnEvery)
	defer tick.Stop()
	began := time.Now()
	for time.Since(began) < lasts {
		due := int(changesPerSec * (<-tick.C).Sub(began).Seconds())
		n.writer.Update(func(tx *state.Tx) {
			for ; changes < due; changes++ {
				service := changes * 7919 % manyVIPs // all, in an order of its own
				n.put(tx, service, n.down[service])
			}
		})
	}
	return changes, time.Since(began)
}

func (n *scaled) served() int {
	served := 0
	for _, down := range n.down {
		if !down {
			served++
		}
	}
	return served
}

func (n *scaled) awaitRoutes(want int) {
	n.b.Helper()
	eventually(n.b, fmt.Sprintf("the router has %d routes", want), func() error { return n.router.has(want) })
}

// heap is what is in use of it.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// rss is the memory of this process, in bytes.
func rss(b *testing.B) uint64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseUint(strings.Fields(string(data))[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * uint64(os.Getpagesize())
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
