package kernel

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/seamark-lb/seamark/testlab/packet"
	"golang.org/x/sys/unix"
)

//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -no-global-types bench ../../bpf/bench.c -- -O2 -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

const (
	benchVIPs   = 100
	benchRounds = 11
	benchRound  = 100 * time.Millisecond
)

// benchLoads are the backends of each VIP, and the slots that datapath.MaglevSize
// gives that many.
var benchLoads = []struct{ backends, slots uint32 }{{10, 1021}, {100, 16381}}

// BenchmarkXDP measures what the XDP program costs for a packet to a backend
// on another node, and prints it beside an empty program and beside the least
// that a load balancer can do, measured in turns in the same run. Times are
// net of the wrapper that makes the next packet; for Seamark, also net of that
// wrapper's adjust_head.
func BenchmarkXDP(b *testing.B) {
	m := newMeasurement(b)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "program\tbackends\tflows\tmin ns\tmedian ns\tmax ns\t× empty\t× floor\t")
	for _, load := range benchLoads {
		m.fill(load.backends, load.slots)
		m.measure(b, table, load.backends)
	}
	b.ReportMetric(0, "ns/op") // the time of all of it says nothing
	table.Flush()
}

// measure writes the rows of one load.
func (m *measurement) measure(b *testing.B, table io.Writer, backends uint32) {
	for _, flows := range []uint32{1, 1 << 14, 1 << 20} {
		gross := m.rounds(flows)
		empty, push := median(gross["empty"]), median(gross["push"])
		net := func(name string) []float64 {
			base := empty
			if name == "seamark" {
				base += (push - empty) / 2 // the wrapper's half
			}
			times := slices.Clone(gross[name])
			for i := range times {
				times[i] -= base
			}
			return times
		}
		floor := median(net("floor"))
		for _, name := range []string{"floor", "seamark"} {
			times := net(name)
			fmt.Fprintf(table, "%s\t%d × %d\t%d\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t\n", name, benchVIPs, backends, flows,
				slices.Min(times), median(times), slices.Max(times), median(gross[name])/empty, median(times)/floor)
		}
		fmt.Fprintf(table, "(empty XDP_TX, gross)\t\t%d\t%.1f\t%.1f\t%.1f\t%.2f\t\t\n", flows,
			slices.Min(gross["empty"]), empty, slices.Max(gross["empty"]), 1.0)
		b.ReportMetric(median(net("seamark"))/floor, fmt.Sprintf("×floor-%d-backends-%d-flows", backends, flows))
	}
}

type measurement struct {
	tb       testing.TB
	node     *node
	bench    benchObjects
	programs map[string]*ebpf.Program
	options  ebpf.RunOptions
}

func newMeasurement(tb testing.TB) *measurement {
	tb.Helper()
	m := &measurement{tb: tb, node: newNode(tb)}
	if err := loadBenchObjects(&m.bench, nil); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.bench.Close() })
	m.programs = map[string]*ebpf.Program{
		"empty": m.bench.BenchEmpty, "push": m.bench.BenchPush, "floor": m.bench.BenchFloor, "seamark": m.node.program(kindXDP),
	}

	// Attached somewhere, or every run first puts it into the XDP dispatcher.
	dev := m.node.addDevice("bench", packet.MAC{2, 9})
	l, err := link.AttachXDP(link.XDPOptions{Program: m.bench.BenchWrap, Interface: dev.Attrs().Index})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })

	macs := append(nodeMAC[:], routerMAC[:]...)
	var words [3]uint32
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(macs[4*i:])
	}
	if err := m.bench.Macs.Set(words); err != nil {
		tb.Fatal(err)
	}
	frame := packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.TCP{})
	m.options = ebpf.RunOptions{Data: frame, Context: xdpContext(m.node.out, frame)}
	return m
}

// fill makes the VIPs 192.168.10.0 to 99, port 80, each with that many backends.
func (m *measurement) fill(backends, size uint32) {
	n := m.node
	var ids []uint32
	var rows []bpfBackend
	for v := range uint32(benchVIPs) {
		addr := be32(netip.AddrFrom4([4]byte{192, 168, 10, byte(v)}))
		key := bpfFrontendKey{Addr: addr, Port: be16(80), Proto: packet.ProtoTCP}
		n.put("frontends", key, bpfFrontend{Set: 100 + v})
		n.put("frontends", bpfFrontendKey{Addr: addr}, bpfFrontend{})
		if err := m.bench.Vips.Put(key, uint64(v)); err != nil {
			m.tb.Fatal(err)
		}
		first := 1000 + v*backends
		for i := range backends {
			ids = append(ids, first+i)
			rows = append(rows, bpfBackend{Addr: be32(netip.AddrFrom4([4]byte{172, 20, byte(v), byte(i)})), NextHop: 1})
		}
		slots := make([]uint32, size)
		for i := range slots {
			slots[i] = first + uint32(i*7919)%backends
		}
		n.table(100+v, 0, slots)
	}
	if _, err := n.maps["backends"].BatchUpdate(ids, rows, nil); err != nil {
		m.tb.Fatal(err)
	}
}

// rounds measures every program in turns; gross ns per packet.
func (m *measurement) rounds(flows uint32) map[string][]float64 {
	m.tb.Helper()
	if err := m.bench.Flows.Set(flows); err != nil {
		m.tb.Fatal(err)
	}
	times := map[string][]float64{}
	repeat := map[string]uint32{}
	for round := range benchRounds + 1 {
		for _, name := range []string{"empty", "push", "floor", "seamark"} {
			if err := m.bench.Measured.Put(uint32(0), m.programs[name]); err != nil {
				m.tb.Fatal(err)
			}
			if round == 0 { // warm up, and see how many fit a round
				m.time(max(flows, 1<<16))
				took := m.time(max(flows, 1<<18))
				repeat[name] = uint32(float64(max(flows, 1<<18)) * float64(benchRound) / float64(took))
				continue
			}
			setUp := m.time(2)
			times[name] = append(times[name], float64(m.time(repeat[name])-setUp)/float64(repeat[name]))
		}
	}
	return times
}

func (m *measurement) time(repeat uint32) time.Duration {
	m.tb.Helper()
	options := m.options
	options.Repeat = repeat
	start := m.clock()
	action, err := m.bench.BenchWrap.Run(&options)
	if err != nil || action != xdpTX {
		m.tb.Fatalf("run: action %d, %v", action, err)
	}
	return m.clock() - start
}

// clock is the CPU time of the thread, which the packets are handled on: what
// else the machine does meanwhile is not in it, but for the caches it empties.
func (m *measurement) clock() time.Duration {
	m.tb.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		m.tb.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

func median(of []float64) float64 {
	sorted := slices.SortedFunc(slices.Values(of), cmp.Compare)
	return sorted[len(sorted)/2]
}

// The measurement means nothing when the packets do not go where they should.
func TestBenchmarkMeasuresForwarding(t *testing.T) {
	m := newMeasurement(t)
	m.fill(10, 1021)
	if err := m.bench.Flows.Set(uint32(1 << 14)); err != nil {
		t.Fatal(err)
	}
	for name, p := range m.programs {
		if err := m.bench.Measured.Put(uint32(0), p); err != nil {
			t.Fatal(err)
		}
		before := m.node.counts()[countKey{kindXDP, "forward_remote"}]
		m.time(1000)
		options := m.options
		options.DataOut = make([]byte, 512)
		if _, err := m.bench.BenchWrap.Run(&options); err != nil {
			t.Fatal(err)
		}
		got := m.node.counts()[countKey{kindXDP, "forward_remote"}].Packets - before.Packets
		if want := map[bool]uint64{true: 1001}[name == "seamark"]; got != want {
			t.Errorf("%s: forwarded %d packets, want %d", name, got, want)
		}
		// The flow's own packet, in a whole outer header.
		if text := packet.String(options.DataOut); name == "seamark" && !(strings.Contains(text, "ip2.dst          192.168.10.") && strings.Contains(text, "ip.checksum      ") && !strings.Contains(strings.SplitN(text, "ip2.", 2)[0], "wrong")) {
			t.Errorf("%s made\n%s", name, text)
		}
	}
}
