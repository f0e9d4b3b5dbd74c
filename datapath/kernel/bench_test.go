package kernel

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
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
	benchRound  = 60 * time.Millisecond
)

// Flags of the packets.
const benchSYN, benchACK = 2, 16

// benchWorld is what the maps say while a row is measured.
type benchWorld struct {
	backends, slots uint32 // of each VIP; slots as datapath.MaglevSize gives that many
	moved           uint32 // per cent of the slots, in a window that is open
	services        uint32 // besides, without traffic
	local           bool   // backends are pods of this node
}

// benchRow is one line of the table.
type benchRow struct {
	name  string
	world benchWorld
	v6    bool
	flags uint8
	room  uint32             // of the flow tables; 0: benchRoom
	bars  map[uint32]float64 // flows: the most it may be, × floor; noBar: only printed
}

var (
	benchPlain = benchWorld{backends: 100, slots: 10007}
	benchSmall = benchWorld{backends: 10, slots: 1021}
	benchLocal = benchWorld{backends: 10, slots: 1021, local: true}
	benchFlows = []uint32{1, 1 << 14, 1 << 20}
	benchRows  = []benchRow{
		{name: "IPv4, 100 × 10 backends", world: benchSmall, flags: benchACK, bars: bars(3, benchFlows...)},
		{name: "IPv4, 100 × 100 backends", world: benchPlain, flags: benchACK, bars: bars(3, benchFlows...)},
		{name: "SYN flood", world: benchPlain, flags: benchSYN, bars: bars(3.3, 1<<20)},
		{name: "IPv6", world: benchPlain, v6: true, flags: benchACK, bars: bars(4, benchFlows...)},
		{name: "2 % of slots moved, pins", world: benchWorld{backends: 100, slots: 10007, moved: 2}, flags: benchACK, bars: bars(3.3, benchFlows...)},
		{name: "10,000 services, 100 in use", world: benchWorld{backends: 100, slots: 10007, services: 9900}, flags: benchACK, bars: bars(3.45, benchFlows...)},
		{name: "local pod, redirected", world: benchLocal, flags: benchACK, bars: bars(4.5, 1, 1<<14)},
		{name: "local pod, redirected", world: benchLocal, flags: benchACK, room: 5 << 18, bars: bars(noBar, 1<<20)},
	}
)

const (
	noBar     = 0
	benchRoom = 1 << 16
)

func bars(bar float64, flows ...uint32) map[uint32]float64 {
	all := map[uint32]float64{}
	for _, n := range flows {
		all[n] = bar
	}
	return all
}

// BenchmarkXDP measures what the XDP program costs for a packet, and prints it
// beside the least that a load balancer can do, measured in turns in the same
// run. Times are net of the wrapper that makes the next packet, and where the
// program encapsulates, also net of that wrapper's adjust_head.
func BenchmarkXDP(b *testing.B) {
	shared := newMeasurement(b)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "packets\tflows\tmin ns\tmedian ns\tmax ns\tfloor ns\t× floor (min)\t× floor (median)\tbar\t\t")
	for _, row := range benchRows {
		b.Run(row.name, func(b *testing.B) { // on a thread of its own
			m := shared
			if row.room != 0 {
				m = newMeasurementIn(b, row.room)
			}
			enter(b, m.node.net)
			m.tb = b
			m.alone()
			m.fill(row.world)
			for _, flows := range benchFlows {
				if bar, ok := row.bars[flows]; ok {
					m.measure(b, table, row, flows, bar)
				}
			}
			b.ReportMetric(0, "ns/op") // the time of all of it says nothing
		})
	}
	table.Flush()
}

// subject is a program with the wrapper it is measured in.
type subject struct {
	program, wrap *ebpf.Program
	flags         uint8
	action        uint32
}

// measure writes one line.
func (m *measurement) measure(b *testing.B, table io.Writer, row benchRow, flows uint32, bar float64) {
	wrap, push, action := m.bench.BenchWrap, m.bench.BenchPush, uint32(xdpTX)
	if row.v6 {
		wrap, push = m.bench.BenchWrap6, m.bench.BenchPush6
	}
	if row.world.local {
		action = xdpPass
		m.establish(flows)
	}
	subjects := map[string]subject{
		"empty":   {m.bench.BenchEmpty, m.bench.BenchWrap, row.flags, xdpTX},
		"floor":   {m.bench.BenchFloor, m.bench.BenchWrap, row.flags, xdpTX},
		"own":     {m.bench.BenchEmpty, wrap, row.flags, xdpTX},
		"push":    {push, wrap, row.flags, xdpTX},
		"seamark": {m.node.program(kindXDP), wrap, row.flags, action},
	}
	if row.world.local {
		subjects["empty tc"] = subject{m.bench.BenchEmptyTc, m.bench.BenchWrapTc, row.flags, tcRedirect}
		subjects["redirect"] = subject{m.node.program(kindTCOutside), m.bench.BenchWrapTc, row.flags, tcRedirect}
	}
	gross := m.rounds(flows, subjects)
	base := slices.Min(gross["own"])
	if !row.world.local {
		base += (slices.Min(gross["push"]) - base) / 2 // the wrapper's half
	}
	floor := less(gross["floor"], slices.Min(gross["empty"]))
	times := less(gross["seamark"], base)
	if row.world.local { // XDP's part, and that of tc
		for i, redirect := range less(gross["redirect"], slices.Min(gross["empty tc"])) {
			times[i] += redirect
		}
	}
	least, middle := slices.Min(times)/slices.Min(floor), median(times)/median(floor)
	wanted, met := fmt.Sprintf("%.2f", bar), "met"
	switch {
	case bar == noBar:
		wanted, met = "", ""
	case least > bar:
		met = "not met"
	}
	fmt.Fprintf(table, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t%s\t%s\t\n", row.name, flows,
		slices.Min(times), median(times), slices.Max(times), median(floor), least, middle, wanted, met)
	b.ReportMetric(least, fmt.Sprintf("×floor:%d-flows", flows))
}

func less(times []float64, base float64) []float64 {
	times = slices.Clone(times)
	for i := range times {
		times[i] -= base
	}
	return times
}

// BenchmarkCores measures how many packets two cores handle, over one.
func BenchmarkCores(b *testing.B) {
	if runtime.NumCPU() < 2 {
		b.Skip("needs two cores")
	}
	m := newMeasurement(b)
	m.fill(benchPlain)
	if err := m.bench.Flows.Set(uint32(1 << 14)); err != nil {
		b.Fatal(err)
	}
	m.set(subject{m.node.program(kindXDP), m.bench.BenchWrap, benchACK, xdpTX})
	const repeat = 1 << 19
	var one, two []float64
	for range benchRounds {
		one = append(one, m.atOnce(1, repeat).Seconds())
		two = append(two, m.atOnce(2, repeat).Seconds())
	}
	ratio := 2 * slices.Min(one) / slices.Min(two)
	fmt.Printf("two cores: %.2f × the packets of one (bar 1.80; median %.2f)\n", ratio, 2*median(one)/median(two))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ratio, "×one-core")
}

// atOnce is the time in which that many cores handle repeat packets each.
func (m *measurement) atOnce(cores int, repeat uint32) time.Duration {
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for cpu := range cores {
		ready.Add(1)
		done.Go(func() {
			runtime.LockOSThread() // never unlocked: the thread goes with its priority
			err := runAlone(cpu)
			ready.Done()
			<-start
			options := m.options
			options.Repeat = repeat
			if _, runErr := m.bench.BenchWrap.Run(&options); err != nil || runErr != nil {
				m.tb.Errorf("run on CPU %d: %v, %v", cpu, err, runErr)
			}
		})
	}
	ready.Wait()
	began := time.Now()
	close(start)
	done.Wait()
	return time.Since(began)
}

// runAlone keeps the thread on a CPU, and all else from it: what runs in between
// empties the caches that are measured.
func runAlone(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return err
	}
	return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
}

type measurement struct {
	tb      testing.TB
	node    *node
	bench   benchObjects
	options ebpf.RunOptions
}

func newMeasurement(tb testing.TB) *measurement {
	tb.Helper()
	return newMeasurementIn(tb, benchRoom)
}

// newMeasurementIn is a measurement with room for that many flows.
func newMeasurementIn(tb testing.TB, room uint32) *measurement {
	tb.Helper()
	h := newHost(tb)
	cfg := h.config()
	cfg.Sizes = Sizes{Flows: room, HalfOpen: room}
	m := &measurement{tb: tb, node: nodeWith(tb, h, cfg)}
	if err := loadBenchObjects(&m.bench, nil); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.bench.Close() })

	// Attached somewhere, or every run first puts it into the XDP dispatcher.
	for i, wrap := range []*ebpf.Program{m.bench.BenchWrap, m.bench.BenchWrap6} {
		dev := m.node.addDevice(fmt.Sprint("bench", i), packet.MAC{2, 9, byte(i)})
		l, err := link.AttachXDP(link.XDPOptions{Program: wrap, Interface: dev.Attrs().Index})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { l.Close() })
	}
	macs := append(nodeMAC[:], routerMAC[:]...)
	var words [3]uint32
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(macs[4*i:])
	}
	if err := m.bench.Macs.Set(words); err != nil {
		tb.Fatal(err)
	}
	m.use(false)
	return m
}

// use makes packets of a family the ones that are run.
func (m *measurement) use(v6 bool) {
	frame := packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.TCP{})
	if v6 {
		frame = packet.Build(fromRouter, packet.IPv6{Src: netip.IPv6Loopback(), Dst: netip.IPv6Unspecified()}, packet.TCP{})
	}
	m.options = ebpf.RunOptions{Data: frame, Context: xdpContext(m.node.out, frame)}
}

// alone is runAlone for the thread of the benchmark.
func (m *measurement) alone() {
	m.tb.Helper()
	runtime.LockOSThread()
	if err := runAlone(0); err != nil {
		m.tb.Fatal(err)
	}
}

// fill makes a world: VIPs 192.168.10.0 to 99 and ::0 to ::99, port 80, and the
// services besides.
func (m *measurement) fill(w benchWorld) {
	m.tb.Helper()
	n := m.node
	out := uint32(n.out.Attrs().Index)
	n.put("next_hops", uint32(1), bpfNextHop{Ifindex: out, Mtu: 1500, Saddr: be32(nodeAddr), Saddr6: [4]uint32{1, 0, 0, 1}, Dmac: otherMAC, Smac: nodeMAC})
	var ids []uint32
	var rows []bpfBackend
	var rows6 []bpfBackend6
	for v := range uint32(benchVIPs) {
		addr := be32(netip.AddrFrom4([4]byte{192, 168, 10, byte(v)}))
		key := bpfFrontendKey{Addr: addr, Port: be16(80), Proto: packet.ProtoTCP}
		f := bpfFrontend{Set: 100 + v, Service: v}
		n.put("frontends", key, f)
		n.put("frontends", bpfFrontendKey{Addr: addr}, bpfFrontend{})
		n.put("frontends6", bpfFrontendKey6{Addr: [4]uint32{3: uint32(be16(uint16(v))) << 16}, Port: be16(80), Proto: packet.ProtoTCP}, f)
		if err := m.bench.Vips.Put(key, uint64(v)); err != nil {
			m.tb.Fatal(err)
		}
		for i := range w.backends {
			pod := be32(netip.AddrFrom4([4]byte{172, 20, byte(v), byte(i)}))
			row := bpfBackend{Addr: pod, Port: be16(8080), NextHop: 1}
			if w.local {
				row.Flags = uint8(bpfBackendFlagsBACKEND_LOCAL)
				n.put("endpoints", pod, bpfEndpoint{Ifindex: uint32(n.pod.Attrs().Index), PodMac: podMAC, HostMac: podHostMAC})
			}
			ids = append(ids, 1000+v*w.backends+i)
			rows = append(rows, row)
			rows6 = append(rows6, bpfBackend6{Addr: [4]uint32{1, 0, 0, pod}, Port: row.Port, NextHop: 1})
		}
		m.tables(w, 100+v, 1000+v*w.backends)
	}
	if _, err := n.maps["backends"].BatchUpdate(ids, rows, nil); err != nil {
		m.tb.Fatal(err)
	}
	if _, err := n.maps["backends6"].BatchUpdate(ids, rows6, nil); err != nil {
		m.tb.Fatal(err)
	}
	for s := range w.services {
		addr := be32(netip.AddrFrom4([4]byte{10, 200, byte(s >> 8), byte(s)}))
		n.put("frontends", bpfFrontendKey{Addr: addr, Port: be16(80), Proto: packet.ProtoTCP}, bpfFrontend{Set: 100 + s%benchVIPs, Service: benchVIPs + s})
		n.put("frontends", bpfFrontendKey{Addr: addr}, bpfFrontend{Flags: uint32(bpfFrontendFlagsFRONTEND_VIP)})
	}
}

// tables makes the Maglev tables of a set.
func (m *measurement) tables(w benchWorld, set, first uint32) {
	slots := make([]uint32, w.slots)
	for i := range slots {
		slots[i] = first + uint32(i*7919)%w.backends
	}
	m.node.table(set, 0, slots)
	if w.moved == 0 {
		return
	}
	for i := range slots {
		if uint32(i*31%100) < w.moved {
			slots[i] = first + (slots[i]-first+1)%w.backends | uint32(bpfSlotSLOT_MOVED)
		}
	}
	m.node.table(set, 1, slots)
	m.node.put("sets", set, bpfBackendSet{Size: [4]uint32{w.slots, w.slots}, Look: 1 | uint32(bpfSetLookSET_MOVING)})
}

// establish makes flows to local pods that both sides have spoken in, and notes the pods.
func (m *measurement) establish(flows uint32) {
	m.tb.Helper()
	m.node.clearFlows()
	if err := m.bench.Flows.Set(flows); err != nil {
		m.tb.Fatal(err)
	}
	syn := subject{m.node.program(kindXDP), m.bench.BenchWrap, benchSYN, xdpPass}
	m.set(syn)
	m.time(syn, flows)
	for key, flow := range m.node.flows("half_open") {
		flow.Flags = uint8(bpfFlowFlagsFLOW_REPLIED)
		m.node.put("flows", key, flow)
		if err := m.node.maps["half_open"].Delete(key); err != nil {
			m.tb.Fatal(err)
		}
		client := binary.NativeEndian.AppendUint32(nil, key.Client)
		if err := m.bench.Pods.Put(binary.BigEndian.Uint32(client)-0x0a000000, key.Pod); err != nil {
			m.tb.Fatal(err)
		}
	}
}

// set makes a subject the one that is run.
func (m *measurement) set(s subject) {
	m.tb.Helper()
	programs := m.bench.Measured
	if s.wrap == m.bench.BenchWrapTc {
		programs = m.bench.MeasuredTc
	}
	if err := programs.Put(uint32(0), s.program); err != nil {
		m.tb.Fatal(err)
	}
	if err := m.bench.TcpFlags.Set(s.flags); err != nil {
		m.tb.Fatal(err)
	}
	m.use(s.wrap == m.bench.BenchWrap6)
	if s.wrap == m.bench.BenchWrapTc {
		m.options.Context = skbContext(m.node.out)
	}
}

// rounds measures every subject in turns; gross ns per packet.
func (m *measurement) rounds(flows uint32, subjects map[string]subject) map[string][]float64 {
	m.tb.Helper()
	if err := m.bench.Flows.Set(flows); err != nil {
		m.tb.Fatal(err)
	}
	times := map[string][]float64{}
	repeat := map[string]uint32{}
	for round := range benchRounds + 1 {
		for name, s := range subjects {
			m.set(s)
			if round == 0 { // warm up, and see how many fit a round
				const some = 1 << 18
				m.time(s, max(flows, some))
				repeat[name] = uint32(some * float64(benchRound) / float64(m.time(s, some)))
				continue
			}
			m.time(s, 1<<15) // what the one before has left in the caches
			setUp := m.time(s, 2)
			times[name] = append(times[name], float64(m.time(s, repeat[name])-setUp)/float64(repeat[name]))
		}
	}
	return times
}

func (m *measurement) time(s subject, repeat uint32) time.Duration {
	m.tb.Helper()
	options := m.options
	options.Repeat = repeat
	start := m.clock()
	action, err := s.wrap.Run(&options)
	if err != nil || action != s.action {
		m.tb.Fatalf("run: action %d, want %d, %v", action, s.action, err)
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
	for name, c := range map[string]struct {
		world  benchWorld
		v6     bool
		action uint32
		reason string
	}{
		"IPv4":  {benchSmall, false, xdpTX, "forward_remote"},
		"IPv6":  {benchSmall, true, xdpTX, "forward_remote"},
		"local": {benchLocal, false, xdpPass, "forward_local"},
	} {
		m.fill(c.world)
		s := subject{m.node.program(kindXDP), m.bench.BenchWrap, benchACK, c.action}
		if c.v6 {
			s.wrap = m.bench.BenchWrap6
		}
		if c.world.local {
			m.establish(1 << 10)
		}
		if err := m.bench.Flows.Set(uint32(1 << 10)); err != nil {
			t.Fatal(err)
		}
		m.set(s)
		before := m.node.counts()[countKey{kindXDP, c.reason}]
		m.time(s, 1000)
		options := m.options
		options.DataOut = make([]byte, 512)
		if _, err := s.wrap.Run(&options); err != nil {
			t.Fatal(err)
		}
		if got := m.node.counts()[countKey{kindXDP, c.reason}].Packets - before.Packets; got != 1001 {
			t.Errorf("%s: %d packets were counted as %s, want 1001", name, got, c.reason)
		}
		// The flow's own packet, in one outer header.
		text := packet.String(options.DataOut)
		if encapsulated := strings.Contains(text, "ip2.dst"); encapsulated == c.world.local || strings.Contains(text, "ip3.dst") {
			t.Errorf("%s made\n%s", name, text)
		}
		if !c.world.local {
			continue
		}
		redirect := subject{m.node.program(kindTCOutside), m.bench.BenchWrapTc, benchACK, tcRedirect}
		m.set(redirect)
		delivered := countKey{kindTCOutside, "pod_delivered"}
		before = m.node.counts()[delivered]
		m.time(redirect, 1000)
		if got := m.node.counts()[delivered].Packets - before.Packets; got != 1000 {
			t.Errorf("%s: %d packets were redirected, want 1000", name, got)
		}
	}
}

// A flood of first packets leaves nothing behind where no slot has moved.
func TestFloodWritesNothing(t *testing.T) {
	m := newMeasurement(t)
	m.fill(benchPlain)
	if err := m.bench.Flows.Set(uint32(1 << 20)); err != nil {
		t.Fatal(err)
	}
	flood := subject{m.node.program(kindXDP), m.bench.BenchWrap, benchSYN, xdpTX}
	m.set(flood)
	m.time(flood, 1<<20)
	for _, name := range []string{"pins", "half_open", "flows", "affinity", "nat_out", "nat_in", "fragments"} {
		key, err := m.node.maps[name].NextKeyBytes(nil)
		if err != nil || key != nil {
			t.Errorf("%s has %x, %v after a flood; want nothing", name, key, err)
		}
	}
	// Where slots have moved, what is written has its own table.
	m.fill(benchWorld{backends: 100, slots: 10007, moved: 2})
	m.time(flood, 1<<16)
	if key, err := m.node.maps["pins"].NextKeyBytes(nil); err != nil || key == nil {
		t.Errorf("no pins after a flood of slots that moved: %v", err)
	}
	if key, err := m.node.maps["half_open"].NextKeyBytes(nil); err != nil || key != nil {
		t.Errorf("half_open has %x, %v", key, err)
	}
}
