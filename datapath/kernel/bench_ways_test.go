package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"text/tabwriter"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// benchWay is one of the ways that packets go whose frontend asks for more than the
// straight one.
type benchWay struct {
	name    string
	flags   bpfFrontendFlags
	prepare func(*measurement) // besides the flags; nil: nothing
	push    bool               // the program encapsulates
	reason  string             // what its packets are counted as
}

var benchWays = []benchWay{
	{name: "Geneve", flags: bpfFrontendFlagsFRONTEND_GENEVE, push: true, reason: "forward_remote"},
	{name: "SNAT", flags: bpfFrontendFlagsFRONTEND_SNAT, reason: "forward_snat"},
	{name: "session affinity", flags: bpfFrontendFlagsFRONTEND_AFFINITY, prepare: (*measurement).keepClients, push: true, reason: "forward_pinned"},
	{name: "source ranges, 10 each", flags: bpfFrontendFlagsFRONTEND_SOURCES, prepare: (*measurement).letIn, push: true, reason: "forward_remote"},
}

// newWays is a measurement whose VIPs lack nothing but their way.
func newWays(tb testing.TB) *measurement {
	tb.Helper()
	m := newMeasurement(tb)
	m.fill(benchSmall)
	m.node.put("next_hops", uint32(1), bpfNextHop{Ifindex: uint32(m.node.out.Attrs().Index), Mtu: 1500,
		Saddr: be32(nodeAddr), Node: be32(otherNode), Dmac: otherMAC, Smac: nodeMAC})
	return m
}

// take makes a way that of all VIPs, and opens the flows.
func (m *measurement) take(w benchWay, flows uint32) {
	m.tb.Helper()
	for v := range uint32(benchVIPs) {
		key := bpfFrontendKey{Addr: be32(netip.AddrFrom4([4]byte{192, 168, 10, byte(v)})), Port: be16(80), Proto: packet.ProtoTCP}
		m.node.put("frontends", key, bpfFrontend{Set: 100 + v, Service: v, Flags: uint32(w.flags)})
	}
	if w.prepare != nil {
		w.prepare(m)
	}
	if err := m.bench.Flows.Set(flows); err != nil {
		m.tb.Fatal(err)
	}
	first := m.forwarding(benchSYN)
	m.set(first)
	m.time(first, flows)
}

// forwarding is the XDP program with packets of these flags, that all go out again.
func (m *measurement) forwarding(flags uint8) subject {
	return subject{m.node.program(kindXDP), m.bench.BenchWrap, flags, xdpTX}
}

// keepClients gives every set a time for which clients keep their backend.
func (m *measurement) keepClients() {
	m.tb.Helper()
	for v := range uint32(benchVIPs) {
		var s bpfBackendSet
		if err := m.node.maps["sets"].Lookup(100+v, &s); err != nil {
			m.tb.Fatal(err)
		}
		s.Affinity = 10000
		m.node.put("sets", 100+v, s)
	}
}

// letIn gives every service the prefix that all clients are in, and nine that none is.
func (m *measurement) letIn() {
	m.tb.Helper()
	for v := range uint32(benchVIPs) {
		for i := range 10 {
			prefix := bpfSourceKey{Prefixlen: 32 + 8, Service: v, Addr: be32(netip.AddrFrom4([4]byte{10 + byte(i)}))}
			m.node.put("sources", prefix, uint32(1))
		}
	}
}

// BenchmarkWays measures what other ways cost than those of BenchmarkXDP: packets
// of flows that are there, 100 services of 10 backends each.
func BenchmarkWays(b *testing.B) {
	m := newWays(b)
	m.alone()
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "packets\tflows\tmin ns\tmedian ns\tmax ns\tfloor ns\t× floor (min)\t× floor (median)\t")
	for _, w := range benchWays {
		for _, flows := range []uint32{1, 1 << 14} { // as many as there is room for
			m.take(w, flows)
			gross := m.rounds(flows, map[string]subject{
				"empty":   {m.bench.BenchEmpty, m.bench.BenchWrap, benchACK, xdpTX},
				"floor":   {m.bench.BenchFloor, m.bench.BenchWrap, benchACK, xdpTX},
				"push":    {m.bench.BenchPush, m.bench.BenchWrap, benchACK, xdpTX},
				"seamark": m.forwarding(benchACK),
			})
			base := slices.Min(gross["empty"])
			if w.push {
				base += (slices.Min(gross["push"]) - base) / 2 // the wrapper's half
			}
			floor, times := less(gross["floor"], slices.Min(gross["empty"])), less(gross["seamark"], base)
			fmt.Fprintf(table, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t\n", w.name, flows, slices.Min(times), median(times), slices.Max(times),
				median(floor), slices.Min(times)/slices.Min(floor), median(times)/median(floor))
		}
	}
	b.ReportMetric(0, "ns/op") // the time of all of it says nothing
	table.Flush()
}

// BenchmarkFlood measures first packets of 1 M flows in turns with packets of as
// many that are there: a flood is to cost no more.
func BenchmarkFlood(b *testing.B) {
	m := newMeasurement(b)
	m.alone()
	m.fill(benchPlain)
	gross := m.rounds(1<<20, map[string]subject{
		"empty":       {m.bench.BenchEmpty, m.bench.BenchWrap, benchACK, xdpTX},
		"established": m.forwarding(benchACK),
		"flood":       m.forwarding(benchSYN),
	})
	base := slices.Min(gross["empty"])
	there, flood := less(gross["established"], base), less(gross["flood"], base)
	least, middle := slices.Min(flood)/slices.Min(there), median(flood)/median(there)
	fmt.Printf("SYN flood of 1 M flows: %.1f ns, established %.1f ns: %.2f × (bar 1.10; median %.2f)\n", slices.Min(flood), slices.Min(there), least, middle)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(least, "×established")
}

// The ways are those they are said to be.
func TestBenchmarkMeasuresWays(t *testing.T) {
	m := newWays(t)
	for _, w := range benchWays {
		const flows, packets = 1 << 10, 1000
		m.take(w, flows)
		s := m.forwarding(benchACK)
		m.set(s)
		before := m.node.counts()[countKey{kindXDP, w.reason}]
		m.time(s, packets)
		if got := m.node.counts()[countKey{kindXDP, w.reason}].Packets - before.Packets; got != packets {
			t.Errorf("%s: %d packets were counted as %s, want %d", w.name, got, w.reason, packets)
		}
	}
}
