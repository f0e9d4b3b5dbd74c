package bench

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -no-global-types traffic ../../bpf/traffic.c -- -O2 -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

// TCP flags of the packets.
const (
	syn = 2
	ack = 16
)

// firstClient is the address of flow 0's client. There are at most 2^20 flows.
var firstClient = netip.MustParseAddr("10.0.0.0")

// traffic is the two ends of every path: a generator of frames and what counts
// those that come out. They share a namespace and a CPU with nothing else.
type traffic struct {
	tb      testing.TB
	net     namespace
	objects trafficObjects
}

func newTraffic(tb testing.TB) *traffic {
	tb.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		tb.Skip("needs root and no -short: it loads BPF programs into network namespaces")
	}
	g := &traffic{tb: tb, net: newNamespace(tb)}
	must(tb, loadTrafficObjects(&g.objects, nil))
	tb.Cleanup(func() { g.objects.Close() })
	// Attached somewhere, or every run first puts them into the XDP dispatcher.
	for name, program := range map[string]*ebpf.Program{"send": g.objects.TrafficSend, "make": g.objects.TrafficMake} {
		g.net.do(func() {
			must(tb, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}))
			g.net.attachXDP(name, program)
		})
	}
	return g
}

// sinkXDP makes a device's frames come out in XDP, sinkTC its packets in tc.
func (g *traffic) sinkXDP(n namespace, device string) { n.attachXDP(device, g.objects.TrafficSink) }

func (g *traffic) sinkTC(n namespace, device string) {
	g.tb.Helper()
	l, err := link.AttachTCX(link.TCXOptions{Program: g.objects.TrafficSinkTc, Attach: ebpf.AttachTCXIngress, Interface: n.dev(device).Attrs().Index})
	if errors.Is(err, ebpf.ErrNotSupported) {
		g.tb.Skip("needs Linux 6.6: it counts packets in tcx")
	}
	must(g.tb, err)
	g.tb.Cleanup(func() { l.Close() })
}

// target is where packets are sent, and to whom.
type target struct {
	generator *ebpf.Program
	device    netlink.Link // of the traffic's namespace
	to        netlink.Link // its other end
	vips      netip.Addr   // the first of them
}

// set makes a target the one that is sent to.
func (g *traffic) set(to target, flows uint32) {
	g.tb.Helper()
	must(g.tb, g.objects.Flows.Set(flows))
	must(g.tb, g.objects.Clients.Set(number(firstClient)))
	must(g.tb, g.objects.Services.Set(uint32(inUse)))
	must(g.tb, g.objects.Vips.Set(number(to.vips)))
	must(g.tb, g.objects.Device.Set(uint32(to.device.Attrs().Index)))
	macs := append(append([]byte{}, to.to.Attrs().HardwareAddr...), to.device.Attrs().HardwareAddr...)
	var words [3]uint32
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(macs[4*i:])
	}
	must(g.tb, g.objects.Macs.Set(words))
}

// send sends packets of the flows in turn, and returns how many came out and the
// CPU time that all of it took. The thread is in the traffic's namespace.
func (g *traffic) send(to target, flags uint8, first, count uint32) (received uint64, took time.Duration) {
	g.tb.Helper()
	must(g.tb, g.objects.TcpFlags.Set(flags))
	must(g.tb, g.objects.Sent.Set(first))
	must(g.tb, g.objects.Received.Set(uint64(0)))
	options := ebpf.RunOptions{Data: make([]byte, frameSize), Repeat: count, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES}
	start := g.clock()
	_, err := to.generator.Run(&options)
	took = g.clock() - start
	must(g.tb, err)
	must(g.tb, g.objects.Received.Get(&received))
	return received, took
}

// frameSize is Ethernet, IPv4 and TCP without options.
const frameSize = 54

// establish opens the flows' connections: SYN, the SYN-ACK of where it comes out,
// ACK; some at a time, so that no table of half-open connections is too small.
func (g *traffic) establish(to target, flows uint32) {
	g.tb.Helper()
	const atOnce = 1 << 12
	g.set(to, flows)
	for first := uint32(0); first < flows; first += atOnce {
		count := min(flows, atOnce)
		g.send(to, syn, first, count)
		g.send(to, ack, first, count)
	}
}

// clock is the CPU time of the thread, which sends the packets, and on which the
// kernel handles them.
func (g *traffic) clock() time.Duration {
	g.tb.Helper()
	var ts unix.Timespec
	must(g.tb, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts))
	return time.Duration(ts.Nano())
}

// runAlone keeps the thread on a CPU, in the traffic's namespace, and all else from
// that CPU. The thread ends with its goroutine.
func (g *traffic) runAlone() {
	g.tb.Helper()
	runtime.LockOSThread()
	g.net.enter()
	var set unix.CPUSet
	set.Set(0)
	must(g.tb, unix.SchedSetaffinity(0, &set))
	must(g.tb, unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0))
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// plus is the address that many after a.
func plus(a netip.Addr, count uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], number(a)+count)
	return netip.AddrFrom4(b)
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
