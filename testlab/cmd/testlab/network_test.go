package main

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/traffic"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	podCtr = "webpod-697b545f57-7kq4m"
	podW1  = "webpod-697b545f57-d9xwz"
	podW0  = "webpod-697b545f57-tr2fh"
)

func mustHost(t *testing.T, l *testlab.Lab, name string) *testlab.Host {
	t.Helper()
	h, err := l.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// on runs fn in a host's namespace and ends the test if it fails.
func on(t *testing.T, h *testlab.Host, fn func() error) {
	t.Helper()
	if err := h.Do(fn); err != nil {
		t.Fatalf("on %s: %v", h.Name, err)
	}
}

// reflectedType is an EtherType for local experiments (IEEE 802), which no
// kernel answers by itself.
const reflectedType = 0x88b5

// stopReflecting takes reflectXDP's program away: two of them would send a
// frame to and fro for ever.
func stopReflecting(t *testing.T, h *testlab.Host, iface string) {
	t.Helper()
	on(t, h, func() error {
		link, err := netlink.LinkByName(iface)
		if err != nil {
			return err
		}
		return netlink.LinkSetXdpFdWithFlags(link, -1, unix.XDP_FLAGS_DRV_MODE)
	})
}

// reflectXDP makes the interface send frames of reflectedType back by XDP_TX.
func reflectXDP(t *testing.T, h *testlab.Host, iface string) {
	t.Helper()
	const pass, tx = 2, 3
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "reflect", Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, pass),
			asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
			asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, 14),
			asm.JGT.Reg(asm.R4, asm.R3, "end"),
			asm.LoadMem(asm.R5, asm.R2, 12, asm.Half),
			asm.JNE.Imm(asm.R5, int32(htons(reflectedType)), "end"),
			asm.LoadMem(asm.R4, asm.R2, 0, asm.Word), // swap the MACs
			asm.LoadMem(asm.R5, asm.R2, 4, asm.Half),
			asm.LoadMem(asm.R6, asm.R2, 6, asm.Word),
			asm.LoadMem(asm.R7, asm.R2, 10, asm.Half),
			asm.StoreMem(asm.R2, 0, asm.R6, asm.Word),
			asm.StoreMem(asm.R2, 4, asm.R7, asm.Half),
			asm.StoreMem(asm.R2, 6, asm.R4, asm.Word),
			asm.StoreMem(asm.R2, 10, asm.R5, asm.Half),
			asm.Mov.Imm(asm.R0, tx),
			asm.Return().WithSymbol("end"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	on(t, h, func() error {
		link, err := netlink.LinkByName(iface)
		if err != nil {
			return err
		}
		return netlink.LinkSetXdpFdWithFlags(link, prog.FD(), unix.XDP_FLAGS_DRV_MODE)
	})
}

func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func macOf(t *testing.T, h *testlab.Host, iface string) (mac net.HardwareAddr, index int) {
	t.Helper()
	on(t, h, func() error {
		i, err := net.InterfaceByName(iface)
		if err == nil {
			mac, index = i.HardwareAddr, i.Index
		}
		return err
	})
	return mac, index
}

// bounces sends a frame from one host to the other's MAC and says whether it
// comes back.
func bounces(t *testing.T, from *testlab.Host, fromIface string, to *testlab.Host, toIface string) bool {
	t.Helper()
	self, index := macOf(t, from, fromIface)
	peer, _ := macOf(t, to, toIface)
	var back bool
	on(t, from, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(reflectedType)))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000}); err != nil {
			return err
		}
		frame := append(append(append([]byte{}, peer...), self...), 0x88, 0xb5)
		frame = append(frame, make([]byte, 46)...)
		address := &unix.SockaddrLinklayer{Protocol: htons(reflectedType), Ifindex: index}
		if err := unix.Bind(fd, address); err != nil {
			return err
		}
		if err := unix.Sendto(fd, frame, 0, address); err != nil {
			return err
		}
		buf := make([]byte, 2000)
		for {
			n, err := unix.Read(fd, buf)
			if errors.Is(err, unix.EAGAIN) {
				return nil
			}
			if err != nil {
				return err
			}
			if n >= 14 && string(buf[:6]) == string(self) && string(buf[6:12]) == string(peer) {
				back = true
				return nil
			}
		}
	})
	return back
}

// TestXDPTransmitsThroughTheWire: a program on any host's veth can XDP_TX.
func TestXDPTransmitsThroughTheWire(t *testing.T) {
	needRoot(t)
	l := upForTest(t)
	router, node := mustHost(t, l, "router"), mustHost(t, l, "k8s-ctr")
	if bounces(t, node, "eth1", router, "eth1") {
		t.Fatal("a frame came back with no program there to send it")
	}
	reflectXDP(t, router, "eth1")
	if !bounces(t, node, "eth1", router, "eth1") {
		t.Error("k8s-ctr → router: XDP_TX's frame did not come back")
	}
	stopReflecting(t, router, "eth1")
	reflectXDP(t, node, "eth1")
	if !bounces(t, router, "eth1", node, "eth1") {
		t.Error("router → k8s-ctr: XDP_TX's frame did not come back")
	}
	// Also on a host that was booted again.
	if err := l.PowerOff("k8s-ctr"); err != nil {
		t.Fatal(err)
	}
	if err := l.PowerOn(t.Context(), "k8s-ctr"); err != nil {
		t.Fatal(err)
	}
	if node = mustHost(t, l, "k8s-ctr"); bounces(t, router, "eth1", node, "eth1") {
		t.Error("the program outlived its host's power")
	}
	reflectXDP(t, node, "eth1")
	if !bounces(t, router, "eth1", node, "eth1") {
		t.Error("router → k8s-ctr after a boot: XDP_TX's frame did not come back")
	}
}

// TestMACsSurviveABoot, and differ between hosts.
func TestMACsSurviveABoot(t *testing.T) {
	needRoot(t)
	l := upForTest(t)
	before, _ := macOf(t, mustHost(t, l, "k8s-w1"), "eth1")
	other, _ := macOf(t, mustHost(t, l, "k8s-ctr"), "eth1")
	if err := l.PowerOff("k8s-w1"); err != nil {
		t.Fatal(err)
	}
	if err := l.PowerOn(t.Context(), "k8s-w1"); err != nil {
		t.Fatal(err)
	}
	after, _ := macOf(t, mustHost(t, l, "k8s-w1"), "eth1")
	if before.String() != after.String() || before.String() == other.String() {
		t.Errorf("k8s-w1 had MAC %s, has %s; k8s-ctr has %s", before, after, other)
	}
}

// TestLargeSegmentsCrossTheLab: with checksum and segmentation offload off a
// large transfer must still arrive whole, both ways.
func TestLargeSegmentsCrossTheLab(t *testing.T) {
	needRoot(t)
	l := upForTest(t)
	from, to := mustHost(t, l, podCtr), mustHost(t, l, podW0)
	var listener net.Listener
	on(t, to, func() (err error) {
		listener, err = net.Listen("tcp", "172.20.2.2:7")
		return err
	})
	defer listener.Close()
	const size = 4 << 20
	got := make(chan int, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			got <- -1
			return
		}
		defer conn.Close()
		total, buf := 0, make([]byte, 1<<16)
		for {
			n, err := conn.Read(buf)
			total += n
			if err != nil {
				got <- total
				return
			}
		}
	}()
	var conn net.Conn
	on(t, from, func() (err error) {
		conn, err = net.DialTimeout("tcp", "172.20.2.2:7", 20*time.Second)
		return err
	})
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if n := <-got; n != size {
		t.Errorf("%d of %d bytes arrived", n, size)
	}
}

func TestStreamsSeeAPowerCut(t *testing.T) {
	needRoot(t)
	l := upForTest(t)
	router := mustHost(t, l, "router")
	streams := map[string]*traffic.Streams{}
	for pod, address := range map[string]string{podCtr: "172.20.0.2:80", podW1: "172.20.1.2:80"} {
		s, err := traffic.OpenStreams(t.Context(), router, netip.MustParseAddrPort(address), 5, 5*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		streams[pod] = s
	}
	awaitLines := func(s *traffic.Streams, lines int) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			all := true
			for _, c := range s.Result().Streams {
				all = all && c.Lines >= lines
			}
			if all {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("less than %d lines on some connection after 10 s: %v", lines, s.Result())
			}
		}
	}
	awaitLines(streams[podCtr], 10)
	awaitLines(streams[podW1], 10)
	if err := l.PowerOff("k8s-w1"); err != nil {
		t.Fatal(err)
	}
	lines := streams[podCtr].Result().Streams[0].Lines
	awaitLines(streams[podCtr], lines+200) // 1 s
	alive, dead := streams[podCtr].Result(), streams[podW1].Result()
	if len(alive.Streams) != 5 || len(alive.Broken()) != 0 || len(alive.On(podCtr).Streams) != 5 {
		t.Errorf("connections to the node that has power: %v", alive)
	}
	if n := len(dead.Stalled(500 * time.Millisecond)); n != 5 {
		t.Errorf("%d of 5 connections to the dead node stalled: %v", n, dead)
	}
	if len(dead.Broken()) != 0 {
		t.Errorf("a dead machine closed connections: %v", dead)
	}
	// A server that is killed resets or closes what it had.
	if err := exitOf(t, l, podCtr); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); len(streams[podCtr].Result().Broken()) < 5; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the server was killed, and connections live on: %v", streams[podCtr].Result())
		}
	}
}

// exitOf ends a pod's server.
func exitOf(t *testing.T, l *testlab.Lab, pod string) error {
	t.Helper()
	return mustHost(t, l, pod).Command(t.Context(), "sh", "-c",
		`for p in /proc/[0-9]*; do [ "$(readlink $p/ns/net)" = "$(readlink /proc/self/ns/net)" ] && [ "${p#/proc/}" != $$ ] &&
		grep -qz webpod $p/cmdline 2>/dev/null && kill -9 "${p#/proc/}"; done; exit 0`).Run()
}

func TestProbesMeasureAnOutage(t *testing.T) {
	needRoot(t)
	l := upForTest(t)
	router := mustHost(t, l, "router")
	to := netip.MustParseAddrPort("172.20.0.2:80")
	type probe func(context.Context, traffic.Namespace, netip.AddrPort, int) (traffic.ProbeResult, error)
	for name, probe := range map[string]probe{"TCP": traffic.ProbeTCP, "UDP": traffic.ProbeUDP} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			type outcome struct {
				traffic.ProbeResult
				err error
			}
			done := make(chan outcome, 1)
			go func() {
				r, err := probe(ctx, router, to, 100)
				done <- outcome{r, err}
			}()
			// The time that passes is what is measured.
			time.Sleep(200 * time.Millisecond)
			if err := l.SetLink("k8s-ctr", "eth1", false); err != nil {
				t.Fatal(err)
			}
			time.Sleep(400 * time.Millisecond)
			if err := l.SetLink("k8s-ctr", "eth1", true); err != nil {
				t.Fatal(err)
			}
			time.Sleep(400 * time.Millisecond)
			cancel()
			r := <-done
			if r.err != nil {
				t.Fatal(r.err)
			}
			if r.Outage < 350*time.Millisecond || r.Outage > 900*time.Millisecond {
				t.Errorf("the cable was out for 400 ms: %v", r.ProbeResult)
			}
			if r.Answered < r.Sent/5 || r.Answered == r.Sent {
				t.Errorf("too many or too few answers: %v", r.ProbeResult)
			}
		})
	}
}

func TestARPWatch(t *testing.T) {
	needRoot(t)
	l := upForTest(t)
	router, ctr, w1 := mustHost(t, l, "router"), mustHost(t, l, "k8s-ctr"), mustHost(t, l, "k8s-w1")
	vip := netip.MustParseAddr("192.168.10.211")
	watch := func(d time.Duration) traffic.ARPResult {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		r, err := traffic.WatchARP(ctx, router, "eth1", vip, 10*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	address := func(h *testlab.Host, change func(netlink.Link, *netlink.Addr) error) {
		t.Helper()
		on(t, h, func() error {
			link, err := netlink.LinkByName("eth1")
			if err != nil {
				return err
			}
			return change(link, &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(32, 32)}})
		})
	}
	const span = 200 * time.Millisecond
	if r := watch(span); len(r.Holders) != 0 || r.Requests < 5 || r.Silence < span*9/10 {
		t.Errorf("nobody has the address: %v", r)
	}
	ctrMAC, _ := macOf(t, ctr, "eth1")
	w1MAC, _ := macOf(t, w1, "eth1")

	address(ctr, netlink.AddrAdd)
	if r := watch(span); len(r.Holders) != 1 || r.Holders[0].MAC != ctrMAC.String() || len(r.Doubles) != 0 || r.Holders[0].Replies < r.Requests/2 {
		t.Errorf("k8s-ctr (%s) has the address: %v", ctrMAC, r)
	}
	address(w1, netlink.AddrAdd)
	if r := watch(span); len(r.Doubles) < r.Requests/2 {
		t.Errorf("two have the address: %v", r)
	}
	address(ctr, netlink.AddrDel)
	if r := watch(span); len(r.Holders) != 1 || r.Holders[0].MAC != w1MAC.String() || len(r.Doubles) != 0 {
		t.Errorf("k8s-w1 (%s) has the address: %v", w1MAC, r)
	}
}

// TestDoComesBack: after Do the test is where it was.
func TestDoComesBack(t *testing.T) {
	needRoot(t)
	l := upForTest(t)
	where := func() string {
		link, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	before := where()
	var inside string
	failure := errors.New("no luck")
	if err := mustHost(t, l, "router").Do(func() error { inside = where(); return failure }); !errors.Is(err, failure) {
		t.Errorf("Do returned %v", err)
	}
	if inside == before {
		t.Error("Do did not run in the host's namespace")
	}
	if after := where(); after != before {
		t.Errorf("Do came back to %s instead of %s", after, before)
	}
}
